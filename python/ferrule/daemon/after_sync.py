"""The effects of a sync outside of the rules: log, metrics, health, kernel settings.

The sync loop calls `after_sync` after each sync. It must not delay the loop, so long work runs as a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from ferrule._engine import Plan
from ferrule.host.probe import Host
from ferrule.host.sysctl import ROUTE_LOCALNET
from ferrule.observe.health import FIRST_SYNC, Subsystem
from ferrule.observe.logs import kv
from ferrule.observe.status import Status
from ferrule.source.problems import ProblemBook
from ferrule.sync.report import SyncReport
from ferrule.types import Family

log = logging.getLogger(__name__)

TABLES = ("filter", "nat", "mangle")
"""Tables in the engine's order."""

INLINE_TRIGGERS = 500
"""Number of trigger times that are measured on the event loop: some three milliseconds."""

PROGRAMMING = "network programming latency"
"""The label of the failure counter."""

NAMES_LIMIT = 1000
"""Maximum number of chain names in a log line. A start over a large cluster would otherwise log megabytes."""


class AfterSync:
    """Reports each sync. One instance per daemon. `on_synced` is called last."""

    def __init__(
        self,
        host: Host,
        problems: ProblemBook,
        status: Status,
        on_synced: Callable[[SyncReport], None] = lambda _: None,
    ) -> None:
        self._host = host
        self._problems = problems
        self._metrics = status.metrics
        self._health = status.health
        self._readiness = status.readiness
        self._on_synced = on_synced
        self._complete: set[Family] = set()
        self._no_node_ports: set[Family] = set()

    @property
    def complete(self) -> frozenset[Family]:
        """Families that were completely in the kernel at least once."""
        return frozenset(self._complete)

    def requested(self) -> None:
        """Records a change that is not in the kernel yet."""
        now = time.time()
        for family in self._host.families:
            self._health.queued(family)
            self._metrics.queued(family, now)

    def after_sync(self, report: SyncReport, *, pending: bool) -> None:
        """Reports a sync. `pending`: more changes arrived during it."""
        done_at = time.time()
        done = frozenset(self._host.families) - report.failures.keys()
        for family in sorted(done - self._complete - report.plans.keys()):
            log.info("Synced: no change needed", extra=kv(ipFamily=family))
        self._complete |= done
        self._measure(report, done_at)
        for family in done:
            self._health.updated(family)
            self._readiness.release(FIRST_SYNC[family])
            if pending:
                self._health.queued(family)
        for plan in (*report.stages_before, *report.plans.values()):
            self._metrics.written(
                plan.family, octets=plan.payload_size, chains=plan.written_count, deleted=plan.deleted_count
            )
            if plan.netlink:
                self._metrics.transactions(plan.family, plan.blocks)
        for family, plan in report.plans.items():
            self._log_sync(family, plan, report)
        if report.problems is not None:
            self._problems.objects(report.problems)
        self._metrics.problems(self._problems.count)
        failures = "; ".join(f"{family}: {error}" for family, error in sorted(report.failures.items()))
        self._readiness.report(Subsystem.SERVICES, f"the last sync failed: {failures}" if failures else None)
        self._kernel_settings()
        self._on_synced(report)

    def _measure(self, report: SyncReport, done_at: float) -> None:
        metrics = self._metrics
        metrics.changes_taken()
        services, slices = self._host.engine.counts()
        metrics.objects("Service", services)
        metrics.objects("EndpointSlice", slices)
        for (stage, of), seconds in report.stages.items():
            metrics.stage(stage, seconds, of)
        for family, seconds in report.change_seconds.items():
            metrics.change_confirmed(family, seconds)
        for family, seconds in report.family_seconds.items():
            plan = report.plans.get(family)
            if family in report.failures:
                unwritten = report.unwritten.get(family)
                if unwritten is not None and unwritten.netlink:
                    metrics.transactions(family, refused=True)
                metrics.restore_failed(family, seconds, partial=unwritten is not None and not unwritten.full)
                continue
            metrics.synced(family, seconds, full=plan is not None and plan.full, at=done_at)
            facts = self._host.engine.facts(family)
            written = plan.rules_by_table if plan is not None else (0, 0, 0)
            for table, total, part in zip(TABLES, facts.rules, written, strict=True):
                metrics.rules(family, table, total=total, written=part)
            self._check_node_ports(family, facts.node_port_addresses)
            metrics.no_local_endpoints(family, internal=facts.no_local_internal, external=facts.no_local_external)
            self.measure_programming(family, report.triggers, done_at)
        for family, drift in report.drift.items():
            metrics.audited(family, drift.repaired)

    def measure_programming(self, family: Family, triggers: Sequence[str], done_at: float) -> None:
        """Records the latency of each change that the sync wrote."""
        if len(triggers) <= INLINE_TRIGGERS:
            self._programmed(family, triggers, done_at)
            return
        # A change of every endpoint has one time per slice.
        loop = asyncio.get_running_loop()
        measuring = loop.run_in_executor(None, self._programmed, family, triggers, done_at)
        measuring.add_done_callback(self._measured)

    def _check_node_ports(self, family: Family, addresses: int | None) -> None:
        """Warns when nodePortAddresses begin to select nothing: no rule would show why node ports do not answer."""
        if addresses == 0 and family not in self._no_node_ports:
            self._no_node_ports.add(family)
            log.warning(
                "nodePortAddresses select no address of this host, so node ports do not answer",
                extra=kv(ipFamily=family),
            )
        elif addresses != 0 and family in self._no_node_ports:
            self._no_node_ports.discard(family)
            log.info("nodePortAddresses select an address of this host again", extra=kv(ipFamily=family))

    def _programmed(self, family: Family, triggers: Sequence[str], done_at: float) -> None:
        for trigger, count in Counter(triggers).items():
            at = _timestamp(trigger)
            for _ in range(count if at is not None else 0):
                self._metrics.network_programmed(family, at or 0.0, done_at)

    def _measured(self, measuring: asyncio.Future[None]) -> None:
        error = None if measuring.cancelled() else measuring.exception()
        if error is not None:
            self._metrics.background_failed(PROGRAMMING)
            log.error("Changes not measured", exc_info=error, extra=kv(metric=PROGRAMMING))

    def _log_sync(self, family: Family, plan: Plan, report: SyncReport) -> None:
        since = None if report.changed_at is None else round((time.time() - report.changed_at) * 1000, 1)
        log.info(
            "Synced",
            extra=kv(
                ipFamily=family,
                chainsWritten=plan.written_count,
                chainsDeleted=plan.deleted_count,
                rules=plan.rules_written,
                bytes=plan.payload_size,
                blocks=plan.blocks,
                ms=round(report.seconds * 1000, 1),
                msSinceChange=since,
            ),
        )
        if log.isEnabledFor(logging.DEBUG) and plan.written_count + plan.deleted_count <= NAMES_LIMIT:
            log.debug(
                "Chains",
                extra=kv(ipFamily=family, written=list(plan.chains_written), deleted=list(plan.chains_deleted)),
            )

    def _kernel_settings(self) -> None:
        # Only once the rule in KUBE-FIREWALL exists: before that, another host could reach 127.0.0.1 (CVE-2020-8558).
        if "ipv4" in self._complete and self._host.engine.localhost_node_ports():
            fault = self._host.sysctls.ensure(ROUTE_LOCALNET, 1)
            if fault is not None:
                log.warning("Kernel setting", extra=kv(reason=fault))


def _timestamp(rfc3339: str) -> float | None:
    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except ValueError:
        return None
