"""The metrics. Callers report facts; this module decides names and label values.

Metrics of kube-proxy keep their meaning, so that dashboards and alerts continue to work. All others are called
`ferrule_*`. `families.py` declares them all.
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
"""Seconds between two samples of the event loop's lag. A sample in an idle process costs up to 200 µs (its caches
are cold): less than a tenth of a percent of a core."""


def _nothing() -> int | None:
    return None


class Metrics:
    """One registry and the facts recorded in it. Durations are in seconds, timestamps in Unix time. Thread-safe. A
    scrape calls back into the daemon only through the two counters passed here."""

    def __init__(
        self,
        build: Mapping[str, str],
        *,
        families: Sequence[Family] = FAMILIES,
        invalid_dropped: Callable[[], int | None] = _nothing,
        localhost_accepted: Callable[[], int | None] = _nothing,
        started_at: float | None = None,
    ) -> None:
        """`build`: the engine's `build_info()`. `families`: those that this host supports; their failure counters
        start at 0, so that the first failure is an increase. The two callables read the kernel's packet counters,
        None when absent."""
        # prometheus_client's own switch is global; `_created` series for each counter would double the size of a
        # scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self.started_at = time.time() if started_at is None else started_at
        """Changes triggered before this time are not measured."""
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
        """Records that a sync was requested."""
        self._stock.queued.labels(FAMILY_NAMES[family]).set(at)

    def synced(self, family: Family, seconds: float, *, full: bool, at: float) -> None:
        """Records a successful sync of a family; `full` when every chain was written."""
        self._took(family, seconds, full)
        self._stock.last.labels(FAMILY_NAMES[family]).set(at)

    def restore_failed(self, family: Family, seconds: float, *, partial: bool) -> None:
        """Records a failed restore; `partial` when not all chains were in it."""
        self._took(family, seconds, not partial)
        self._stock.restore_failures.labels(FAMILY_NAMES[family]).inc()
        if partial:
            self._stock.partial_failures.labels(FAMILY_NAMES[family]).inc()

    def _took(self, family: Family, seconds: float, full: bool) -> None:
        label = FAMILY_NAMES[family]
        self._stock.sync.labels(label).observe(seconds)
        (self._stock.full if full else self._stock.partial).labels(label).observe(seconds)

    def written(self, family: Family, *, octets: int, chains: int, deleted: int) -> None:
        """Records the content of one restore."""
        label = FAMILY_NAMES[family]
        self._own.bytes.labels(label).inc(octets)
        self._own.chains_written.labels(label).inc(chains)
        self._own.chains_deleted.labels(label).inc(deleted)

    def transactions(self, family: Family, count: int = 1, *, refused: bool = False) -> None:
        """Records transactions over netlink, successful or refused."""
        self._own.transactions.labels("refused" if refused else "ok", FAMILY_NAMES[family]).inc(count)

    def rules(self, family: Family, table: str, *, total: int, written: int) -> None:
        """Records the number of rules in a table, and how many of them the last sync wrote."""
        self._stock.rules_total.labels(table, FAMILY_NAMES[family]).set(total)
        self._stock.rules_last.labels(table, FAMILY_NAMES[family]).set(written)

    def no_local_endpoints(self, family: Family, *, internal: int, external: int) -> None:
        """Records the number of service ports with policy Local whose endpoints are all on other nodes."""
        self._stock.no_local.labels("internal", FAMILY_NAMES[family]).set(internal)
        self._stock.no_local.labels("external", FAMILY_NAMES[family]).set(external)

    def network_programmed(self, family: Family, triggered_at: float, done_at: float) -> None:
        """Records that a change of endpoints is in the kernel.

        `triggered_at` is the slice's annotation endpoints.kubernetes.io/last-change-trigger-time. A change from before
        the start is ignored: it waited for the process, not for the sync. Clocks of two machines differ, so a negative
        duration counts as zero.
        """
        if triggered_at >= self.started_at:
            self._stock.programming.labels(FAMILY_NAMES[family]).observe(max(0.0, done_at - triggered_at))

    def changes_seen(self, *, services: int = 0, endpoint_slices: int = 0) -> None:
        """Records objects that changed and are not in the rules yet."""
        for what, count in (("service", services), ("endpoint", endpoint_slices)):
            if count:
                self._stock.changes[what].inc(count)
                self._stock.pending[what].inc(count)

    def changes_taken(self) -> None:
        """Records that the plan contains every change so far."""
        for gauge in self._stock.pending.values():
            gauge.set(0)

    def conntrack_cleaned(self, family: Family, seconds: float, entries: int) -> None:
        """Records a conntrack pass with the number of deleted entries."""
        self._stock.conntrack.labels(FAMILY_NAMES[family]).observe(seconds)
        self._stock.conntrack_deleted.labels(FAMILY_NAMES[family]).inc(entries)

    def audited(self, family: Family, repaired: int) -> None:
        """Records a read-back with the number of chains that differed."""
        self._own.audits.labels(FAMILY_NAMES[family]).inc()
        self._own.repaired.labels(FAMILY_NAMES[family]).inc(repaired)

    def stage(self, stage: Stage, seconds: float, family: Family | None = None) -> None:
        """Records one stage of one sync, or of one batch of changes (then `family` is None)."""
        self._own.stages.labels(stage.value, "" if family is None else FAMILY_NAMES[family]).observe(seconds)

    def change_confirmed(self, family: Family, seconds: float) -> None:
        """Records a confirmed sync, with the seconds since its first change arrived."""
        self._own.changes.labels(FAMILY_NAMES[family]).observe(seconds)

    # ------------------------------------------------------------------ facts: cluster state

    def objects(self, kind: Kind, count: int) -> None:
        """Records the number of objects in the store."""
        self._own.objects.labels(kind).set(count)

    def rejected(self, kind: Kind, count: int) -> None:
        """Records objects of one batch that could not be decoded."""
        self._own.rejected.labels(kind).inc(count)

    def problems(self, count: int) -> None:
        """Records the number of current problems (`Engine.problems`)."""
        self._own.problems.set(count)

    def relisted(self, kind: Kind, reason: str) -> None:
        """Records a relist. `reason` is one of a few fixed words, never external text."""
        self._own.relists.labels(kind, reason).inc()

    def reconnected(self, kind: Kind, reason: str) -> None:
        """Records a watch that was opened again. `reason` as above."""
        self._own.reconnects.labels(kind, reason).inc()

    def request(
        self, code: int | str, method: str, host: str, seconds: float, *, sent: int = 0, received: int = 0
    ) -> None:
        """Records one request to the API server, until its response headers; bodies in bytes. Without a response
        `code` is `<error>`."""
        self._client.requests.labels(str(code), method, host).inc()
        self._client.request_seconds.labels(method, host).observe(seconds)
        self._client.sent.labels(method, host).observe(sent)
        self._client.received.labels(method, host).observe(received)

    def rate_limited(self, method: str, host: str, seconds: float) -> None:
        """Records the time for which the rate limiter delayed a request (qps and burst)."""
        self._client.rate_limited.labels(method, host).observe(seconds)

    def feature_gates(self, gates: Mapping[str, bool]) -> None:
        """Records the feature gates of the configuration."""
        for name, enabled in gates.items():
            self._build.gates.labels(name, "").set(enabled)

    # ------------------------------------------------------------------ facts: the daemon itself

    def healthz(self, code: int) -> None:
        """Records a response of /healthz."""
        self._stock.healthz.labels(str(code)).inc()

    def livez(self, code: int) -> None:
        """Records a response of /livez."""
        self._stock.livez.labels(str(code)).inc()

    def readiness(self, reasons: Mapping[Subsystem, str]) -> None:
        """For `Readiness(on_change=…)`."""
        self._own.ready.set(not reasons)
        for subsystem in Subsystem:
            self._own.held.labels(subsystem.value).set(subsystem in reasons)

    def service_health_ports(self, *, listening: int, failed: int) -> None:
        """Records the healthCheckNodePorts that listen in each family of their Service, and those that failed in
        one."""
        self._own.ports.labels("listening").set(listening)
        self._own.ports.labels("failed").set(failed)

    def tool_ran(
        self, tool: str, exit_code: int | None, *, seconds: float, cpu_seconds: float, max_rss: int | None
    ) -> None:
        """Records the end of a process; None if ferrule stopped it. `max_rss` is None if it is not known to be above
        ferrule's own peak: then the gauge of the last run is absent, and that of the highest stays."""
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
        """Records the delay with which the event loop woke a task."""
        self._own.lag.observe(seconds)


async def sample_loop_lag(metrics: Metrics, period: float = LAG_PERIOD) -> None:
    """Samples the event loop's lag, for ever: sleeps, and measures by how much it wakes too late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period
        await asyncio.sleep(period)
        metrics.loop_lag(max(0.0, loop.time() - due))
