"""The bench's pure parts: shapes, the plan of a run, statistics, bars, tables, plots."""

import itertools
import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from bench import bars, plan, report, results, shapes, stats, verify
from bench.ground import Unfinished
from bench.plots import Chart, Point, Series, draw
from bench.results import Results, Row
from bench.rows import tool
from bench.runner import RowTimeout, Runner, Step, deadline
from hypothesis import given
from hypothesis import strategies as st

# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("label", ["10000x4", "500x500", "2000x4x3", "2000x4x3-dual", "1x1-dual"])
def test_a_label_names_one_shape(label: str) -> None:
    assert shapes.parse(label).label == label


@pytest.mark.parametrize("label", ["", "10", "0x4", "4x0", "10x4x0", "x", "10x4-triple", "60001x1", "60000x40"])
def test_what_is_no_shape_is_refused_with_its_name(label: str) -> None:
    with pytest.raises(ValueError, match=repr(label)):
        shapes.parse(label)


def test_the_same_label_gives_the_same_objects() -> None:
    assert list(shapes.create(shapes.parse("30x4x2-dual"))) == list(shapes.create(shapes.parse("30x4x2-dual")))
    one, other = (shapes.rolling_update(shapes.parse("100x4"), 50, 60) for _ in range(2))
    assert one == other


def test_growing_creates_what_is_missing_and_nothing_else() -> None:
    small, large = shapes.parse("30x4"), shapes.parse("50x4")
    assert small.grows_into(large)
    assert not large.grows_into(small)
    assert not small.grows_into(shapes.parse("50x5"))
    assert [*shapes.create(small), *shapes.create(large, small.services)] == list(shapes.create(large))


def test_slices_hold_at_most_a_hundred_endpoints_and_all_of_them() -> None:
    shape = shapes.parse("2x250-dual")
    parts = list(shapes.slices(shape, 1))
    sizes = [(part["addressType"], len(part["endpoints"])) for part in parts]
    assert sizes == [("IPv4", 100), ("IPv4", 100), ("IPv4", 50), ("IPv6", 100), ("IPv6", 100), ("IPv6", 50)]
    assert len({part["metadata"]["name"] for part in parts}) == len(parts)
    found = [e["addresses"][0] for part in parts if part["addressType"] == "IPv4" for e in part["endpoints"]]
    assert found == shapes.endpoints_of(shape, 1)
    assert not set(found) & set(shapes.endpoints_of(shape, 0))


@pytest.mark.parametrize("label", ["30000x4", "3000x1x5"])
def test_addresses_and_node_ports_are_unique_and_in_the_servers_ranges(label: str) -> None:
    shape = shapes.parse(label)
    services = [shapes.service(shape, n) for n in range(shape.services)]
    ips = [one["spec"]["clusterIP"] for one in services]
    assert len(set(ips)) == len(ips)
    assert all(ip.startswith("10.96.") for ip in ips)
    ports = [port["nodePort"] for one in services for port in one["spec"]["ports"] if "nodePort" in port]
    assert ports
    assert len(set(ports)) == len(ports)
    assert all(30_000 <= port <= 32_767 for port in ports)
    assert all(shapes.service_number(ip) == n for n, ip in enumerate(ips))


def test_a_replaced_pod_has_an_address_that_nobody_has() -> None:
    shape = shapes.parse("1000x4")
    own = {ip for n in range(shape.services) for ip in shapes.endpoints_of(shape, n)}
    fresh = Counter(ip for n in range(shape.services) for g in (1, 2, 1000) for ip in shapes.replaced(shape, n, g))
    new = {ip: count for ip, count in fresh.items() if ip not in own}
    assert len(new) == 3000
    assert set(new.values()) == {1}
    assert shapes.replaced(shape, 7, 0) == shapes.endpoints_of(shape, 7)


def test_a_rolling_update_has_its_rate_and_ends_as_it_began() -> None:
    shape = shapes.parse("6000x4")
    rate, writes, back = shapes.rolling_update(shape, 1, 30)
    assert rate == pytest.approx(4.0)
    assert len(writes) == 120
    assert {write[1] for write in writes} == {write[1] for write in back}
    original = {shapes.patch(shape, n, shapes.endpoints_of(shape, n))[1]: n for n in range(shape.services)}
    for method, path, body, _ in back:
        assert (method, body) == (
            "PATCH",
            shapes.patch(shape, original[path], shapes.endpoints_of(shape, original[path]))[2],
        )


