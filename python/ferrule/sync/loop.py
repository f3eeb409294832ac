"""The sync loop, the only owner of the engine: applies changes, plans, writes, confirms.

For each address family a sync observes the kernel if its state is unknown, plans, restores and commits. The plan of a
family that fails is abandoned, and the family is observed before its next plan; the other family is not delayed. The
rest after a first stage is written after the other family's turn, so that the first Services of neither family wait for
a long write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ferrule._engine import Engine, Plan, UnusableRules
from ferrule.errors import DataplaneError, FailureKind
from ferrule.observe.logs import kv, verbose
from ferrule.sync.report import Changes, SyncReport
from ferrule.types import Family, Kind, Stage

if TYPE_CHECKING:
    from ferrule.dataplane.iptables import Dataplane
    from ferrule.sync.cadence import Cadence

log = logging.getLogger(__name__)

INLINE_BYTES = 256 * 1024
"""Bytes of text up to which a plan is confirmed or abandoned on the event loop: half a millisecond at most."""

NAMED_CHAINS = 20
"""Maximum number of chains in a log line about foreign changes."""
EXPLAINED = verbose(4)
"""Level of the log line about the split of each plan."""


class SyncLoop:
    """Owns the engine. Other tasks of the same event loop call `submit`, `recheck` and `set_local_addresses`."""

    def __init__(
        self,
        engine: Engine,
        dataplanes: Sequence[Dataplane],
        cadence: Cadence,
        *,
        clock: Callable[[], float],
        on_sync: Callable[[SyncReport], None] = lambda _: None,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._dataplanes = tuple(dataplanes)
        self._cadence = cadence
        self._clock = clock
        self._on_sync = on_sync
        self._on_request = on_request
        self._wake = asyncio.Event()
        self._opened = asyncio.Event()
        self.engine_lock = asyncio.Lock()
        """Held during every call to the engine: a watch event must not change the state of a running plan. Not held
        during a restore, so that changes are still accepted."""
        self._lists: dict[Kind, bytes] = {}
        self._changed_at: float | None = None
        self._addresses: tuple[str, ...] | None = None
        self._arrived: dict[Family, float] = {}
        self._held: dict[Family, Mapping[str, str]] = {}
        self._in_doubt: set[Family] = {plane.family for plane in self._dataplanes}

    def submit(self, changes: Changes) -> None:
        """Accepts changes, which the next sync applies."""
        self._lists.update(changes.lists)
        if changes.changed_at is not None:
            self._changed_at = max(self._changed_at or 0.0, changes.changed_at)
        self.open()
        self.changed()

    def open(self) -> None:
        """Allows syncs, because every kind is listed. `submit` implies it."""
        self._opened.set()

    def set_local_addresses(self, addresses: Sequence[str]) -> None:
        """Sets the host's own addresses."""
        self._addresses = tuple(addresses)
        self.changed()

    def recheck(self, family: Family) -> None:
        """Marks the kernel's state as unknown: it is read back before the next plan."""
        self._in_doubt.add(family)
        self._request()

    @property
    def pending(self) -> bool:
        """Whether a change is not in the kernel yet."""
        return self._cadence.due_at() is not None

    def changed(self, arrived_at: float | None = None) -> None:
        """Records a change that is not in the kernel yet; it arrived now, or at `arrived_at` of the loop's clock."""
        at = self._clock() if arrived_at is None else arrived_at
        for plane in self._dataplanes:
            self._lacks(plane.family, at)
        self._request()

    def _lacks(self, family: Family, since: float) -> None:
        self._arrived[family] = min(since, self._arrived.get(family, since))

    def _request(self) -> None:
        self._cadence.request()
        self._on_request()
        self._wake.set()

    async def run(self) -> None:
        """Syncs whenever the cadence requires it, for ever; not before `open`."""
        await self._opened.wait()
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
        """Performs one sync immediately."""
        started = self._clock()
        self._cadence.started()
        report = SyncReport(changed_at=self._changed_at)
        self._changed_at = None
        async with self.engine_lock:
            await self._ingest(report)
            report.triggers = self._engine.take_change_triggers()
        turns = deque(self._dataplanes)
        while turns:
            plane = turns.popleft()
            begun = self._clock()
            try:
                plan = await self._sync_family(plane, report, begun)
            except DataplaneError as error:
                report.failures[plane.family] = error
            else:
                if plan is not None and plan.more:
                    report.stages_before.append(plan)
                    turns.append(plane)
                    log.info("First Services written", extra=kv(ipFamily=plane.family, rules=plan.rules_written))
                elif plan is not None:
                    report.plans[plane.family] = plan
            seconds = report.family_seconds.get(plane.family, 0.0) + self._clock() - begun
            report.family_seconds[plane.family] = seconds
        ended = self._clock()
        report.seconds = ended - started
        if report.ok:
            self._cadence.succeeded(ended)
        else:
            delay = self._cadence.failed(ended)
            for family, failure in report.failures.items():
                log.error("Sync failed", extra=kv(ipFamily=family, retryIn=f"{delay:.1f}s", err=str(failure)))
        async with self.engine_lock:
            await asyncio.to_thread(self._conclude, report)
            self._on_sync(report)
        return report

    async def _ingest(self, report: SyncReport) -> None:
        addresses, self._addresses = self._addresses, None
        if addresses is not None:
            self._engine.set_local_addresses(addresses)
        lists, self._lists = self._lists, {}
        for kind, page in lists.items():
            # In a thread, because a list of thousands of objects would block the event loop.
            with self._timed(report, Stage.INGEST, None):
                await asyncio.to_thread(self._engine.replace, kind, [page])

    def _conclude(self, report: SyncReport) -> None:
        """Runs in a thread: costs grow with what changed, which is not known beforehand."""
        families = (plane.family for plane in self._dataplanes)
        done = (family for family in families if family not in report.failures)
        report.views = {family: self._engine.conntrack_view(family) for family in done}
        report.problems = self._engine.take_problem_changes()
        report.health_checks = self._engine.health_checks()
        report.own_node = self._engine.own_node()

    @contextlib.contextmanager
    def _timed(self, report: SyncReport, stage: Stage, family: Family | None) -> Iterator[None]:
        begun, key = self._clock(), (stage, family)
        try:
            yield
        finally:
            report.stages[key] = report.stages.get(key, 0.0) + self._clock() - begun

    async def _sync_family(self, plane: Dataplane, report: SyncReport, begun: float) -> Plan | None:
        family = plane.family
        if family in self._in_doubt:
            await self._observe(plane, report)
        async with self.engine_lock:
            # Later changes are not in the plan: this task holds the lock.
            arrived = self._arrived.pop(family, None)
            with self._timed(report, Stage.PLAN, family):
                plan = await asyncio.to_thread(self._engine.plan, family, netlink=plane.by_netlink)
            held = dict(self._engine.facts(family).held)
        if plan is None:
            self._log_held(family, held)
            return None
        if arrived is not None:
            report.stages.setdefault((Stage.WAIT, family), max(0.0, begun - arrived))
        _explain(plan)
        try:
            with self._timed(report, Stage.RESTORE, family):
                await plane.write(plan)
        except BaseException:
            # On cancellation, too: it is unknown what the kernel applied.
            report.unwritten[family] = plan
            self._in_doubt.add(family)
            if arrived is not None:
                self._lacks(family, arrived)
            async with self.engine_lock:
                await _settle(self._engine.abandon, plan)
            raise
        async with self.engine_lock:
            with self._timed(report, Stage.COMMIT, family):
                await _settle(self._engine.commit, plan)
        self._log_held(family, held)
        if arrived is not None and plan.more:
            self._lacks(family, arrived)
        elif arrived is not None:
            report.change_seconds[family] = self._clock() - arrived
        return plan

    async def _observe(self, plane: Dataplane, report: SyncReport) -> None:
        family = plane.family
        with self._timed(report, Stage.OBSERVE, family):
            async with self.engine_lock:
                reader = self._engine.rule_reader(family)
            seen = await plane.read_back(reader)
            async with self.engine_lock:
                try:
                    drift = await asyncio.to_thread(self._engine.observe, family, seen)
                except UnusableRules as error:
                    raise DataplaneError(FailureKind.CONTENT, ("read-back",), stderr=str(error)) from error
        self._in_doubt.discard(family)
        report.drift[family] = drift
        if drift.repaired:
            chains = list(drift.first_repaired(NAMED_CHAINS))
            log.warning(
                "Rules modified by another process", extra=kv(ipFamily=family, count=drift.repaired, chains=chains)
            )

    def _log_held(self, family: Family, held: Mapping[str, str]) -> None:
        """Logs each chain that a foreign rule keeps from deletion once, until the rule is gone."""
        before, self._held[family] = self._held.get(family, {}), held
        for chain, by in held.items():
            if chain not in before:
                log.warning(
                    "Stale chain emptied but not deleted: a foreign rule references it",
                    extra=kv(ipFamily=family, chain=chain, foreignChain=by, retry="when the foreign rule is gone"),
                )


async def _settle(call: Callable[[Plan], None], plan: Plan) -> None:
    """Calls `commit` or `abandon`, whose time is proportional to the chains."""
    if plan.payload_size <= INLINE_BYTES:
        call(plan)
    else:
        await asyncio.to_thread(call, plan)


def _explain(plan: Plan) -> None:
    """Logs how the text is split, and why."""
    if not log.isEnabledFor(EXPLAINED):
        return
    phases = {
        name: f"blocks {blocks}, chains {chains}, rules {rules}, bytes {octets}"
        for name, blocks, chains, rules, octets in plan.phases
    }
    log.log(
        EXPLAINED,
        "Plan",
        extra=kv(ipFamily=plan.family, strategy=plan.strategy, blocks=plan.blocks, more=plan.more, phases=phases),
    )
