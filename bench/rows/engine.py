"""Rows of the engine alone: the Rust bench, and any shape as the daemon calls it, from objects to text."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

from bench import shapes
from bench.results import ROOT, Row
from bench.rows import tool
from bench.shapes import Shape
from bench.stats import percentile
from bench.verify import WrongRules
from ferrule._engine import Engine
from ferrule.types import FAMILIES, Kind

CHANGES = 300
REPEATS = 3
CARGO_SECONDS = 1200.0


def cargo() -> Iterator[Row]:
    """Runs `cargo bench` and yields its rows."""
    argv = (os.environ.get("CARGO", "cargo"), "bench", "-q", "-p", "ferrule-bench", "--bench", "engine", "--", "--json")
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        seen = 0
        for line in child.stdout:
            said = json.loads(line)
            seen += 1
            row = Row("engine", subject=said["name"], values=said["figures"])
            row.reason = said["text"]
            if not said["ok"]:
                row.status, row.reason = "failed", f"{said['text']}: the bar is {said['bar']}"
            yield row
        complaint = child.stderr.read()
    # Exit code 1 is a missed bar, which its row reports.
    if child.returncode not in (0, 1) or not seen:
        raise RuntimeError(f"cargo bench: exit {child.returncode}: {complaint[-500:]}")


def plan(shape: Shape) -> dict[str, float]:
    """Measures lists in, full plans of every family out, encoded for nf_tables, best of three; then one endpoint
    after the other."""
    services, slices = shapes.objects(shape)
    pages: dict[Kind, bytes] = {"Service": json.dumps(services).encode(), "EndpointSlice": json.dumps(slices).encode()}
    by_name = {one["metadata"]["name"]: one for one in slices}
    del services, slices
    runs = []
    for _ in range(REPEATS):
        engine = Engine(tool.options("nft"))
        runs.append(_from_nothing(engine, shape, pages))
    first = {name: min(run[name] for run in runs) for name in runs[0]}
    taken = []
    for turn in range(CHANGES):
        number = turn * 7919 % shape.services
        frame = shapes.moved(shape, by_name[shapes.slice_name(number)], number, turn + 1)
        begun = time.perf_counter()
        engine.ingest("EndpointSlice", frame)
        changed = engine.plan("ipv4", netlink=True)
        size_now = 0 if changed is None else sum(len(one.payload()) for one in changed.take_transactions())
        taken.append(time.perf_counter() - begun)
        if changed is None or not size_now or not changed.chains_written:
            raise WrongRules(f"change {turn} planned nothing")
        engine.commit(changed)
    return first | {
        "decode MB/s": sum(map(len, pages.values())) / first["decode ms"] / 1e3,
        "change p50 ms": 1000 * percentile(taken, 50),
        "change p99 ms": 1000 * percentile(taken, 99),
    }


def _from_nothing(engine: Engine, shape: Shape, pages: dict[Kind, bytes]) -> dict[str, float]:
    begun = time.perf_counter()
    rejected = sum(engine.replace(kind, [page]).rejected for kind, page in pages.items())
    decoded = time.perf_counter() - begun
    if rejected:
        raise WrongRules(f"objects were rejected: {engine.problems()[:3]}")
    engine.replace("Node", [json.dumps([tool.NODE]).encode()])
    rules, size, batches, planned, encoded = 0, 0, 0, 0.0, 0.0
    for family in FAMILIES:
        engine.observe(family, b"")
        begun = time.perf_counter()
        full = engine.plan(family, netlink=True)
        planned += time.perf_counter() - begun
        if full is None:
            raise WrongRules(f"no plan for {family}")
        size += full.payload_size
        begun = time.perf_counter()
        batches += sum(len(transaction.payload()) for transaction in full.take_transactions())
        encoded += time.perf_counter() - begun
        rules += full.rules_written
        engine.commit(full)
    least = (3 if shape.endpoints else 0) * shape.total * (1 + shape.dual)
    if rules < least:
        raise WrongRules(f"{rules} rules, at least {least} are wanted")
    return {
        "decode ms": 1000 * decoded,
        "plan ms": 1000 * planned,
        "rules": float(rules),
        "MB": size / 1e6,
        "encode ms": 1000 * encoded,
        "encoded MB": batches / 1e6,
    }