# ---------------------------------------------------------------- numbers


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_a_value_with_that_share_at_or_below(values: list[float], percent: float) -> None:
    found = stats.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6


def test_p99_of_few_is_the_greatest() -> None:
    assert stats.percentile([3, 1, 2], 99) == 3
    assert stats.percentile(list(range(1, 101)), 99) == 99
    with pytest.raises(ValueError, match="nothing"):
        stats.percentile([], 50)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (201.7, "202 s"),
        (12.34, "12.3 s"),
        (1, "1 s"),
        (0.0123, "12.3 ms"),
        (0.2, "200 ms"),
        (4.2e-6, "4.2 µs"),
        (0, "0 µs"),
    ],
)
def test_seconds_as_people_read_them(value: float, text: str) -> None:
    assert stats.seconds(value) == text


# ---------------------------------------------------------------- checking rules

TREE = """*nat
:KUBE-SERVICES - [0:0]
:PART-A - [0:0]
:PART-B - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-A - [0:0]
:HALF - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
:KUBE-SEP-3 - [0:0]
-A KUBE-SERVICES -d 10.96.4.0/24 -j PART-A
-A KUBE-SERVICES -d 10.96.5.0/24 -j PART-B
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30000 -j KUBE-SVC-A
-A PART-A -d 10.96.4.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A
-A PART-B -d 10.96.5.1/32 -p udp -m udp --dport 80 -j KUBE-SEP-3
-A KUBE-SVC-A ! -s 10.128.0.0/9 -d 10.96.4.1/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j HALF
-A KUBE-SVC-A -j KUBE-SEP-2
-A HALF -j KUBE-SEP-1
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.129.0.1:8080
-A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.129.0.2:8080
-A KUBE-SEP-3 -p udp -m udp -j DNAT --to-destination 10.129.0.3:8080
COMMIT
*filter
:KUBE-SEP-NOT - [0:0]
COMMIT
"""


def test_saved_rules_are_followed_through_trees() -> None:
    saved = verify.Saved(TREE)
    assert saved.behind("10.96.4.1") == {"10.129.0.1:8080", "10.129.0.2:8080"}
    assert saved.behind("10.96.5.1") == {"10.129.0.3:8080"}
    assert saved.behind("10.96.4.2") == set()
    assert saved.count("KUBE-SEP-") == 3
    assert saved.order("tcp") == []


def test_the_order_of_a_flat_chain() -> None:
    flat = TREE.replace("-A PART-A", "-A KUBE-SERVICES").replace("-A PART-B", "-A KUBE-SERVICES")
    saved = verify.Saved(flat)
    assert (saved.order("tcp"), saved.order("udp")) == (["10.96.4.1"], ["10.96.5.1"])


def test_what_the_engine_writes_passes_the_check_and_less_does_not() -> None:
    shape = shapes.parse("60x3x2")
    text = dict(tool.text(shape, "legacy"))["iptables-legacy-restore"].decode()
    saved = verify.Saved(text)
    assert saved.count("KUBE-SEP-") == shape.total
    for number in range(shape.services):
        assert saved.behind(shapes.cluster_ip(number)) == verify.destinations(shape, number)
    victim = [line for line in text.splitlines() if "--to-destination" in line][77]
    broken = verify.Saved(text.replace(victim + "\n", ""))
    wrong = [n for n in range(60) if broken.behind(shapes.cluster_ip(n)) != verify.destinations(shape, n)]
    assert len(wrong) == 1


def test_the_smallest_restore_is_one_services_chains_in_one_transaction() -> None:
    shape = shapes.parse("50x4")
    text = dict(tool.text(shape, "nft"))["iptables-nft-restore"]
    lines = tool.one_service(text).decode().splitlines()
    assert lines[0] == "*nat"
    assert lines.count("COMMIT") == 1
    declared = [line.split()[0][1:] for line in lines if line.startswith(":")]
    assert [name[:9] for name in declared] == ["KUBE-SEP-", "KUBE-SVC-"]
    assert {line.split()[1] for line in lines if line.startswith("-A")} == set(declared)


# ---------------------------------------------------------------- the plan of a run


def keys(**narrow: tuple[str, ...]) -> list[str]:
    wanted = {"rows": (*plan.ALONE, *plan.DAEMON), "subjects": plan.SUBJECTS, "backends": plan.BACKENDS} | narrow
    return [step.key for step in plan.steps(plan.FULL, **wanted)]


