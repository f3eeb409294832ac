"""Balancing trees in a real kernel: its own words are recognised, nothing of them stays, real connections fall evenly.

All in one namespace: every endpoint's address is local there, behind one listener.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions, Plan
from ferrule.cleanup import cleanup
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.process.runner import Runner
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.testing.waiting import PATIENCE
from ferrule.types import FAMILIES, Backend, Family
from tests.objects import NODE, V4, V6, endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

PART = b"KUBE-SVC-BAL-"
SERVICE_IP: dict[Family, str] = {"ipv4": V4, "ipv6": V6}


def pod(family: Family, n: int) -> str:
    return f"10.128.{n >> 8}.{n & 255}" if family == "ipv4" else f"fd00:10:128::{n:x}"


def client(family: Family, n: int) -> str:
    return f"10.129.{n >> 8}.{n & 255}" if family == "ipv4" else f"fd00:10:129::{n:x}"


def objects(numbers: Iterable[int], **spec: Any) -> list[dict[str, Any]]:
    """One Service with these endpoints, in both families."""
    pieces = []
    for family, api in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
        pieces.append(endpoint_slice([endpoint(pod(family, n)) for n in numbers], family=api))  # type: ignore[arg-type]
    return [NODE, service(**spec), *pieces]


@dataclass
class Node:
    """A namespace, and what writes its rules."""

    netns: NetNs
    backend: str

    @property
    def runner(self) -> Runner:
        return Runner(self.netns.prefix)

    def plane(self, family: Family) -> IptablesDataplane:
        return IptablesDataplane(family, Backend(self.backend), self.runner)

    def saved(self, family: Family) -> bytes:
        return asyncio.run(self.plane(family).save())

    def sync(self, balance: str, state: list[dict[str, Any]], family: Family) -> Plan | None:
        """As a process that has just started; `None`: there was nothing to write."""
        options = EngineOptions(node_name="node-1", ordered_blocks=self.backend == "nft", balance=balance)  # type: ignore[arg-type]
        engine = Engine(options)
        for kind in ("Service", "EndpointSlice", "Node"):
            engine.replace(kind, [orjson.dumps([o for o in state if o["kind"] == kind])])  # type: ignore[arg-type]
        engine.observe(family, self.saved(family))
        plan = engine.plan(family)
        if plan is not None:
            asyncio.run(self.plane(family).restore(plan.payload))
        return plan


@pytest.fixture
def node(netns: NetNs, backend: str) -> Node:
    why_not = small_transactions_only(backend)
    if why_not:
        pytest.skip(why_not)
    # Whatever a packet here is for, it is for this host.
    for net in ("10.96.0.0/16", "10.128.0.0/15"):
        netns.ip("route", "add", "local", net, "dev", "lo")
    for net in ("fd00:10:96::/64", "fd00:10:128::/47"):
        netns.ip("-6", "route", "add", "local", net, "dev", "lo")
    # In IPv6 such a route does not make an address one that a client may have.
    netns.sysctl(ipv6__ip_nonlocal_bind=1)
    return Node(netns, backend)


def rules(saved: bytes) -> list[bytes]:
    return sorted(line for line in saved.splitlines() if line.startswith((b"-A ", b":KUBE-")))


def parts(saved: bytes) -> int:
    return saved.count(b"\n:" + PART)


def test_trees_are_recognised_and_leave_nothing(node: Node) -> None:
    for family in FAMILIES:
        assert node.sync("flat", objects(range(1, 400)), family)
        flat = node.saved(family)
        assert parts(flat) == 0
        assert node.sync("tree", objects(range(1, 400)), family)
        assert parts(node.saved(family)) > 40
        # What the kernel prints is what we meant, to the last digit of a probability.
        assert node.sync("tree", objects(range(1, 400)), family) is None
        # The same tree of larger parts.
        assert node.sync("auto", objects(range(1, 400)), family)
        assert 0 < parts(node.saved(family)) < 40
        assert node.sync("auto", objects(range(1, 400)), family) is None
        plan = node.sync("auto", objects(range(1, 399)), family)
        assert plan is not None
        touched = [c for c in (*plan.chains_written, *plan.chains_deleted) if PART.decode() in c]
        assert 1 <= len(touched) <= 2
        assert node.sync("auto", objects(range(1, 90)), family), "below the threshold"
        assert parts(node.saved(family)) == 0
        assert node.sync("tree", objects(range(1, 400)), family)
        assert node.sync("flat", objects(range(1, 400)), family)
        assert rules(node.saved(family)) == rules(flat)
        assert node.sync("tree", objects(range(1, 400)), family)
    report = asyncio.run(cleanup(node.runner))
    assert report.problems == []
    for family in FAMILIES:
        assert b"KUBE-S" not in node.saved(family)


def connect(family: Family, sources: Iterable[str]) -> list[str]:
    """Who was chosen for one connection from each of these addresses, in turn."""
    kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    reset = struct.pack("ii", 1, 0)
    chosen = []
    with socket.create_server(("", 8080), family=kind) as listener:
        for source in sources:
            with socket.socket(kind, socket.SOCK_STREAM) as asking:
                asking.settimeout(PATIENCE)  # time: the deadline at which a test fails
                # Closed by a reset: nothing waits for late segments, so no port is ever short.
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                asking.bind((source, 0))
                asking.connect((SERVICE_IP[family], 80))
                answering, _ = listener.accept()
                with answering:
                    chosen.append(str(answering.getsockname()[0]))
    return chosen


def limit(freedom: int) -> float:
    """What chi-square exceeds once in ten million runs (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 5.2 * math.sqrt(part)) ** 3


