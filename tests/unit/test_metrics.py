"""Each family of kube-proxy's recorded scrape has the same name, type, help, labels and bucket bounds in ferrule, or
is listed here with the reason."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from ferrule.observe.collectors import UNLIMITED, ProcessExtras
from ferrule.observe.exposition import go_float, render
from ferrule.observe.health import Readiness, Subsystem
from ferrule.observe.metrics import Metrics, sample_loop_lag
from ferrule.testing.waiting import VirtualLoop, in_virtual_time, let_pass
from ferrule.types import Stage

SCRAPE = Path(__file__).parent.parent / "data" / "stock" / "http-metrics.txt"

HOST = "172.31.250.1:16444"
BUILD = {"version": "0.1.0", "profile": "release", "target": "x86_64-unknown-linux-gnu", "rustc": "1.90.0"}
START = 1_795_471_067.0

LEFT_OUT = {
    r"go_.*": "the Go runtime's; there is none",
    r"aggregator_.*|apiserver_.*": "of the API server's libraries, linked into kube-proxy and never counted there",
    r"(disabled|hidden|registered)_metrics_total|cardinality_enforcement_.*": "of the metrics library's own switches",
    r"rest_client_exec_plugin_.*": "of client-go's exec plugin cache: kubernetes_asyncio runs the plugin",
    r"rest_client_transport_.*": "client-go's cache of transports: there is one connection pool",
}

NOT_IN_THE_RECORDING = {
    # Vectors without a sample have no lines. Names, labels and buckets as in kube-proxy 1.37.2.
    "kubeproxy_network_programming_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total": ("counter", {"ip_family"}),
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total": ("counter", {"ip_family"}),
}


@dataclass
class Family:
    """A family as exposed; bounds as text, because they are compared as text."""

    kind: str = ""
    text: str = ""
    labels: set[frozenset[str]] = field(default_factory=set)
    bounds: list[str] = field(default_factory=list)


def families(scrape: str) -> dict[str, Family]:
    found: dict[str, Family] = {}
    for line in scrape.splitlines():
        if match := re.match(r"# (HELP|TYPE) (\S+) (.*)", line):
            family = found.setdefault(match[2], Family())
            if match[1] == "HELP":
                family.text = match[3]
            else:
                family.kind = match[3]
        elif match := re.match(r"(\w+?)(_bucket|_sum|_count)?(?:\{(.*)\})? \S+$", line):
            whole = match[1] + (match[2] or "")
            family = found[whole if whole in found else match[1]]
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', match[3] or ""))
            bound = pairs.pop("le", None)
            family.labels.add(frozenset(pairs))
            if bound is not None and bound not in family.bounds:
                family.bounds.append(bound)
    return found


def stock() -> dict[str, Family]:
    return families(SCRAPE.read_text().partition("\n\n")[2])


def compared() -> list[str]:
    return sorted(name for name in stock() if not any(re.fullmatch(pattern, name) for pattern in LEFT_OUT))


@pytest.fixture
def metrics() -> Metrics:
    """Returns metrics with every fact recorded once."""
    m = Metrics(BUILD, invalid_dropped=lambda: 7, localhost_accepted=lambda: 0, started_at=START)
    for family in ("ipv4", "ipv6"):
        m.queued(family, START + 1)
        m.synced(family, 0.066, full=True, at=START + 2)
        m.synced(family, 0.003, full=False, at=START + 3)
        m.restore_failed(family, 0.1, partial=True)
        m.rules(family, "filter", total=18, written=18)
        m.rules(family, "nat", total=252, written=252)
        m.no_local_endpoints(family, internal=0, external=2)
        m.network_programmed(family, START + 1, START + 2.5)
        m.conntrack_cleaned(family, 0.009, 3)
        m.audited(family, 1)
        m.written(family, octets=721, chains=2, deleted=1)
    m.changes_seen(services=30, endpoint_slices=16)
    m.stage(Stage.INGEST, 0.001)
    for stage in Stage:
        m.stage(stage, 0.001, "ipv4")
    m.change_confirmed("ipv4", 0.02)
    m.tool_ran("iptables-nft-restore", 0, seconds=0.01, cpu_seconds=0.009, max_rss=5 << 20)
    m.objects("Service", 30)
    m.rejected("EndpointSlice", 1)
    m.problems(2)
    m.relisted("Service", "expired")
    m.reconnected("Service", "closed")
    m.request(200, "GET", HOST, 0.0016, received=5000)
    m.rate_limited("GET", HOST, 0.0)
    m.feature_gates({"AllAlpha": False})
    m.healthz(200)
    m.livez(503)
    m.readiness({Subsystem.LISTS: "not in"})
    m.service_health_ports(listening=3, failed=1)
    m.loop_lag(0.0004)
    return m


def text(metrics: Metrics) -> str:
    return render(metrics.registry).body.decode()


def value(metrics: Metrics, series: str) -> float:
    (line,) = [line for line in text(metrics).splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


# ---------------------------------------------------------------- the same as stock's


@pytest.mark.parametrize("name", compared())
def test_the_family_is_stocks(name: str, metrics: Metrics) -> None:
    ours, theirs = families(text(metrics)).get(name), stock()[name]
    assert ours is not None, "not exported"
    assert (ours.kind, ours.text, ours.labels, ours.bounds) == (
        theirs.kind,
        theirs.text,
        theirs.labels,
        theirs.bounds,
    )


def test_much_is_compared_and_each_reason_is_needed() -> None:
    names = stock()
    assert len([name for name in compared() if name.startswith("kubeproxy_")]) == 17
    for pattern in LEFT_OUT:
        assert [name for name in names if re.fullmatch(pattern, name)], f"nothing is left out by {pattern}"
    assert not any(re.match("kubeproxy|process|kubernetes", name) for name in names.keys() - set(compared()))


@pytest.mark.parametrize("name", NOT_IN_THE_RECORDING)
def test_families_that_the_recording_had_no_sample_of(name: str, metrics: Metrics) -> None:
    ours = families(text(metrics))[name]
    assert name not in stock()
    kind, labels = NOT_IN_THE_RECORDING[name]
    assert (ours.kind, ours.labels) == (kind, {frozenset(labels)})


def test_buckets_that_the_recording_does_not_show(metrics: Metrics) -> None:
    ours = families(text(metrics))
    assert (
        ours["kubeproxy_sync_partial_proxy_rules_duration_seconds"].bounds
        == stock()["kubeproxy_sync_full_proxy_rules_duration_seconds"].bounds
    )
    bounds = ours["kubeproxy_network_programming_duration_seconds"].bounds
    assert bounds[:4] == ["0", "0.25", "0.5", "1"]
    assert bounds[60:64] == ["58", "59", "60", "65"]
    assert bounds[-9:] == ["115", "120", "150", "180", "210", "240", "270", "300", "+Inf"]
    assert len(bounds) == 1 + 2 + 59 + 12 + 7 + 1


def test_ours_have_our_prefix_and_nothing_else_is_added(metrics: Metrics) -> None:
    known = set(stock()) | set(NOT_IN_THE_RECORDING)
    extra = {name for name in families(text(metrics)) if name not in known}
    assert {name for name in extra if not name.startswith("ferrule_")} == set()
    assert len(extra) > 15
    assert "_created" not in text(metrics)


# ---------------------------------------------------------------- what the facts do


def test_failures_count_from_zero_so_that_the_first_one_is_a_rise() -> None:
    fresh = Metrics(BUILD, families=["ipv4"])
    series = 'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"}'
    assert value(fresh, series) == 0
    fresh.restore_failed("ipv4", 0.1, partial=False)
    assert value(fresh, series) == 1
    assert value(fresh, series.replace("iptables_", "iptables_partial_")) == 0
    assert "IPv6" not in text(fresh)


def test_changes_wait_until_taken_and_stay_counted(metrics: Metrics) -> None:
    metrics.changes_seen(services=2)
    assert value(metrics, "kubeproxy_sync_proxy_rules_service_changes_pending") == 32
    metrics.changes_taken()
    assert value(metrics, "kubeproxy_sync_proxy_rules_service_changes_pending") == 0
    assert value(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0
    assert value(metrics, "kubeproxy_sync_proxy_rules_service_changes_total") == 32
    assert value(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_total") == 16


def test_programming_latency_leaves_out_what_waited_for_our_start_and_never_goes_below_zero() -> None:
    metrics = Metrics(BUILD, started_at=START)
    metrics.network_programmed("ipv4", START - 1, START + 5)
    assert "kubeproxy_network_programming_duration_seconds_count" not in text(metrics)
    metrics.network_programmed("ipv4", START + 9, START + 5)  # the other machine's clock is ahead
    labels = '{ip_family="IPv4"}'
    assert value(metrics, f"kubeproxy_network_programming_duration_seconds_count{labels}") == 1
    assert value(metrics, f"kubeproxy_network_programming_duration_seconds_sum{labels}") == 0


def test_a_counter_that_cannot_be_read_has_no_sample() -> None:
    metrics = Metrics(BUILD, invalid_dropped=lambda: None, localhost_accepted=lambda: 12)
    assert value(metrics, "kubeproxy_iptables_localhost_nodeports_accepted_packets_total") == 12
    assert "\nkubeproxy_iptables_ct_state_invalid_dropped_packets_total" not in text(metrics)


def test_readiness_names_the_blocking_subsystem() -> None:
    metrics = Metrics(BUILD)
    readiness = Readiness({Subsystem.LISTS: "not in"}, on_change=metrics.readiness)
    assert value(metrics, "ferrule_ready") == 0
    assert value(metrics, 'ferrule_not_ready{subsystem="lists"}') == 1
    readiness.release(Subsystem.LISTS)
    assert value(metrics, "ferrule_ready") == 1
    assert value(metrics, 'ferrule_not_ready{subsystem="lists"}') == 0


def test_the_loops_lag_is_sampled() -> None:
    metrics = Metrics(BUILD)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        task = asyncio.create_task(sample_loop_lag(metrics, period=1.0))
        await let_pass(3.5)
        assert value(metrics, "ferrule_event_loop_lag_seconds_count") == 3
        assert value(metrics, "ferrule_event_loop_lag_seconds_sum") == 0
        loop.busy(2.5)
        await let_pass(0.25)
        assert value(metrics, "ferrule_event_loop_lag_seconds_count") == 4
        assert value(metrics, "ferrule_event_loop_lag_seconds_sum") == 2
        task.cancel()

    in_virtual_time(scenario())


def test_process_numbers_come_from_proc(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "netstat").write_text(
        "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 29898 8723\n"
    )
    (tmp_path / "limits").write_text(
        "Limit\nMax address space         unlimited            unlimited            bytes\n"
    )

    def samples() -> dict[str, float]:
        return {s.name: s.value for metric in ProcessExtras(tmp_path).collect() for s in metric.samples}

    assert samples() == {
        "process_virtual_memory_max_bytes": UNLIMITED,
        "process_network_receive_bytes_total": 29898,
        "process_network_transmit_bytes_total": 8723,
    }
    (tmp_path / "limits").write_text("Max address space         4096            unlimited            bytes\n")
    (tmp_path / "net" / "netstat").unlink()
    assert samples() == {"process_virtual_memory_max_bytes": 4096}


# ---------------------------------------------------------------- exposition


@pytest.mark.parametrize(
    ("python", "go"),
    [
        ("0.0", "0"),
        ("0.001", "0.001"),
        ("1.0", "1"),
        ("604800.0", "604800"),
        ("999999.5", "999999.5"),
        ("1048576.0", "1.048576e+06"),
        ("16777216.0", "1.6777216e+07"),
        ("1000000.0", "1e+06"),
        ("0.00001", "1e-05"),
        ("+Inf", "+Inf"),
    ],
)
def test_bounds_as_go_writes_them(python: str, go: str) -> None:
    assert go_float(python) == go


def test_plain_text_is_the_default_format(metrics: Metrics) -> None:
    for accept in ("", "*/*", "text/plain;version=0.0.4"):
        exposition = render(metrics.registry, accept, "")
        assert exposition.content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert exposition.encoding is None
        assert b'le="1"' in exposition.body


def test_openmetrics_is_valid_and_keeps_its_own_way_of_bounds(metrics: Metrics) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    exposition = render(metrics.registry, accept, "")
    assert exposition.content_type.startswith("application/openmetrics-text; version=1.0.0")
    body = exposition.body.decode()
    assert body.endswith("# EOF\n")
    assert 'le="1.0"' in body
    assert 'le="1"' not in body
    assert len(list(parse_openmetrics(body))) > 40


def test_gzip_when_asked_for(metrics: Metrics) -> None:
    exposition = render(metrics.registry, "", "deflate, gzip;q=1.0")
    assert exposition.encoding == "gzip"
    assert gzip.decompress(exposition.body).startswith(b"# HELP ")


def test_single_names_can_be_asked_for(metrics: Metrics) -> None:
    body = render(metrics.registry, names=["kubeproxy_proxy_livez_total"]).body.decode()
    assert [line for line in body.splitlines() if not line.startswith("#")] == [
        'kubeproxy_proxy_livez_total{code="503"} 1.0'
    ]


def _lines(metrics: Metrics) -> Iterator[str]:
    return (line for line in text(metrics).splitlines() if not line.startswith("#"))


def test_a_scrape_stays_small_on_a_quiet_node(metrics: Metrics) -> None:
    assert len(list(_lines(metrics))) < 700