def test_the_full_run_has_everybody_once_and_fits_in_its_time() -> None:
    every = keys()
    assert len(set(every)) == len(every)
    for key in ("start/30000x4/ferrule/nft", "start/10000x4/stock/nft", "change/10000x4/stock-nftables/nft", "engine"):
        assert key in every
    assert not any("stock-nftables/legacy" in key for key in every)
    assert (
        sum(step.guess for step in plan.steps(plan.FULL, (*plan.ALONE, *plan.DAEMON), plan.SUBJECTS, plan.BACKENDS))
        < 45 * 60
    )


def test_options_narrow_the_run() -> None:
    assert keys(rows=("start",), subjects=("stock",), backends=("legacy",)) == [
        f"start/{label}/stock/legacy"
        for label in ("1000x4", "5000x4", "10000x4", "30000x4", "1000x4x3-dual", "100x250", "500x500")
    ]


def runner(path: Path, *, keep: bool = False, budget: float | None = None, found: Results | None = None) -> Runner:
    steps = [Step("a", "1x1", "ferrule", "nft"), Step("b", "1x1", "ferrule", "nft")]
    return Runner(steps, found or Results(), path, budget, keep)


def boom() -> dict[str, float]:
    raise RuntimeError("no such thing")


def give_up() -> dict[str, float]:
    raise Unfinished(120, "no first sync")


def test_a_row_that_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    run = runner(path)
    assert run.run(run.steps[0], boom, 5).status == "failed"
    assert results.load(path).rows[0].reason == "RuntimeError: no such thing"
    assert run.run(run.steps[1], give_up, 5).status == "unfinished"
    assert [row.status for row in results.load(path).rows] == ["failed", "unfinished"]
    assert not any(run.wanted(step) for step in run.steps)


def test_what_was_measured_is_kept_and_what_failed_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = runner(path)
    first.run(first.steps[0], lambda: {"x": 1.0}, 5)
    first.run(first.steps[1], boom, 5)
    again = runner(path, keep=True, found=results.load(path))
    assert [again.wanted(step) for step in again.steps] == [False, True]
    again.run(again.steps[1], lambda: {"x": 2.0}, 5)
    assert [(row.status, row.values) for row in results.load(path).rows] == [("ok", {"x": 1.0}), ("ok", {"x": 2.0})]


def test_a_spent_budget_skips(tmp_path: Path) -> None:
    run = runner(tmp_path / "r.json", budget=-1)
    assert run.run(run.steps[0], boom, 5).status == "skipped"


def test_a_deadline_ends_what_takes_too_long() -> None:
    with pytest.raises(RowTimeout), deadline(0.05):
        while True:
            pass


# ---------------------------------------------------------------- report


def measured() -> Results:
    """Two sizes of two subjects; the larger of stock was given up."""
    found = Results(
        {"cpu": "c", "cores": 2, "memory GiB": 8, "kernel": "6", "load before": 0}, {"ferrule": "1"}, {"a": 1}
    )
    for shape, ours in (("1000x4", 1.0), ("10000x4", 4.0), ("30000x4", 15.0)):
        found.add(Row("start", shape, "ferrule", "nft", {"seconds": ours, "RSS peak MiB": 50.0 * ours}))
        found.add(Row("tool", shape, "tool", "nft", {"seconds": ours / 1.2, "floor p50 ms": 10, "floor p99 ms": 20}))
        change = {"p50 ms": 20.0, "p99 ms": 50.0, "changes": 50.0}
        found.add(Row("change", shape, "ferrule", "nft", change))
        found.add(Row("change", shape, "stock", "nft", {"p50 ms": 300.0, "p99 ms": 700.0, "changes": 50.0}))
    found.add(Row("start", "1000x4", "stock", "nft", {"seconds": 1.5, "RSS peak MiB": 80}))
    found.add(Row("start", "10000x4", "stock", "nft", {"seconds": 120}, "unfinished", "no first sync"))
    found.add(Row("start", "30000x4", "stock", "nft", {}, "failed", "WrongRules: none"))
    found.add(Row("engine", "", "decode", values={"MB/s": 200}, reason="200 MB/s"))
    return found


def verdicts(found: Results) -> dict[tuple[str, str], bool | None]:
    return {(check.name, check.wanted): check.met for check in bars.checks(found)}


