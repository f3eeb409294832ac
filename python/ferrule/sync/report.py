"""What a source hands to the sync loop, and what the loop says of each sync."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ferrule._engine import ConntrackView, DriftReport, Plan
from ferrule.errors import DataplaneError
from ferrule.types import Family, Kind, Stage


@dataclass(frozen=True, slots=True)
class Changes:
    """What a source of cluster state hands over. Lists replace what was there before."""

    lists: Mapping[Kind, bytes]
    """A JSON array a kind; kinds that did not change are left out."""
    changed_at: float | None = None
    """Wall-clock seconds of the newest change in it, where the source knows."""


@dataclass(slots=True)
class SyncReport:
    """What one sync did. Seconds are of the loop's monotonic clock."""

    seconds: float = 0.0
    family_seconds: dict[Family, float] = field(default_factory=dict)
    """Observing, planning, writing and confirming, by family."""
    stages: dict[tuple[Stage, Family | None], float] = field(default_factory=dict)
    """Taking over lists is nobody's part: family None."""
    change_seconds: dict[Family, float] = field(default_factory=dict)
    """From the arrival of the first change in it to its confirmation, where a plan was committed."""
    drift: dict[Family, DriftReport] = field(default_factory=dict)
    """Families whose kernel state was read back."""
    plans: dict[Family, Plan] = field(default_factory=dict)
    """Committed plans; a family that needed nothing has none."""
    stages_before: list[Plan] = field(default_factory=list)
    """Committed plans that others of the same family had to follow."""
    unwritten: dict[Family, Plan] = field(default_factory=dict)
    """Abandoned plans."""
    views: dict[Family, ConntrackView | None] = field(default_factory=dict)
    """For families that did not fail: what a tracked UDP flow must not contradict, where that changed."""
    failures: dict[Family, DataplaneError] = field(default_factory=dict)
    changed_at: float | None = None
    triggers: list[str] = field(default_factory=list)
    """When the endpoint changes in this sync happened, as their controller annotated it (RFC 3339)."""

    @property
    def ok(self) -> bool:
        """Everything asked for is in the kernel."""
        return not self.failures
