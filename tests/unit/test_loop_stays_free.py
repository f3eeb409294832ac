"""Long work runs in a thread, short work on the event loop. The thread of each call is recorded."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from ferrule._engine import Engine, EngineOptions, IngestReport
from ferrule.errors import FailureKind
from ferrule.sync import intake, loop
from ferrule.sync.cadence import Cadence
from ferrule.sync.intake import Batch, Intake
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.testing.waiting import in_virtual_time, let_pass
from ferrule.types import KINDS
from tests.objects import endpoint, endpoint_slice, service


class Watched:
    """An engine that records which of its calls ran on the event loop."""

    def __init__(self) -> None:
        self._engine = Engine(EngineOptions(node_name="node-1"))
        self._loop = threading.get_ident()
        self.inline: set[str] = set()
        self.threaded: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._engine, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            (self.inline if threading.get_ident() == self._loop else self.threaded).add(name)
            return call(*arguments, **options)

        return noted

    @property
    def as_engine(self) -> Engine:
        return cast(Engine, self)


def lists(pod: str) -> Changes:
    objects = {"Service": [service()], "EndpointSlice": [endpoint_slice([endpoint(pod)])], "Node": []}
    return Changes({kind: json.dumps(objects[kind]).encode() for kind in KINDS})


@pytest.mark.parametrize("large", [True, False])
def test_a_sync(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "INLINE_BYTES", 0 if large else 1 << 20)
    watched, kernel = Watched(), FakeDataplane()
    syncs = SyncLoop(watched.as_engine, [kernel], Cadence(0.0), clock=lambda: 0.0)
    syncs.submit(lists("10.128.1.10"))
    assert asyncio.run(syncs.sync()).ok
    syncs.submit(lists("10.128.1.11"))
    kernel.fail_next(FailureKind.KERNEL)
    assert not asyncio.run(syncs.sync()).ok
    # Depends on the size of the state or of the input, which is not known beforehand.
    threaded = {"replace", "observe", "plan", "conntrack_view", "take_problem_changes", "health_checks", "own_node"}
    assert watched.threaded - {"commit", "abandon"} == threaded
    assert watched.inline - {"commit", "abandon"} == {"take_change_triggers", "rule_reader", "facts"}
    assert {"commit", "abandon"} <= (watched.threaded if large else watched.inline)


@pytest.mark.parametrize("large", [True, False])
def test_an_intake(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "INLINE_BYTES", 1000)
    watched, batches = Watched(), list[tuple[Batch, IngestReport]]()
    items = [service(f"web-{n}") for n in range(10 if large else 1)]
    text = json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode()
    frame = json.dumps({"type": "DELETED", "object": items[0]}).encode() + b"\n"

    async def scenario() -> None:
        taking = Intake(watched.as_engine, asyncio.Lock(), lambda *batch: batches.append(batch), clock=time.monotonic)
        await taking.begin_list("Service")
        await taking.feed_list("Service", text)
        await taking.end_list("Service")
        await taking.ingest("Service", frame * (len(items) if large else 1))

    asyncio.run(scenario())
    assert [(batch.kind, report.changed) for batch, report in batches] == [("Service", len(items)), ("Service", 1)]
    # Applying a list takes time proportional to the existing objects.
    assert watched.threaded == {"end_list"} | ({"feed_list", "ingest"} if large else set())
    assert watched.inline == {"begin_list"} | (set() if large else {"feed_list", "ingest"})


def test_a_batch_knows_its_arrival_and_its_work_apart_from_waiting() -> None:
    now, batches = [100.0], list[Batch]()

    class Working(Watched):
        def __getattr__(self, name: str) -> Callable[..., Any]:
            now[0] += 1.0
            return super().__getattr__(name)

    async def scenario() -> None:
        lock = asyncio.Lock()
        taking = Intake(Working().as_engine, lock, lambda batch, _: batches.append(batch), clock=lambda: now[0])
        await taking.begin_list("Service")
        await taking.feed_list("Service", b'{"metadata": {"resourceVersion": "7"}, ')
        async with lock:
            waiting = asyncio.create_task(taking.feed_list("Service", b'"items": []}'))
            await let_pass(1)
            now[0] += 50.0  # a plan runs
        await waiting
        await taking.end_list("Service")

    in_virtual_time(scenario())
    (batch,) = batches
    assert (batch.arrived_at, batch.seconds) == (100.0, 3.0)
