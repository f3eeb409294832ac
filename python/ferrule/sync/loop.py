"""The one owner of the engine: takes over changes, plans, writes, confirms.

For each family of addresses a sync is: observe the kernel if its state is in doubt, plan, restore, commit. A family
that fails is abandoned and observed again before its next plan; the other family is not held up by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ferrule._engine import Engine, Plan
from ferrule.errors import DataplaneError
from ferrule.observe.logs import kv
from ferrule.types import Family, Kind

if TYPE_CHECKING:
    from ferrule.dataplane.iptables import Dataplane
    from ferrule.sync.cadence import Cadence

log = logging.getLogger(__name__)


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
    plans: dict[Family, Plan] = field(default_factory=dict)
    """Committed plans; a family that needed nothing has none."""
    failures: dict[Family, DataplaneError] = field(default_factory=dict)
    changed_at: float | None = None

    @property
    def ok(self) -> bool:
        """Everything asked for is in the kernel."""
        return not self.failures


class SyncLoop:
    """Owns the engine. `submit`, `recheck` and `set_local_addresses` come from other tasks of the same event loop."""

    def __init__(
        self,
        engine: Engine,
        dataplanes: Sequence[Dataplane],
        cadence: Cadence,
        *,
        clock: Callable[[], float],
        on_sync: Callable[[SyncReport], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._dataplanes = tuple(dataplanes)
        self._cadence = cadence
        self._clock = clock
        self._on_sync = on_sync
        self._wake = asyncio.Event()
        self._lists: dict[Kind, bytes] = {}
        self._changed_at: float | None = None
        self._addresses: tuple[str, ...] | None = None
        self._in_doubt: set[Family] = {plane.family for plane in self._dataplanes}

    def submit(self, changes: Changes) -> None:
        """Take over changes; they are applied by the next sync."""
        self._lists.update(changes.lists)
        if changes.changed_at is not None:
            self._changed_at = max(self._changed_at or 0.0, changes.changed_at)
        self._request()

    def set_local_addresses(self, addresses: Sequence[str]) -> None:
        """The host's own addresses are these now."""
        self._addresses = tuple(addresses)
        self._request()

    def recheck(self, family: Family) -> None:
        """The kernel's state is in doubt: read it back before the next plan."""
        self._in_doubt.add(family)
        self._request()

    def _request(self) -> None:
        self._cadence.request()
        self._wake.set()

    async def run(self) -> None:
        """Sync whenever the cadence says so, for ever."""
        while True:
            self._wake.clear()
            due = self._cadence.due_at()
            wait = None if due is None else due - self._clock()
            if wait is None or wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait)
                continue
            await self.sync()

    async def sync(self) -> SyncReport:
        """One sync, now."""
        started = self._clock()
        self._cadence.started()
        report = SyncReport(changed_at=self._changed_at)
        self._changed_at = None
        await self._ingest()
        for plane in self._dataplanes:
            try:
                plan = await self._sync_family(plane)
            except DataplaneError as error:
                report.failures[plane.family] = error
            else:
                if plan is not None:
                    report.plans[plane.family] = plan
        ended = self._clock()
        report.seconds = ended - started
        if report.ok:
            self._cadence.succeeded(ended)
        else:
            delay = self._cadence.failed(ended)
            for family, failure in report.failures.items():
                log.error("Sync failed", extra=kv(ipFamily=family, retryIn=f"{delay:.1f}s", err=str(failure)))
        self._on_sync(report)
        return report

    async def _ingest(self) -> None:
        addresses, self._addresses = self._addresses, None
        if addresses is not None:
            self._engine.set_local_addresses(addresses)
        lists, self._lists = self._lists, {}
        for kind, page in lists.items():
            # In a thread: a list of thousands of objects must not hold up the event loop.
            await asyncio.to_thread(self._engine.replace, kind, [page])

    async def _sync_family(self, plane: Dataplane) -> Plan | None:
        family = plane.family
        if family in self._in_doubt:
            saved = await plane.save()
            drift = await asyncio.to_thread(self._engine.observe, family, saved)
            self._in_doubt.discard(family)
            differing = (*drift.differing, *drift.missing, *drift.hooks_missing)
            if differing:
                log.warning("Rules were changed behind our back", extra=kv(ipFamily=family, chains=list(differing)))
            if drift.held:
                log.warning(
                    "Stale chains stay: foreign rules use them", extra=kv(ipFamily=family, chains=list(drift.held))
                )
        plan = await asyncio.to_thread(self._engine.plan, family)
        if plan is None:
            return None
        try:
            await plane.restore(plan.payload)
        except BaseException:
            # Cancelled, too: whatever the reason, nobody knows what the kernel took over.
            self._engine.abandon(plan)
            self._in_doubt.add(family)
            raise
        self._engine.commit(plan)
        return plan
