"""Plans the rows of a run and their order, and estimates their durations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import shapes
from bench.runner import Step
from bench.shapes import Shape

ALONE = ("engine", "plan", "tool", "empty")
"""Rows without an API server."""

DAEMON = ("start", "change", "churn", "burst", "flood", "idle", "restart", "packets")
"""Rows of a daemon, in the order of one lifetime."""

SUBJECTS = ("ferrule", "stock", "stock-nftables", "ferrule-flat")
"""ferrule as installed; kube-proxy in iptables and in nftables mode; ferrule with `ferrule.dispatch: flat`."""

BACKENDS = ("nft", "legacy")
LONG = 300.0
"""Seconds after which a first sync counts as not finished."""

HOPELESS = 60.0
"""Seconds where kube-proxy is known to need three quarters of an hour."""

QUADRATIC = 30_000
"""Number of endpoint chains from which kube-proxy's iptables mode on iptables-nft takes minutes."""

USUAL = 4
"""Endpoints per Service in the series over sizes."""

HUGE = 100_000
"""The number from which its nftables mode does."""


@dataclass(frozen=True, slots=True)
class Part:
    """A shape with its rows, subjects and backends."""

    shape: str
    rows: tuple[str, ...]
    subjects: tuple[str, ...] = SUBJECTS
    backends: tuple[str, ...] = BACKENDS


ALL = ("ferrule", "stock", "stock-nftables")
SHORT = (
    Part("", ("engine",)),
    Part("100x250", ("plan",)),
    Part("500x500", ("plan",)),
    Part("1000x4x3-dual", ("plan",)),
    Part("1000x4", ("plan", "tool", "start", "change", "restart", "packets", "empty")),
)
FULL = (
    Part("", ("engine",)),
    Part("1000x4", ("plan", "tool", "start", "change", "restart", "packets", "empty")),
    Part("5000x4", ("start", "packets")),
    Part("10000x4", ("plan", "tool", "start", "change", "churn", "burst", "restart", "packets")),
    Part("30000x4", ("plan", "tool", "start", "change", "churn", "burst", "idle", "restart", "packets")),
    Part("1000x4x3-dual", ("plan", "start"), ALL),
    Part("100x250", ("plan", "start"), ALL),
    Part("500x500", ("plan", "start"), ALL),
)


def combinations(subjects: Sequence[str], backends: Sequence[str], shape: Shape) -> list[tuple[str, str]]:
    """Returns subjects and backends, fast ones first, each once; kube-proxy's nftables mode has one backend."""
    wanted = [
        (subject, backend)
        for subject in SUBJECTS
        for backend in BACKENDS
        if subject in subjects and backend in backends and not (subject == "stock-nftables" and backend != "nft")
    ]
    return sorted(wanted, key=lambda pair: guess("start", shape, *pair))


def steps(parts: Sequence[Part], rows: Sequence[str], subjects: Sequence[str], backends: Sequence[str]) -> list[Step]:
    """Returns the steps in their order. `rows`, `subjects`, `backends` restrict the parts."""
    out: list[Step] = []
    for part in parts:
        wanted = [row for row in (*ALONE, *DAEMON) if row in part.rows and row in rows]
        if not part.shape:
            out += (Step(row, guess=100) for row in wanted)
            continue
        shape = shapes.parse(part.shape)
        here = [backend for backend in part.backends if backend in backends]
        if "plan" in wanted:
            out.append(Step("plan", shape.label, "ferrule", "", guess("plan", shape)))
        for row in ("tool", "empty"):
            if row in wanted:
                out += (Step(row, shape.label, row, backend, guess(row, shape, row, backend)) for backend in here)
            if row == "tool" and row in wanted and "nft" in here:
                out.append(Step(row, shape.label, "kernel", "nft", guess(row, shape, "kernel", "nft")))
        those = [subject for subject in part.subjects if subject in subjects]
        for subject, backend in combinations(those, here, shape):
            for row in wanted:
                if row in ALONE or not _makes_sense(row, shape, subject, backend):
                    continue
                out.append(Step(row, shape.label, subject, backend, guess(row, shape, subject, backend)))
    return out


def _makes_sense(row: str, shape: Shape, subject: str, backend: str) -> bool:
    if subject == "ferrule-flat":
        return row in ("start", "packets")
    if (subject, backend) == ("stock", "nft"):
        if shape.endpoints != USUAL or shape.ports > 1:
            return False  # quadratic in chains: one series shows it
        if shape.total > 2 * QUADRATIC:
            return row == "start"  # stopped; once is enough
        if shape.total >= QUADRATIC:
            return row in ("start", "change", "packets")  # each of the others would take minutes
    return not (subject == "stock-nftables" and shape.total >= HUGE and row in ("restart", "idle"))


def patience(shape: Shape, subject: str, backend: str) -> float:
    """Returns the time limit of a first sync in seconds."""
    hopeless = subject == "stock" and backend == "nft" and shape.total > 2 * QUADRATIC
    return HOPELESS if hopeless else LONG


def guess(row: str, shape: Shape, subject: str = "", backend: str = "") -> float:
    """Estimates seconds, from earlier runs on two cores; only for the progress line."""
    chains = shape.total * (1 + shape.dual) / 4000
    if row in ("plan", "engine"):
        return 1 + chains / 3
    if row == "tool":
        return 2 + chains * (0.6 if backend == "nft" else 1.2)
    if row == "empty":
        return 3
    first = {
        ("ferrule", "nft"): 1 + chains * 0.5,
        ("ferrule", "legacy"): 1 + chains * 0.35,
        ("ferrule-flat", "nft"): 1.5 + chains * 0.6,
        ("ferrule-flat", "legacy"): 1.5 + chains * 0.35,
        ("stock", "legacy"): 1 + chains * 0.5,
        # In nftables mode a Service's endpoints are one rule.
        ("stock-nftables", "nft"): 1 + (shape.services * shape.ports / 1000) ** 2 * 0.27,
    }.get((subject, backend), min(1 + chains * chains * 2, HOPELESS if chains > 15 else LONG))
    if row in ("start", "restart"):
        return first + 2 + chains * 0.2
    if row == "packets":
        return 8 + chains * 0.1
    return {"change": 14.0, "churn": 22.0, "burst": 8 + chains * 0.3, "idle": 50.0, "flood": 120.0}[row]
