"""What ferrule counts. Callers name facts; names and label values are decided here, in one place.

What kube-proxy exports keeps its meaning, so that dashboards and alerts go on working; what only ferrule can say is
called `ferrule_*`. `families.py` declares them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from ferrule.observe.collectors import PacketCounter, ProcessExtras
from ferrule.observe.families import BuildFamilies, ClientFamilies, OwnFamilies, StockFamilies
from ferrule.observe.health import FAMILY_NAMES, Subsystem
from ferrule.types import FAMILIES, KINDS, Family, Kind, Stage

LAG_PERIOD = 0.25
"""Seconds between two samples of the event loop's lag. A sample of an idle process costs up to 200 µs (its caches are
cold): less than a tenth of a percent of a core."""


def _nothing() -> int | None:
    return None


class Metrics:
    """One registry and the facts that go into it. Seconds are seconds, timestamps are Unix time; may be called from any
    thread, but a scrape never calls back into the daemon except through the two counters given here."""

    def __init__(
        self,
        build: Mapping[str, str],
        *,
        families: Sequence[Family] = FAMILIES,
        invalid_dropped: Callable[[], int | None] = _nothing,
        localhost_accepted: Callable[[], int | None] = _nothing,
        started_at: float | None = None,
    ) -> None:
        """`build`: the engine's `build_info()`. `families`: those this host has; their failure counters start at 0, so
        that the first failure is a rise. The two callables read the kernel's packet counters, None when absent."""
        # prometheus_client's own switch is global; a `_created` series for each counter would double a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self.started_at = time.time() if started_at is None else started_at
        """Changes triggered before this are not ours to be measured by."""
        self._stock = StockFamilies(self.registry)
        self._client = ClientFamilies(self.registry)
        self._own = OwnFamilies(self.registry)
        self._build = BuildFamilies(self.registry, build)
        self._tool_peaks: dict[str, int] = {}
        self.registry.register(
            PacketCounter(
                "kubeproxy_iptables_ct_state_invalid_dropped_packets",
                "[ALPHA] packets dropped by iptables to work around conntrack problems",
                invalid_dropped,
            )
        )
        self.registry.register(
            PacketCounter(
                "kubeproxy_iptables_localhost_nodeports_accepted_packets",
                "[ALPHA] Number of packets accepted on nodeports of loopback interface",
                localhost_accepted,
            )
        )
        for family in families:
            for counter in (
                self._stock.restore_failures,
                self._stock.partial_failures,
                self._stock.conntrack_deleted,
                self._own.audits,
                self._own.repaired,
                self._own.bytes,
                self._own.chains_written,
                self._own.chains_deleted,
            ):
                counter.labels(FAMILY_NAMES[family])
        for kind in KINDS:
            self._own.rejected.labels(kind)
        ProcessCollector(registry=self.registry)
        self.registry.register(ProcessExtras())

    # ------------------------------------------------------------------ facts: rules

    def queued(self, family: Family, at: float) -> None:
        """A sync was asked for."""
        self._stock.queued.labels(FAMILY_NAMES[family]).set(at)

    def synced(self, family: Family, seconds: float, *, full: bool, at: float) -> None:
        """The family's rules are in the kernel; `full` when every owned chain was written."""
        self._took(family, seconds, full)
        self._stock.last.labels(FAMILY_NAMES[family]).set(at)

    def restore_failed(self, family: Family, seconds: float, *, partial: bool) -> None:
        """The kernel did not take the rules; `partial` when not all of them had been asked for."""
        self._took(family, seconds, not partial)
        self._stock.restore_failures.labels(FAMILY_NAMES[family]).inc()
        if partial:
            self._stock.partial_failures.labels(FAMILY_NAMES[family]).inc()

    def _took(self, family: Family, seconds: float, full: bool) -> None:
        label = FAMILY_NAMES[family]
        self._stock.sync.labels(label).observe(seconds)
        (self._stock.full if full else self._stock.partial).labels(label).observe(seconds)

    def written(self, family: Family, *, octets: int, chains: int, deleted: int) -> None:
        """What one restore carried."""
        label = FAMILY_NAMES[family]
        self._own.bytes.labels(label).inc(octets)
        self._own.chains_written.labels(label).inc(chains)
        self._own.chains_deleted.labels(label).inc(deleted)

    def transactions(self, family: Family, count: int = 1, *, refused: bool = False) -> None:
        """Transactions over netlink that took effect, or that the kernel did not take."""
        self._own.transactions.labels("refused" if refused else "ok", FAMILY_NAMES[family]).inc(count)

    def rules(self, family: Family, table: str, *, total: int, written: int) -> None:
        """Rules owned in a table now, and how many of them the last sync wrote."""
        self._stock.rules_total.labels(table, FAMILY_NAMES[family]).set(total)
        self._stock.rules_last.labels(table, FAMILY_NAMES[family]).set(written)

    def no_local_endpoints(self, family: Family, *, internal: int, external: int) -> None:
        """Service ports whose policy is Local and that have no endpoint here (but one elsewhere)."""
        self._stock.no_local.labels("internal", FAMILY_NAMES[family]).set(internal)
        self._stock.no_local.labels("external", FAMILY_NAMES[family]).set(external)

    def network_programmed(self, family: Family, triggered_at: float, done_at: float) -> None:
        """A change of endpoints is in the kernel.

        `triggered_at` is the slice's annotation endpoints.kubernetes.io/last-change-trigger-time. A change from before
        our start is left out: it waited for the process, not for us. Clocks of two machines disagree, so less than
        nothing counts as nothing.
        """
        if triggered_at >= self.started_at:
            self._stock.programming.labels(FAMILY_NAMES[family]).observe(max(0.0, done_at - triggered_at))

    def changes_seen(self, *, services: int = 0, endpoint_slices: int = 0) -> None:
        """Objects that changed and are not in the rules yet."""
        for what, count in (("service", services), ("endpoint", endpoint_slices)):
            if count:
                self._stock.changes[what].inc(count)
                self._stock.pending[what].inc(count)

    def changes_taken(self) -> None:
        """Every change seen so far is in the plan."""
        for gauge in self._stock.pending.values():
            gauge.set(0)

    def conntrack_cleaned(self, family: Family, seconds: float, entries: int) -> None:
        """Stale flows were looked for, and this many deleted."""
        self._stock.conntrack.labels(FAMILY_NAMES[family]).observe(seconds)
        self._stock.conntrack_deleted.labels(FAMILY_NAMES[family]).inc(entries)

    def audited(self, family: Family, repaired: int) -> None:
        """The kernel's rules were read back; this many chains were not ours any more."""
        self._own.audits.labels(FAMILY_NAMES[family]).inc()
        self._own.repaired.labels(FAMILY_NAMES[family]).inc(repaired)

    def stage(self, stage: Stage, seconds: float, family: Family | None = None) -> None:
        """One stage of one sync, or of one batch of changes; None where it is no family's."""
        self._own.stages.labels(stage.value, "" if family is None else FAMILY_NAMES[family]).observe(seconds)

    def change_confirmed(self, family: Family, seconds: float) -> None:
        """The tool said that the kernel took a sync's rules; so long ago the first change in them arrived."""
        self._own.changes.labels(FAMILY_NAMES[family]).observe(seconds)

    # ------------------------------------------------------------------ facts: cluster state

    def objects(self, kind: Kind, count: int) -> None:
        """Objects in the store."""
        self._own.objects.labels(kind).set(count)

    def rejected(self, kind: Kind, count: int) -> None:
        """Objects in one batch that could not be decoded."""
        self._own.rejected.labels(kind).inc(count)

    def problems(self, count: int) -> None:
        """Standing complaints (`Engine.problems`)."""
        self._own.problems.set(count)

    def relisted(self, kind: Kind, reason: str) -> None:
        """A list was needed again. `reason` is one of a few fixed words, never text from outside."""
        self._own.relists.labels(kind, reason).inc()

    def reconnected(self, kind: Kind, reason: str) -> None:
        """A watch was opened again. `reason` as above."""
        self._own.reconnects.labels(kind, reason).inc()

    def request(
        self, code: int | str, method: str, host: str, seconds: float, *, sent: int = 0, received: int = 0
    ) -> None:
        """One request to the API server, until its headers came; bodies in bytes. No answer: `code` is `<error>`."""
        self._client.requests.labels(str(code), method, host).inc()
        self._client.request_seconds.labels(method, host).observe(seconds)
        self._client.sent.labels(method, host).observe(sent)
        self._client.received.labels(method, host).observe(received)

    def rate_limited(self, method: str, host: str, seconds: float) -> None:
        """How long a request waited for its turn (qps and burst)."""
        self._client.rate_limited.labels(method, host).observe(seconds)

    def feature_gates(self, gates: Mapping[str, bool]) -> None:
        """Gates named in the configuration."""
        for name, enabled in gates.items():
            self._build.gates.labels(name, "").set(enabled)

    # ------------------------------------------------------------------ facts: the daemon itself

    def healthz(self, code: int) -> None:
        """/healthz was answered."""
        self._stock.healthz.labels(str(code)).inc()

    def livez(self, code: int) -> None:
        """/livez was answered."""
        self._stock.livez.labels(str(code)).inc()

    def readiness(self, reasons: Mapping[Subsystem, str]) -> None:
        """For `Readiness(on_change=…)`."""
        self._own.ready.set(not reasons)
        for subsystem in Subsystem:
            self._own.held.labels(subsystem.value).set(subsystem in reasons)

    def service_health_ports(self, *, listening: int, failed: int) -> None:
        """healthCheckNodePorts that answer in each family of their Service, and those that failed in one."""
        self._own.ports.labels("listening").set(listening)
        self._own.ports.labels("failed").set(failed)

    def tool_ran(
        self, tool: str, exit_code: int | None, *, seconds: float, cpu_seconds: float, max_rss: int | None
    ) -> None:
        """A process ended by itself, or was stopped by us (None). `max_rss` is None where it is not known to be above
        our own peak: then the gauge of the last run is absent, and that of the highest stays."""
        result = "stopped" if exit_code is None else "killed" if exit_code < 0 else "failed" if exit_code else "ok"
        self._own.tool_runs.labels(tool, result).inc()
        self._own.tool_seconds.labels(tool).observe(seconds)
        self._own.tool_cpu.labels(tool).inc(cpu_seconds)
        if max_rss is None:
            with contextlib.suppress(KeyError):
                self._own.tool_rss.remove(tool)
            return
        self._own.tool_rss.labels(tool).set(max_rss)
        self._tool_peaks[tool] = max(max_rss, self._tool_peaks.get(tool, 0))
        self._own.tool_peak.labels(tool).set(self._tool_peaks[tool])

    def background_failed(self, work: str) -> None:
        """An attempt at work beside the syncs failed. `work` is one of a few fixed words, never text from outside."""
        self._own.background_failures.labels(work).inc()

    def loop_lag(self, seconds: float) -> None:
        """The event loop woke a task this late."""
        self._own.lag.observe(seconds)


async def sample_loop_lag(metrics: Metrics, period: float = LAG_PERIOD) -> None:
    """For ever: sleep, and see how much later than asked we wake."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period
        await asyncio.sleep(period)
        metrics.loop_lag(max(0.0, loop.time() - due))
