"""Renders results as tables, plots and verdicts: docs/performance.md and docs/performance/*.svg. Pure except for
`write`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.bars import PLACES, Check, checks
from bench.figures import WHO, columns, labels, mib, ms, percent, plots
from bench.results import Results, Row
from bench.stats import number, seconds

__all__ = ["Check", "checks", "page", "plots", "summary", "write"]

INTRO = """Written by `make bench-full` from `docs/performance/results.json`; do not edit. `make bench-full
ARGS=--help` explains how to run parts of it, `bench/README.md` what the rows measure and what they do not show.

All rows are from one machine and one run (possibly resumed). Compare ratios: absolute figures depend on the
machine."""


def write(results: Results, docs: Path) -> list[Path]:
    """Writes the page, its plots, and the results. Returns their paths."""
    folder = docs / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(results)
    for old in folder.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, svg in drawn.items():
        (folder / name).write_text(svg)
    results.save(folder / "results.json")
    (docs / "performance.md").write_text(page(results))
    return [docs / "performance.md", *(folder / name for name in drawn)]


def summary(results: Results) -> str:
    """Returns the bars and every row's table, for the terminal."""
    return "\n\n".join((*_bars(results), *_tables(results, plotted=frozenset())))


def page(results: Results) -> str:
    """Returns docs/performance.md."""
    parts = ["# Performance", INTRO, *_ground(results), *_bars(results)]
    parts += _tables(results, plotted=frozenset(plots(results)))
    parts += _not_measured(results)
    return "\n\n".join(parts) + "\n"


def _ground(results: Results) -> Iterator[str]:
    if results.machine:
        machine = results.machine
        yield (
            f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory GiB']} GiB, "
            f"kernel {machine['kernel']} (load before the run: {machine['load before']})."
        )
    if results.versions:
        told = ((name, text) for name, text in results.versions.items() if text)
        # Some tools say their own name.
        named = (text if text.startswith(name) else f"{name} {text}" for name, text in told)
        yield "Versions: " + ", ".join(named) + "."
    if results.settings:
        said = ", ".join(f"{name} {value}" for name, value in results.settings.items())
        yield f"Settings, the same for all proxies: {said}. All proxies have the same node."


def _bars(results: Results) -> Iterator[str]:
    judged = [check for check in checks(results) if check.met is not None]
    if not judged:
        return
    yield "## Bars"
    words = {True: "met", False: "**missed**"}
    yield table(
        ("", "wanted", "measured", ""),
        [(check.name, check.wanted, check.measured, words[bool(check.met)]) for check in judged],
    )


