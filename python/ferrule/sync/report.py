"""The changes that a source passes to the sync loop, and the loop's report on each sync."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ferrule._engine import ConntrackView, DriftReport, HealthCheck, OwnNode, Plan, ProblemChanges
from ferrule.errors import DataplaneError
from ferrule.types import Family, Kind, Stage


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes from a source of cluster state. Lists replace the previous ones."""

    lists: Mapping[Kind, bytes]
    """A JSON array per kind; unchanged kinds are omitted."""
    changed_at: float | None = None
    """Wall-clock time of the newest change in it, if the source knows it."""


@dataclass(slots=True)
class SyncReport:
    """The report on one sync. Times are those of the loop's monotonic clock."""

    seconds: float = 0.0
    family_seconds: dict[Family, float] = field(default_factory=dict)
    """Seconds of observing, planning, writing and confirming, by family."""
    stages: dict[tuple[Stage, Family | None], float] = field(default_factory=dict)
    """Seconds by stage; applying lists belongs to no family: None."""
    change_seconds: dict[Family, float] = field(default_factory=dict)
    """Seconds from the arrival of the first change to its confirmation, if a plan was committed."""
    drift: dict[Family, DriftReport] = field(default_factory=dict)
    """Families whose state was read back."""
    plans: dict[Family, Plan] = field(default_factory=dict)
    """Committed plans; a family without changes has none."""
    stages_before: list[Plan] = field(default_factory=list)
    """Committed first stages, which other plans of the same family followed."""
    unwritten: dict[Family, Plan] = field(default_factory=dict)
    """Abandoned plans."""
    views: dict[Family, ConntrackView | None] = field(default_factory=dict)
    """For families that did not fail: the view for stale flows, if it changed."""
    problems: ProblemChanges | None = None
    """What changed of the complaints about cluster objects since the last sync."""
    health_checks: list[HealthCheck] = field(default_factory=list)
    """Every Service's healthCheckNodePort."""
    own_node: OwnNode | None = None
    """The node's own Node object, if there is one."""
    failures: dict[Family, DataplaneError] = field(default_factory=dict)
    changed_at: float | None = None
    triggers: list[str] = field(default_factory=list)
    """Times of the endpoint changes in this sync, as annotated by their controller (RFC 3339)."""

    @property
    def ok(self) -> bool:
        """Whether the kernel has everything."""
        return not self.failures
