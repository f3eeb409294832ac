"""Types that all layers share. Data only."""

from __future__ import annotations

import enum
from typing import Literal

Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")

Kind = Literal["Service", "EndpointSlice", "Node"]
KINDS: tuple[Kind, Kind, Kind] = ("Service", "EndpointSlice", "Node")


class Backend(enum.Enum):
    """The iptables backend. Only one is used: two active rule sets shadow each other."""

    NFT = "nft"
    LEGACY = "legacy"


class Stage(enum.StrEnum):
    """The stages of a change whose duration is measured separately."""

    INGEST = "ingest"
    """Decoding a batch; belongs to no family."""
    WAIT = "wait"
    """From the arrival of the first change that is not in the family's rules to the start of the family's sync."""
    OBSERVE = "observe"
    """Reading the kernel's rules back."""
    PLAN = "plan"
    RESTORE = "restore"
    """From the first transaction, or the first tool's start, to the end."""
    COMMIT = "commit"
