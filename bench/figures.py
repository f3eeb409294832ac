"""The plots of docs/performance.md, and the order, names and colours that its tables share."""

from __future__ import annotations

from collections.abc import Sequence

from bench import shapes
from bench.plots import Chart, Point, Series, draw
from bench.results import Results
from bench.stats import number, seconds

WHO: dict[tuple[str, str], tuple[str, str, bool]] = {
    ("ferrule", "nft"): ("ferrule, iptables-nft", "#0b62c4", False),
    ("ferrule", "legacy"): ("ferrule, iptables-legacy", "#3f9bea", True),
    ("ferrule-flat", "nft"): ("ferrule, flat, iptables-nft", "#0a7f6f", False),
    ("ferrule-flat", "legacy"): ("ferrule, flat, iptables-legacy", "#2fae9b", True),
    ("stock", "nft"): ("kube-proxy, iptables-nft", "#c0262d", False),
    ("stock", "legacy"): ("kube-proxy, iptables-legacy", "#e2762a", True),
    ("stock-nftables", "nft"): ("kube-proxy, nftables mode", "#7b55a8", False),
}
"""Column or line name, colour, dashed."""

FLAT = ("ferrule-flat",)


def plots(results: Results) -> dict[str, str]:
    """Returns file name → SVG, for data with at least two sizes."""
    charts = {
        "first-sync.svg": Chart(
            "First sync", "process start → all rules in the kernel; an arrow: not finished by then",
            _lines(results, "start", "seconds", without=FLAT), seconds,
        ),
        "change.svg": Chart(
            "One endpoint changed", "API write → the new Pod answers: p50, whisker to p99",
            _lines(results, "change", "p50 ms", 1e-3, high="p99 ms"), seconds,
        ),
        "memory.svg": Chart(
            "Memory of the daemon", "peak resident, at the end of the first sync",
            _lines(results, "start", "RSS peak MiB", without=FLAT), mib,
        ),
        "first-packet.svg": Chart(
            "First packet of a new flow, last Service", "p50 of a local UDP send",
            [*_lines(results, "packets", "last p50 µs", 1e-6), *_empty(results, "miss p50 µs", 1e-6)], seconds,
        ),
        "connections.svg": Chart(
            "New connections a second, last Service", "connect, accept, close, one after the other",
            [*_lines(results, "packets", "last connections a second"), *_empty(results, "miss connections a second")],
            number,
        ),
    }  # fmt: skip
    return {name: draw(chart) for name, chart in charts.items() if any(len(one.points) > 1 for one in chart.series)}


def _sizes(results: Results, row: str) -> list[str]:
    return [label for label in labels(results, row) if not _order(label)[0]]


def _lines(
    results: Results, row: str, key: str, scale: float = 1.0, *, high: str = "", without: Sequence[str] = ()
) -> list[Series]:
    out = []
    for who in columns(results, row):
        name, colour, dashed = WHO[who]
        points = []
        for label in _sizes(results, row):
            one, x = results.find(row, label, *who), shapes.parse(label).services
            if one is None or who[0] in without:
                continue
            if one.status == "unfinished" and key == "seconds":
                points.append(Point(x, one.values["seconds"] * scale, bound=True))
            elif one.status == "ok" and one.values.get(key, 0) > 0:
                top = one.values[high] * scale if high in one.values else None
                points.append(Point(x, one.values[key] * scale, high=top))
        out.append(Series(name, colour, points, dashed))
    return out


def _empty(results: Results, key: str, scale: float = 1.0) -> list[Series]:
    sizes = [shapes.parse(label).services for label in _sizes(results, "packets")]
    return [
        Series(
            f"empty chain, {row.backend}",
            "#8a929a",
            [Point(x, row.values[key] * scale) for x in sizes],
            row.backend != "nft",
        )
        for row in results.rows
        if row.row == "empty" and row.status == "ok"
    ]


def columns(results: Results, row: str) -> list[tuple[str, str]]:
    """Returns the subjects with such rows, in the order of `WHO`."""
    there = {(one.subject, one.backend) for one in results.rows if one.row == row and one.status != "skipped"}
    return [who for who in WHO if who in there]


def labels(results: Results, *rows: str) -> list[str]:
    """Returns the shapes of these rows: four endpoints first, by size."""
    found = {one.shape for one in results.rows if one.row in rows and one.shape}
    return sorted(found, key=_order)


def _order(label: str) -> tuple[bool, int, int, str]:
    shape = shapes.parse(label)
    return shape.endpoints != 4 or shape.ports > 1 or shape.dual, shape.services, shape.endpoints, label


def ms(value: float) -> str:
    """Milliseconds."""
    return seconds(value / 1000)


def mib(value: float) -> str:
    """MiB."""
    return f"{number(value)} MiB"


def percent(value: float) -> str:
    """Formats a percentage."""
    return f"{number(value)} %"
