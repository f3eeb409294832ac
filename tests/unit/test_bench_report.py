"""The bench's bars, tables and plots."""

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from bench import bars, report, results, stats
from bench.plots import Chart, Point, Series, draw
from bench.results import Results, Row

# ---------------------------------------------------------------- report


def measured() -> Results:
    """Returns results of two sizes and two subjects; kube-proxy's larger one was stopped."""
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


def test_a_bar_without_its_row_is_not_judged() -> None:
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


def test_what_was_given_up_has_a_bound_for_its_time_and_nothing_else() -> None:
    row = Row("start", "1x1", "stock", "nft", {"seconds": 60.0}, "unfinished", "no first sync")
    assert report.cell(row, "seconds", stats.seconds) == "> 60 s"
    assert report.cell(row, "RSS peak MiB", stats.number) == "–"


def test_a_section_without_rows_has_no_table() -> None:
    found = Results(rows=[Row("change", "1000x4", "stock", "nft", status="skipped", reason="no sync")])
    assert "## One change" not in report.page(found)