def test_bars_are_met_missed_or_not_judged() -> None:
    found = measured()
    judged = verdicts(found)
    ten = "first sync 10,000 × 4, nft"
    assert judged[ten, "≤ 6 s"] is True
    assert judged[ten, "≤ 1.4 × the tool alone"] is True
    assert judged[ten, "≥ 30 × faster than kube-proxy's iptables mode"] is True  # 120 s / 4 s, given up
    assert judged[ten, "faster than kube-proxy's nftables mode"] is None
    assert judged["RSS of the daemon at 30,000 × 4, nft, peak", "≤ 200 MiB"] is False
    assert (
        judged["one endpoint changed at 10,000 × 4, nft, p50", "≥ 10 × faster than kube-proxy's iptables mode"] is True
    )
    found.add(Row("start", "10000x4", "ferrule", "nft", {"seconds": 7.0}))
    judged = verdicts(found)
    assert judged[ten, "≤ 6 s"] is False
    # A lower bound can meet a bar; it cannot miss one.
    assert judged[ten, "≥ 30 × faster than kube-proxy's iptables mode"] is None


def test_a_failed_row_is_judged_by_nobody() -> None:
    found = measured()
    found.add(Row("start", "10000x4", "ferrule", "nft", {"seconds": 1.0}, "failed", "wrong"))
    assert verdicts(found)["first sync 10,000 × 4, nft", "≤ 6 s"] is None


def test_the_page_tells_bounds_failures_and_the_machine() -> None:
    page = report.page(measured())
    assert "| 10000x4 | 4 s | > 120 s | 3.33 s |" in page
    assert "| 30000x4 | 15 s | failed | 12.5 s |" in page
    assert "start/30000x4/stock/nft | failed | WrongRules: none" in page
    assert "Machine: c, 2 cores" in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_tables_are_rectangular() -> None:
    width = 0
    for line in report.page(measured()).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        assert width in (0, line.count("|"))
        width = line.count("|")


def test_the_page_and_its_plots_are_written_together(tmp_path: Path) -> None:
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance" / "old.svg").write_text("")
    written = report.write(measured(), tmp_path)
    there = {path.name for path in (tmp_path / "performance").glob("*.svg")}
    assert {"first-sync.svg", "change.svg", "memory.svg"} <= there
    assert "old.svg" not in there
    assert {path.name for path in written} == there | {"performance.md"}
    page = (tmp_path / "performance.md").read_text()
    assert all(f"(performance/{name})" in page for name in there)
    again = results.load(tmp_path / "performance" / "results.json")
    assert again == measured()
    assert report.page(again) == page


def test_results_of_another_schema_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema"):
        results.load(path)


# ---------------------------------------------------------------- plots


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own words


SVG = "{http://www.w3.org/2000/svg}"


def chart(*series: Series) -> Chart:
    return Chart("Title <&>", "note", series, stats.seconds)


def test_a_plot_is_well_formed_and_holds_every_point_inside_its_frame() -> None:
    lines = [
        Series(
            f"line {i}", "#123456", [Point(x, i * x / 1000, high=i * x / 500) for x in (1000, 10_000, 30_000)], i > 2
        )
        for i in range(1, 6)
    ]
    tree = parsed(draw(chart(*lines, Series("none", "#000000", []))))
    dots = tree.findall(f"{SVG}circle")
    assert len(dots) == 15
    for dot in dots:
        assert 74 <= float(dot.get("cx", "")) <= 860 - 236
        assert 74 <= float(dot.get("cy", "")) <= 440 - 56
    texts = ["".join(text.itertext()) for text in tree.findall(f"{SVG}text")]
    assert "Title <&>" in texts
    assert all(f"line {i}" in texts for i in range(1, 6))
    assert "none" not in texts


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    lines = [Series(f"line {i}", "#123456", [Point(1000, 1), Point(2000, 1 + i / 1000)]) for i in range(6)]
    tree = parsed(draw(chart(*lines)))
    at = sorted(float(t.get("y", "")) for t in tree.findall(f"{SVG}text") if "".join(t.itertext()).startswith("line"))
    assert all(b - a >= 15.5 for a, b in itertools.pairwise(at))


def test_greater_is_higher_and_a_bound_is_marked() -> None:
    tree = parsed(draw(chart(Series("s", "#123456", [Point(10, 1), Point(100, 50, bound=True)]))))
    low, high = tree.findall(f"{SVG}circle")
    assert float(low.get("cy", "")) > float(high.get("cy", ""))
    assert (low.get("fill"), high.get("fill")) == ("#123456", "#ffffff")


def test_nothing_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(chart(Series("s", "#123456", [])))