def unevenness(counts: Counter[str], among: int) -> float:
    """Chi-square of these counts, were every one of so many as likely as another."""
    expected = counts.total() / among
    return sum(n * n for n in counts.values()) / expected - counts.total()


def test_real_connections_fall_evenly(node: Node) -> None:
    size, per_endpoint = 300, 20
    for family in FAMILIES:
        assert node.sync("tree", objects(range(1, size + 1)), family)
        saved = node.saved(family)
        sources = [client(family, 1)] * (size * per_endpoint)
        counts = Counter(node.netns.call(lambda family=family, sources=sources: connect(family, sources)))
        assert set(counts) <= {pod(family, n) for n in range(1, size + 1)}
        assert unevenness(counts, size) < limit(size - 1), counts
        # The same of the tree's first branches, where a wrong probability would show most.
        share = re.findall(rb"-A KUBE-SVC-[A-Z2-7]{16} .*?(\d+) endpoints\" .*-j (KUBE-SVC-BAL-\S+)", saved)
        assert 10 <= len(share) <= 16
        chain_of = {c: p for p, c in re.findall(rb"-A (KUBE-S\S+) .*-j (KUBE-S(?:EP|VC-BAL)-\S+)", saved)}
        address = {
            c: a.decode().strip("[]") for c, a in re.findall(rb"-A (KUBE-SEP-\S+) .*--to-destination (\S+):8080", saved)
        }
        by_branch: Counter[bytes] = Counter()
        for chain, ip in address.items():
            top = chain
            while not re.fullmatch(rb"KUBE-SVC-[A-Z2-7]{16}", chain_of[top]):
                top = chain_of[top]
            by_branch[top] += counts[ip]
        sizes = {chain: int(n) for n, chain in share}
        total = sum(sizes.values())
        assert total >= size - 5, "single endpoints aside, the branches hold them all"
        deviation = sum(
            (by_branch[c] - counts.total() * n / size) ** 2 / (counts.total() * n / size) for c, n in sizes.items()
        )
        assert deviation < limit(len(sizes)), by_branch


def test_no_change_loses_a_connection(node: Node) -> None:
    many, fewer, others = range(1, 501), range(1, 201), range(150, 700)
    assert node.sync("flat", objects(many), "ipv4")
    enough = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        # Until told to stop: one connection after the other, each from the next port.
        sources = (client("ipv4", 1) for _ in iter(enough.is_set, True))
        traffic = pool.submit(lambda: node.netns.call(lambda: connect("ipv4", sources)))
        try:
            blocks = []
            for balance, numbers in (
                ("tree", many),
                ("tree", fewer),
                ("tree", others),
                ("auto", range(1, 51)),
                ("auto", others),
                ("flat", many),
            ) * 3:
                plan = node.sync(balance, objects(numbers), "ipv4")
                assert plan is not None
                blocks.append(plan.blocks)
        finally:
            enough.set()
        chosen = traffic.result()
    assert (max(blocks) >= 3) is (node.backend == "nft"), "some went in several transactions, where that is done"
    assert len(chosen) > 100
    assert set(chosen) <= {pod("ipv4", n) for n in range(1, 700)}


def test_affinity_holds_with_a_tree(node: Node) -> None:
    sticky = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
    clients = 150
    for family in FAMILIES:
        assert node.sync("tree", objects(range(1, 201), **sticky), family)
        assert parts(node.saved(family)) > 10
        sources = [client(family, n) for n in range(1, clients + 1)] * 4
        chosen = node.netns.call(lambda family=family, sources=sources: connect(family, sources))
        first, *others = (chosen[i : i + clients] for i in range(0, len(chosen), clients))
        assert all(again == first for again in others)
        # Different clients are free. Of 200 endpoints, 150 picks meet about 106; fewer than 60 never.
        assert len(set(first)) > 60
