"""ferrule's writes without ferrule: its text as input of iptables-restore, or its transactions sent to nf_tables;
and the minimum cost of a change."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from functools import partial

from bench import shapes, verify
from bench.shapes import Shape
from bench.stats import percentile
from ferrule._engine import Engine, EngineOptions, Transaction
from ferrule.dataplane import nfacct, nftables
from ferrule.testing.netns import NetNs
from ferrule.types import FAMILIES

RESTORE_SECONDS = 300.0
NODE = {"kind": "Node", "metadata": {"name": "node-1", "uid": "n", "resourceVersion": "1"}, "spec": {}, "status": {}}


LOCAL = ("127.0.0.1", "::1", "172.31.250.2", "fd00:255::2")


def options(backend: str, counters: Collection[str] = ()) -> EngineOptions:
    """Returns the options that the daemon uses on the bench's node; `counters` are its nfacct objects."""
    return EngineOptions(
        node_name="node-1",
        node_ips=("172.31.250.2",),
        local_detector="ClusterCIDR",
        cluster_cidrs=("10.128.0.0/9",),
        nfacct_invalid_dropped=nfacct.INVALID_DROPPED in counters,
        nfacct_localhost_accepted=nfacct.LOCALHOST_ACCEPTED in counters,
        ordered_blocks=backend == "nft",
    )


def counters_in(netns: NetNs) -> list[str]:
    """Creates nfacct objects as the daemon does, and returns those that exist."""
    names = (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED)
    return [name for name in names if netns.call(partial(nfacct.ensure, name)) is nfacct.Outcome.YES]


def filled(shape: Shape, backend: str, counters: Collection[str] = ()) -> Engine:
    """Returns an engine with the shape's objects and an observed empty kernel."""
    engine = Engine(options(backend, counters))
    engine.set_local_addresses(LOCAL)
    services, slices = shapes.objects(shape)
    engine.replace("Service", [json.dumps(services).encode()])
    engine.replace("EndpointSlice", [json.dumps(slices).encode()])
    engine.replace("Node", [json.dumps([NODE]).encode()])
    for family in FAMILIES:
        engine.observe(family, b"")
    return engine


def text(shape: Shape, backend: str, counters: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yields (tool, input) of a first sync, by family."""
    engine = filled(shape, backend, counters)
    for family, tool in zip(FAMILIES, ("iptables", "ip6tables"), strict=True):
        plan = engine.plan(family)
        if plan is not None:
            yield f"{tool}-{backend}-restore", plan.payload
            engine.commit(plan)


def restore(netns: NetNs, tool: str, payload: bytes) -> float:
    """Runs the tool as the daemon does. Returns the seconds."""
    argv = (*netns.prefix, tool, "--noflush", "-w", "5")
    begun = time.monotonic()
    done = subprocess.run(argv, input=payload, capture_output=True, check=False, timeout=RESTORE_SECONDS)
    passed = time.monotonic() - begun
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr.decode(errors='replace')[:300]}")
    return passed


def tool(shape: Shape, backend: str) -> dict[str, float]:
    """Restores everything, then one Service's chains repeatedly: the tool's floor for a change."""
    with NetNs("tool") as netns:
        parts = list(text(shape, backend, counters_in(netns)))
        seconds = sum(restore(netns, name, payload) for name, payload in parts)
        values = {"seconds": seconds, "MB": sum(len(payload) for _, payload in parts) / 1e6}
        values |= verify.iptables(netns, backend, shape)
        smallest = one_service(parts[0][1])
        floor = [1000 * restore(netns, parts[0][0], smallest) for _ in range(9)]
    return values | {"floor p50 ms": percentile(floor, 50), "floor p99 ms": percentile(floor, 99)}


def kernel(shape: Shape, backend: str) -> dict[str, float]:
    """Measures the same without a tool: the kernel's time for encoded transactions."""
    with NetNs("kernel") as netns:
        engine = filled(shape, backend, counters_in(netns))
        seconds = octets = 0.0
        for family in FAMILIES:
            plan = engine.plan(family, netlink=True)
            if plan is None:
                continue
            transactions = list(plan.take_transactions())
            octets += sum(len(transaction.payload()) for transaction in transactions)
            seconds += transact(netns, transactions)
            engine.commit(plan)
        values = {"seconds": seconds, "MB": octets / 1e6} | verify.iptables(netns, backend, shape)
        floor = []
        for turn in range(9):
            engine.ingest("EndpointSlice", shapes.moved(shape, next(shapes.slices(shape, turn)), turn, turn + 1))
            plan = engine.plan("ipv4", netlink=True)
            assert plan is not None
            floor.append(1000 * transact(netns, list(plan.take_transactions())))
            engine.commit(plan)
    return values | {"floor p50 ms": percentile(floor, 50), "floor p99 ms": percentile(floor, 99)}


def transact(netns: NetNs, transactions: list[Transaction]) -> float:
    """Seconds."""

    def write() -> float:
        begun = time.monotonic()
        nftables.write_in_thread(transactions, threading.Event())
        return time.monotonic() - begun

    return netns.call(write)


def one_service(payload: bytes) -> bytes:
    """Returns the smallest restore that changes a Service: its balancing chain and one endpoint's, in one
    transaction."""
    rules: dict[str, list[str]] = {}
    for line in payload.decode().splitlines():
        if line.startswith(("-A KUBE-SVC-", "-A KUBE-SEP-")):
            rules.setdefault(line.split(" ", 2)[1], []).append(line)
    chain, endpoint = next(
        (name, match[1])
        for name, lines in rules.items()
        for line in lines
        if name.startswith("KUBE-SVC-") and (match := re.search(r"-j (KUBE-SEP-\S+)", line)) and match[1] in rules
    )
    names = (endpoint, chain)
    lines = ["*nat", *(f":{name} - [0:0]" for name in names), *(line for name in names for line in rules[name])]
    return "\n".join((*lines, "COMMIT", "")).encode()
