"""Declares every family of metrics: name, type, labels, buckets, help. `metrics.Metrics` sets the values.

`kubeproxy_*`, `rest_client_*` and `kubernetes_*` are kube-proxy 1.37's to the letter, stability level in the help text
included (a test compares them with a recorded scrape).
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SYNC_BUCKETS = tuple(0.001 * 2**n for n in range(15))
"""1 ms to 16.4 s."""

PROGRAMMING_BUCKETS = (0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
"""The leading 0 is kube-proxy's: its concatenation of lists starts with one, and bounds must agree for aggregation."""

LATENCY_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
SIZE_BUCKETS = (64, 256, 512, *(4**n for n in range(5, 13)))

LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
STAGE_BUCKETS = (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)

_FAMILY = ("ip_family",)
_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Families:
    """The base of the groups below: a registry, and three short ways to declare."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: Iterable[str], buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=buckets)


class StockFamilies(Families):
    """kube-proxy's own. The two packet counters are collectors: see `metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        sync = "kubeproxy_sync_proxy_rules_"
        self.sync = self._histogram(
            f"{sync}duration_seconds", "[ALPHA] SyncProxyRules latency in seconds", _FAMILY, SYNC_BUCKETS
        )
        self.full, self.partial = (
            self._histogram(
                f"kubeproxy_sync_{extent}_proxy_rules_duration_seconds",
                f"[ALPHA] SyncProxyRules latency in seconds for {extent} resyncs",
                _FAMILY,
                SYNC_BUCKETS,
            )
            for extent in ("full", "partial")
        )
        self.programming = self._histogram(
            "kubeproxy_network_programming_duration_seconds",
            "[ALPHA] In Cluster Network Programming Latency in seconds",
            _FAMILY,
            PROGRAMMING_BUCKETS,
        )
        self.last = self._gauge(
            f"{sync}last_timestamp_seconds", "[ALPHA] The last time proxy rules were successfully synced", _FAMILY
        )
        self.queued = self._gauge(
            f"{sync}last_queued_timestamp_seconds", "[ALPHA] The last time a sync of proxy rules was queued", _FAMILY
        )
        self.pending = {
            what: self._gauge(f"{sync}{what}_changes_pending", f"[ALPHA] Pending proxy rules {title} changes")
            for what, title in (("service", "Service"), ("endpoint", "Endpoint"))
        }
        self.changes = {
            what: self._counter(f"{sync}{what}_changes_total", f"[ALPHA] Cumulative proxy rules {title} changes")
            for what, title in (("service", "Service"), ("endpoint", "Endpoint"))
        }
        self.rules_total = self._gauge(
            f"{sync}iptables_total", "[ALPHA] Total number of iptables rules owned by kube-proxy", ("table", *_FAMILY)
        )
        self.rules_last = self._gauge(
            f"{sync}iptables_last",
            "[ALPHA] Number of iptables rules written by kube-proxy in last sync",
            ("table", *_FAMILY),
        )
        self.restore_failures = self._counter(
            f"{sync}iptables_restore_failures_total", "[ALPHA] Cumulative proxy iptables restore failures", _FAMILY
        )
        self.partial_failures = self._counter(
            f"{sync}iptables_partial_restore_failures_total",
            "[ALPHA] Cumulative proxy iptables partial restore failures",
            _FAMILY,
        )
        self.no_local = self._gauge(
            f"{sync}no_local_endpoints_total",
            "[ALPHA] Number of services with a Local traffic policy and no endpoints",
            ("traffic_policy", *_FAMILY),
        )
        self.conntrack = self._histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "[ALPHA] ReconcileConntrackFlowsLatency latency in seconds",
            _FAMILY,
            SYNC_BUCKETS,
        )
        self.conntrack_deleted = self._counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler",
            _FAMILY,
        )
        self.healthz, self.livez = (
            self._counter(f"kubeproxy_proxy_{path}_total", f"[ALPHA] Cumulative proxy {path} HTTP status", ("code",))
            for path in ("healthz", "livez")
        )


