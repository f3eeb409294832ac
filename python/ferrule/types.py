"""Names shared by every layer. Data only: nothing here opens, runs or waits for anything."""

from __future__ import annotations

import enum
from typing import Literal

Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")

Kind = Literal["Service", "EndpointSlice", "Node"]
KINDS: tuple[Kind, Kind, Kind] = ("Service", "EndpointSlice", "Node")


class Backend(enum.Enum):
    """Which half of the kernel iptables talks to. Never both: two active rule sets shadow each other."""

    NFT = "nft"
    LEGACY = "legacy"
