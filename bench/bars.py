"""The bars: targets with the measured values. A bar whose rows are missing is not evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results import Results, Row
from bench.stats import number, seconds

TEN, THIRTY = "10000x4", "30000x4"
PLACES = ("first", "middle", "last", "miss")


@dataclass(frozen=True, slots=True)
class Check:
    """One bar. `met` is None without a measurement."""

    name: str
    wanted: str
    measured: str
    met: bool | None


def checks(results: Results) -> list[Check]:
    """Returns all bars, in the order of the pages that state them."""
    return [check for part in (_sync, _change, _engine, _memory, _packets) for check in part(results)]


def at_most(name: str, limit: float, value: float | None, unit: str = "s") -> Check:
    """Returns a bar with a limit; seconds are printed in a suitable unit."""

    def text(amount: float) -> str:
        return seconds(amount) if unit == "s" else f"{number(amount)} {unit}"

    if value is None:
        return Check(name, f"≤ {text(limit)}", "–", None)
    return Check(name, f"≤ {text(limit)}", text(value), value <= limit)


def at_most_times(name: str, limit: float, value: float | None, base: float | None, of: str) -> Check:
    """Returns a bar with a ratio to another value of the same run."""
    wanted = f"≤ {number(limit)} × {of}"
    if value is None or not base:
        return Check(name, wanted, "–", None)
    return Check(name, wanted, f"{value / base:.2f} ×", value / base <= limit)


def faster(name: str, times: float, value: float | None, other: Row | None, key: str, than: str) -> Check:
    """Returns a bar for a speed-up; a stopped measurement is a lower bound, which can meet a bar and never miss it."""
    wanted = f"≥ {number(times)} × faster than {than}" if times > 1 else f"faster than {than}"
    if value is None or other is None or key not in other.values or other.status not in ("ok", "unfinished"):
        return Check(name, wanted, "–", None)
    ratio = other.values[key] / value
    if other.status == "ok":
        return Check(name, wanted, f"{number(ratio)} ×", ratio >= times)
    return Check(name, wanted, f"> {number(ratio)} ×", True if ratio >= times else None)


def _sync(results: Results) -> Iterator[Check]:
    limits = {(TEN, "nft"): 6.0, (THIRTY, "nft"): 20.0, (THIRTY, "legacy"): 12.0}
    for shape in (TEN, THIRTY):
        for backend in ("nft", "legacy"):
            name = f"first sync {_size(shape)}, {backend}"
            ours = results.value("seconds", "start", shape, "ferrule", backend)
            if (shape, backend) in limits:
                yield at_most(name, limits[shape, backend], ours)
            if backend == "nft":
                alone = results.value("seconds", "tool", shape, "tool", backend)
                yield at_most_times(name, 1.4, ours, alone, "the tool alone")
            stock = results.find("start", shape, "stock", backend)
            modern = results.find("start", shape, "stock-nftables", "nft")
            if backend == "legacy":
                yield faster(name, 1, ours, stock, "seconds", "kube-proxy")
            elif shape == TEN:
                yield faster(name, 30, ours, stock, "seconds", "kube-proxy's iptables mode")
                yield faster(name, 1, ours, modern, "seconds", "kube-proxy's nftables mode")
            else:
                yield faster(name, 12, ours, modern, "seconds", "kube-proxy's nftables mode")
    yield at_most("rule generation 10,000", 0.25, _milli(results.value("plan ms", "plan", TEN, "ferrule")))


def _change(results: Results) -> Iterator[Check]:
    for shape, limit in ((TEN, 0.06), (THIRTY, 0.12)):
        name = f"one endpoint changed at {_size(shape)}, nft, p99"
        yield at_most(name, limit, _milli(results.value("p99 ms", "change", shape, "ferrule", "nft")))
        median = results.value("p50 ms", "change", shape, "ferrule", "nft")
        for subject, mode in (("stock", "iptables"), ("stock-nftables", "nftables")):
            other = results.find("change", shape, subject, "nft")
            yield faster(f"{name[:-5]}, p50", 10, median, other, "p50 ms", f"kube-proxy's {mode} mode")
    median = results.value("p50 ms", "change", TEN, "ferrule", "legacy")
    floor = results.value("floor p50 ms", "tool", TEN, "tool", "legacy")
    yield at_most_times(f"one endpoint changed at {_size(TEN)}, legacy, p50", 1.2, median, floor, "the tool's floor")
    for shape in (TEN, THIRTY):
        median = results.value("p50 ms", "change", shape, "ferrule", "nft")
        floor = results.value("floor p50 ms", "tool", shape, "kernel", "nft")
        name = f"one endpoint changed at {_size(shape)}, nft, p50"
        yield at_most_times(name, 1.4, median, floor, "the kernel's floor")
    burst = results.value("seconds", "burst", THIRTY, "ferrule", "nft")
    yield at_most(f"1,000 Services changed at once at {_size(THIRTY)}, nft", 2.0, burst)


def _engine(results: Results) -> Iterator[Check]:
    rows = [row for row in results.rows if row.row == "engine" and row.subject]
    good = sum(row.status == "ok" for row in rows)
    yield Check("engine rows", "each within its own bar", f"{good} of {len(rows)}", good == len(rows) if rows else None)
    for shape in (THIRTY,):
        yield at_most(f"full plan of {_size(shape)}", 0.5, _milli(results.value("plan ms", "plan", shape, "ferrule")))
        p99 = results.value("change p99 ms", "plan", shape, "ferrule")
        yield at_most(f"engine alone, one change at {_size(shape)}, p99", 0.001, _milli(p99))


def _memory(results: Results) -> Iterator[Check]:
    for backend in ("nft", "legacy"):
        peaks = [
            row.values["RSS peak MiB"]
            for row in results.rows
            if (row.shape, row.subject, row.backend) == (THIRTY, "ferrule", backend) and "RSS peak MiB" in row.values
        ]
        name = f"RSS of the daemon at {_size(THIRTY)}, {backend}, peak"
        yield at_most(name, 200, max(peaks) if peaks else None, "MiB")
        idle = results.value("CPU percent", "idle", THIRTY, "ferrule", backend)
        yield at_most(f"idle CPU at {_size(THIRTY)}, {backend}", 0.5, idle, "% of a core")


def _packets(results: Results) -> Iterator[Check]:
    for backend in ("nft", "legacy"):
        base = next(
            (row.values for row in results.rows if (row.row, row.backend, row.status) == ("empty", backend, "ok")), None
        )
        row = results.find("packets", THIRTY, "ferrule", backend)
        worst = base_p50 = None
        if row is not None and row.status == "ok" and base is not None:
            worst = max(row.values[f"{place} p50 µs"] for place in PLACES)
            base_p50 = base["miss p50 µs"]
        yield at_most_times(f"first packet at {_size(THIRTY)}, tree, {backend}", 3, worst, base_p50, "an empty chain")


def _size(shape: str) -> str:
    services, endpoints = shape.split("x")
    return f"{int(services):,} × {endpoints}"


def _milli(value: float | None) -> float | None:
    return None if value is None else value / 1000