class ClientFamilies(Families):
    """client-go's, for the API server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.requests = self._counter(
            "rest_client_requests_total",
            "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
            ("code", "method", "host"),
        )
        self.request_seconds = self._histogram(
            "rest_client_request_duration_seconds",
            "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
            ("verb", "host"),
            LATENCY_BUCKETS,
        )
        self.rate_limited = self._histogram(
            "rest_client_rate_limiter_duration_seconds",
            "[ALPHA] Client side rate limiter latency in seconds. Broken down by verb, and host.",
            ("verb", "host"),
            LATENCY_BUCKETS,
        )
        self.sent, self.received = (
            self._histogram(
                f"rest_client_{what.lower()}_size_bytes",
                f"[ALPHA] {what} size in bytes. Broken down by verb and host.",
                ("verb", "host"),
                SIZE_BUCKETS,
            )
            for what in ("Request", "Response")
        )


class OwnFamilies(Families):
    """Metrics that kube-proxy does not have."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.lag = self._histogram(
            "ferrule_event_loop_lag_seconds",
            "Seconds by which the event loop wakes a task too late, sampled four times a second",
            (),
            LAG_BUCKETS,
        )
        self.stages = self._histogram(
            "ferrule_stage_duration_seconds",
            "Seconds in one stage of a change's way: ingest (decoding a batch; no ip_family), wait (from its arrival "
            "to the beginning of the family's sync), observe (reading the kernel's rules back), plan, restore (from "
            "the first transaction, or the tool's start, to the end), commit",
            ("stage", *_FAMILY),
            STAGE_BUCKETS,
        )
        self.changes = self._histogram(
            "ferrule_change_to_kernel_duration_seconds",
            "Seconds from the arrival of the first change in a sync to the confirmation of its rules by the kernel",
            _FAMILY,
            SYNC_BUCKETS,
        )
        self.transactions = self._counter(
            "ferrule_netlink_transactions_total",
            "nf_tables transactions over netlink, by result: ok, refused",
            ("result", *_FAMILY),
        )
        self.tool_runs = self._counter(
            "ferrule_tool_runs_total",
            "Processes run, by how they ended: ok, failed (exit code), killed (signal), stopped (by us)",
            ("tool", "result"),
        )
        self.tool_seconds = self._histogram(
            "ferrule_tool_duration_seconds", "Seconds from a process's start to its end", ("tool",), SYNC_BUCKETS
        )
        self.tool_cpu = self._counter(
            "ferrule_tool_cpu_seconds_total", "User and system CPU seconds of processes that have ended", ("tool",)
        )
        self.tool_rss = self._gauge(
            "ferrule_tool_max_rss_bytes", "Most resident memory that the last run of a tool had, in bytes", ("tool",)
        )
        self.tool_peak = self._gauge(
            "ferrule_tool_peak_rss_bytes", "The same, highest of all runs since the start", ("tool",)
        )
        self.objects = self._gauge("ferrule_store_objects", "Objects in the store", ("kind",))
        self.relists = self._counter(
            "ferrule_watch_relists_total", "Lists asked for again, by reason", ("kind", "reason")
        )
        self.reconnects = self._counter(
            "ferrule_watch_reconnects_total", "Watches opened again, by reason", ("kind", "reason")
        )
        self.rejected = self._counter(
            "ferrule_objects_rejected_total", "Objects that could not be decoded and kept their old state", ("kind",)
        )
        self.problems = self._gauge("ferrule_input_problems", "Current problems of cluster objects")
        self.audits = self._counter("ferrule_audits_total", "Read-backs of the kernel's rules", _FAMILY)
        self.repaired = self._counter(
            "ferrule_repaired_chains_total", "Chains modified by another process and rewritten", _FAMILY
        )
        self.bytes = self._counter(
            "ferrule_restore_bytes_total", "Text of what was written, whether a tool read it or not", _FAMILY
        )
        self.chains_written = self._counter("ferrule_chains_written_total", "Chains written", _FAMILY)
        self.chains_deleted = self._counter("ferrule_chains_deleted_total", "Chains deleted", _FAMILY)
        self.background_failures = self._counter(
            "ferrule_background_failures_total", "Failures of work beside the syncs, by which work", ("work",)
        )
        self.ready = self._gauge("ferrule_ready", "1 when everything that should be programmed is")
        self.held = self._gauge("ferrule_not_ready", "1 for each subsystem that holds readiness back", ("subsystem",))
        self.ports = self._gauge("ferrule_service_health_ports", "healthCheckNodePorts by state", ("state",))


class BuildFamilies(Families):
    """The build and the feature gates."""

    def __init__(self, registry: CollectorRegistry, build: Mapping[str, str]) -> None:
        super().__init__(registry)
        version = build.get("version", "")
        major, minor, *_ = (*version.split("."), "", "")
        # Kubernetes' own labels, ferrule's own values: a version that is not Kubernetes' must not look like it.
        labels = {
            "build_date": "",
            "compiler": "rustc",
            "git_commit": "",
            "git_tree_state": "",
            "git_version": f"ferrule-v{version}",
            "go_version": "",
            "major": major,
            "minor": minor,
            "platform": f"linux/{_GO_MACHINES.get(platform.machine(), platform.machine())}",
        }
        self._gauge(
            "kubernetes_build_info",
            "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree "
            "state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is "
            "running.",
            labels,
        ).labels(**labels).set(1)
        ours = {**build, "python": platform.python_version()}
        self._gauge("ferrule_build_info", "Constant 1, labelled with what this build is", ours).labels(**ours).set(1)
        self.gates = self._gauge(
            "kubernetes_feature_enabled",
            "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
            ("name", "stage"),
        )