def _tables(results: Results, plotted: frozenset[str]) -> Iterator[str]:
    def image(name: str, alt: str) -> Iterator[str]:
        if name in plotted:
            yield f"![{alt}](performance/{name})"

    def section(title: str, text: str, body: Sequence[str], plot: str = "") -> Iterator[str]:
        shown = [part for part in body if part]
        if shown:
            yield f"## {title}"
            yield text
            yield from image(plot, title)
            yield from shown

    yield from section(
        "First sync",
        "Process start → both families' first sync, into an empty kernel; checked by the number of endpoint chains "
        "and by sampled Services. *Tool alone*: the same text as input of "
        "iptables-restore; *kernel alone*: the same as encoded transactions. `>`: stopped after this time.",
        [_first_sync(results), _by_subject(results, "restart", "seconds", seconds, "Restart, over its own rules")],
        "first-sync.svg",
    )
    yield from section(
        "One change",
        "API write → the first new connection that the new Pod answers, p50 / p99 (of fewer than a hundred changes: "
        "the slowest). *Tool's floor*: the smallest restore, one Service's chains, at "
        "that size; *kernel's floor*: one replaced endpoint as an encoded transaction.",
        [
            _change(results, "change"),
            _own_words(results),
            _change(results, "churn", "During a rolling update"),
            _cpu(results),
        ],
        "change.svg",
    )
    yield from section(
        "A thousand Services at once",
        "Written while the daemon is stopped (SIGSTOP); timed from SIGCONT to the last sync, with all results checked.",
        [_by_subject(results, "burst", "seconds", seconds)],
    )
    yield from section(
        "Memory and CPU",
        "Peak RSS (VmHWM) of the daemon at its first sync, the peak of its children, and CPU seconds "
        "of both; at rest, per cent of a core.",
        [
            _by_subject(results, "start", "RSS peak MiB", mib, "Daemon, peak"),
            _by_subject(results, "start", "children peak MiB", mib, "Children, peak"),
            _by_subject(results, "start", "CPU seconds", seconds, "CPU of the first sync"),
            _by_subject(results, "idle", "CPU percent", percent, "Idle"),
        ],
        "memory.svg",
    )
    yield from section(
        "First packet",
        "A local UDP send of a new flow through the rules that each daemon left, p50 in µs: to the first, middle and "
        "last Service, and to an address of no Service. *Empty chain*: the same entry jumps to chains without rules.",
        [_places(results, "packets", "{} p50 µs", number)],
        "first-packet.svg",
    )
    yield from section(
        "New connections a second",
        "Connect, accept, close against a local listener, one after the other on one core.",
        [_places(results, "packets", "{} connections a second", number)],
        "connections.svg",
    )
    yield from section(
        "Engine alone",
        "As the daemon calls it, without kernel or API server (`plan`), and the Rust bench's rows.",
        [_plan(results), _engine(results)],
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; empty without rows or without columns."""
    if not rows or len(head) < 2:
        return ""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def cell(row: Row | None, key: str, text: Callable[[float], str]) -> str:
    """Returns a value, or why it is missing."""
    if row is None or row.status == "skipped":
        return "–"
    if row.status == "failed":
        return "failed"
    if row.status == "unfinished":
        return f"> {seconds(row.values['seconds'])}" if key == "seconds" else "–"
    return text(row.values[key]) if key in row.values else "–"


def _titled(title: str, body: str) -> str:
    return f"**{title}**\n\n{body}" if title and body else body


def _by_subject(results: Results, row: str, key: str, text: Callable[[float], str], title: str = "") -> str:
    who_all = columns(results, row)
    lines = [
        (label, *(cell(results.find(row, label, *who), key, text) for who in who_all)) for label in labels(results, row)
    ]
    return _titled(title, table(("", *(WHO[who][0] for who in who_all)), lines))


def _first_sync(results: Results) -> str:
    who_all = columns(results, "start")
    tools = [
        backend for backend in ("nft", "legacy") if any(r.row == "tool" and r.backend == backend for r in results.rows)
    ]
    kernel = ["kernel alone, nft"] * any(r.row == "tool" and r.subject == "kernel" for r in results.rows)
    lines = [
        (
            label,
            *(cell(results.find("start", label, *who), "seconds", seconds) for who in who_all),
            *(cell(results.find("tool", label, "tool", backend), "seconds", seconds) for backend in tools),
            *(cell(results.find("tool", label, "kernel", "nft"), "seconds", seconds) for _ in kernel),
        )
        for label in labels(results, "start", "tool")
    ]
    return table(("", *(WHO[who][0] for who in who_all), *(f"tool alone, {b}" for b in tools), *kernel), lines)


def _change(results: Results, row: str, title: str = "") -> str:
    who_all = columns(results, row)
    floors = [
        (f"{subject}'s floor, {backend}", subject, backend)
        for subject, backend in (("tool", "legacy"), ("kernel", "nft"))
        if row == "change" and any((r.row, r.subject, r.backend) == ("tool", subject, backend) for r in results.rows)
    ]
    lines = []
    for label in labels(results, row):
        cells = [_pair(results.find(row, label, *who)) for who in who_all]
        cells += [cell(results.find("tool", label, *who), "floor p50 ms", ms) for _, *who in floors]
        lines.append((label, *cells))
    return _titled(title, table(("", *(WHO[who][0] for who in who_all), *(title for title, *_ in floors)), lines))


def _pair(row: Row | None) -> str:
    p50, p99 = cell(row, "p50 ms", ms), cell(row, "p99 ms", ms)
    return p50 if p50 == p99 else f"{p50} / {p99}"


def _own_words(results: Results) -> str:
    """Returns the daemons' own histograms, for those that have them."""
    kept = {"sync ms": "one sync", "change to kernel ms": "watch event → kernel"}
    lines = []
    for label in labels(results, "change"):
        for who in columns(results, "change"):
            row = results.find("change", label, *who)
            if row is not None and row.status == "ok" and "sync ms" in row.values:
                lines.append((label, WHO[who][0], *(cell(row, key, ms) for key in kept)))
    return _titled("The daemons' own histograms (means)", table(("", "", *kept.values()), lines))


def _cpu(results: Results) -> str:
    return _by_subject(results, "churn", "CPU percent", percent, "CPU during the rolling update, per cent of a core")


def _places(results: Results, row: str, key: str, text: Callable[[float], str]) -> str:
    lines = [
        ("empty chain", one.backend, *(cell(one, key.format(place), text) for place in PLACES))
        for one in results.rows
        if one.row == "empty"
    ]
    for label in labels(results, row):
        for who in columns(results, row):
            one = results.find(row, label, *who)
            if one is not None:
                lines.append((label, WHO[who][0], *(cell(one, key.format(place), text) for place in PLACES)))
    return table(("", "", *PLACES), lines)


def _plan(results: Results) -> str:
    lines = [
        (
            one.shape,
            f"{number(one.values['decode ms'])} ms ({number(one.values['decode MB/s'])} MB/s)",
            f"{number(one.values['plan ms'])} ms, {number(one.values['rules'])} rules, {number(one.values['MB'])} MB",
            f"{number(one.values['encode ms'])} ms, {number(one.values['encoded MB'])} MB"
            if "encode ms" in one.values
            else "–",
            f"{number(one.values['change p50 ms'])} / {number(one.values['change p99 ms'])} ms",
        )
        for label in labels(results, "plan")
        if (one := results.find("plan", label, "ferrule")) is not None and one.status == "ok"
    ]
    return table(("", "decode", "full plan", "the same for nf_tables", "one change, p50 / p99"), lines)


def _engine(results: Results) -> str:
    rows = [one for one in results.rows if one.row == "engine" and one.subject]
    state = {"ok": "", "failed": "**missed**"}
    return table(("Rust bench", "", ""), [(f"`{r.subject}`", r.reason, state.get(r.status, r.status)) for r in rows])


def _not_measured(results: Results) -> Iterator[str]:
    rows = [row for row in results.rows if row.status in ("failed", "skipped") and row.row != "engine"]
    if rows:
        yield "## Not measured"
        yield table(("row", "", "why"), [(row.key, row.status, row.reason.split("\n", 1)[0][:200]) for row in rows])
