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


class Stage(enum.StrEnum):
    """Parts of a change's way whose time is told apart."""

    INGEST = "ingest"
    """Decoding a batch: nobody's family."""
    WAIT = "wait"
    """From the arrival of the first change that the family's rules lack to the beginning of the family's sync."""
    OBSERVE = "observe"
    """Reading the kernel's rules back."""
    PLAN = "plan"
    RESTORE = "restore"
    """From the first transaction, or the first tool's start, to the end."""
    COMMIT = "commit"
