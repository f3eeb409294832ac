"""Another Python thread runs while the engine works. A call that keeps the GIL stops it: then it makes no step at all.

The interpreter's switch interval is set so high that it never takes the GIL from a thread. What another thread counts
during a call thus shows whether the call itself released the GIL.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ferrule._engine import Engine, EngineOptions, Plan
from ferrule.types import KINDS
from tests.objects import endpoint, endpoint_slice, service

SERVICES = 1500
ATTEMPTS = 50_000
"""The other thread needs some microseconds to wake, on a busy machine far more; a short call may be over by then."""


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """A thread that counts whenever it gets the GIL, and offers it again after each step."""
    steps, stop, interval = [0], threading.Event(), sys.getswitchinterval()

    def count() -> None:
        while not stop.is_set():
            steps[0] += 1
            time.sleep(0)  # time: releases the GIL, and waits for nothing

    thread = threading.Thread(target=count)
    sys.setswitchinterval(1000.0)
    thread.start()
    try:
        yield lambda: steps[0]
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()


def another_thread_ran(prepare: Callable[[], Callable[[], object]]) -> bool:
    """Whether another thread made a step during a call, in any of many attempts; `prepare` sets up one attempt."""
    with counting() as steps:
        for _ in range(ATTEMPTS):
            call = prepare()
            before = steps()
            call()
            if steps() != before:
                return True
    return False


def listed(n: int, pod: str) -> dict[str, str]:
    services, slices = [], []
    for i in range(n):
        ip = f"10.96.{i // 250}.{i % 250 + 1}"
        spec: dict[str, Any] = {"externalIPs": ["nonsense"], "nodePort": 30000, "protocol": "UDP"}
        balanced = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000 + i}
        services.append(service(f"web-{i}", clusterIP=ip, clusterIPs=[ip], ipFamilies=["IPv4"], **spec, **balanced))
        slices.append(endpoint_slice([endpoint(f"{pod}.{i % 250 + 1}")], of=f"web-{i}", protocol="UDP"))
    return {"Service": json.dumps(services), "EndpointSlice": json.dumps(slices), "Node": "[]"}


class Loaded:
    """An engine with many Services, all with problems, and its plan."""

    def __init__(self) -> None:
        self.lists = [listed(SERVICES, pod) for pod in ("10.128.1", "10.128.2")]
        self.turn = 0
        self.engine = Engine(EngineOptions(node_name="node-1"))
        self.engine.observe("ipv4", b"")
        self.plan = self.replan()
        transactions = Engine(EngineOptions(node_name="node-1", ordered_blocks=True))
        self.feed(transactions)
        transactions.observe("ipv4", b"")
        whole = transactions.plan("ipv4", netlink=True)
        assert whole is not None
        self.transaction = max(whole.take_transactions(), key=lambda t: len(t.payload()))

    def feed(self, engine: Engine) -> None:
        self.turn += 1
        for kind in KINDS:
            engine.replace(kind, [self.lists[self.turn % 2][kind].encode()])

    def replan(self) -> Plan:
        """A plan in flight that writes every endpoint."""
        self.feed(self.engine)
        plan = self.engine.plan("ipv4")
        assert plan is not None
        return plan

    def settled(self) -> None:
        self.engine.commit(self.replan())


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded()


READS: dict[str, Callable[[Loaded], object]] = {
    "Engine.problems": lambda at: at.engine.problems(),
    "Engine.health_checks": lambda at: at.engine.health_checks(),
    "Engine.snapshot": lambda at: at.engine.snapshot(),
    "Plan.payload": lambda at: at.plan.payload,
    "Plan.chains_written": lambda at: at.plan.chains_written,
    "Transaction.payload": lambda at: at.transaction.payload(),
}


@pytest.mark.parametrize("name", READS)
def test_reading(name: str, loaded: Loaded) -> None:
    assert another_thread_ran(lambda: lambda: READS[name](loaded))


def feed(at: Loaded) -> Callable[[], object]:
    return lambda: at.feed(at.engine)


def plan(at: Loaded) -> Callable[[], object]:
    at.engine.observe("ipv4", b"")
    at.feed(at.engine)
    return lambda: at.engine.plan("ipv4")


def commit(at: Loaded) -> Callable[[], object]:
    at.engine.observe("ipv4", b"")
    ready = at.replan()
    return lambda: at.engine.commit(ready)


def abandon(at: Loaded) -> Callable[[], object]:
    at.engine.observe("ipv4", b"")
    ready = at.replan()
    return lambda: at.engine.abandon(ready)


def observe(at: Loaded) -> Callable[[], object]:
    saved = at.plan.payload
    return lambda: at.engine.observe("ipv4", saved)


def conntrack_view(at: Loaded) -> Callable[[], object]:
    at.engine.observe("ipv4", b"")
    at.settled()
    return lambda: at.engine.conntrack_view("ipv4")


def take_problem_changes(at: Loaded) -> Callable[[], object]:
    at.engine.take_problem_changes()
    for kind in KINDS:
        at.engine.replace(kind, [b"[]"])
    return at.engine.take_problem_changes


@pytest.mark.parametrize(
    "prepare", [feed, plan, commit, abandon, observe, conntrack_view, take_problem_changes], ids=lambda f: f.__name__
)
def test_working(prepare: Callable[[Loaded], Callable[[], object]], loaded: Loaded) -> None:
    assert another_thread_ran(lambda: prepare(loaded))


def test_a_call_that_keeps_the_gil_is_noticed() -> None:
    """The measure itself: sorting does not release the GIL."""
    numbers = list(range(20_000, 0, -1))
    with counting() as steps:
        before = steps()
        for _ in range(200):
            sorted(numbers, key=float)
        assert steps() == before
