"""Removal of the other backend's rules: retried with back-off, each problem logged once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import pytest

from ferrule._engine import Engine, EngineOptions
from ferrule.cleanup import CleanupReport, Removed
from ferrule.daemon.after_sync import AfterSync
from ferrule.daemon.other_backend import FIRST_DELAY, MAX_DELAY, OtherBackend
from ferrule.dataplane.backend import Choice
from ferrule.host.probe import Host
from ferrule.observe.health import ProxyHealth, Readiness
from ferrule.observe.metrics import Metrics
from ferrule.observe.status import Status
from ferrule.process.runner import Runner
from ferrule.source.problems import ProblemBook
from ferrule.testing.waiting import in_virtual_time, let_pass, until
from ferrule.types import Backend

FAILURES = "ferrule_background_failures_total"


def the_host(*, other_holds_rules: bool = True) -> Host:
    choice = Choice(Backend.NFT, "asked for", other_holds_rules=other_holds_rules)
    return Host("node-1", Runner(), choice, [], Engine(EngineOptions(node_name="node-1")), [], ())


class Ended(Exception):
    """The scripted outcomes are used up."""


class Fake:
    """Removes as scripted: problems, an exception, or success; and keeps the time that passes between attempts."""

    def __init__(self, *outcomes: list[str] | Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[Backend, ...]] = []
        self.delays: list[float] = []

    async def remove(self, _: Runner, backends: Iterable[Backend]) -> CleanupReport:
        self.asked.append(tuple(backends))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        removed = [] if outcome else [Removed(Backend.LEGACY, "ipv4", "nat", chains=3, jumps=1)]
        return CleanupReport(removed, outcome)

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        if not self.outcomes:
            raise Ended


def cleaner(fake: Fake, host: Host) -> tuple[OtherBackend, Metrics]:
    metrics = Metrics({})
    return OtherBackend(host, metrics, remove=fake.remove, sleep=fake.sleep), metrics


async def until_idle(task: asyncio.Task[None]) -> None:
    """Let a task run until it waits for something that never happens."""
    await let_pass(3600)
    assert not task.done()
    task.cancel()


def test_a_failed_removal_is_retried_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(["xtables lock"], ["xtables lock"], OSError("no memory"), ["xtables lock"], [])
    host = the_host()

    async def serve() -> Metrics:
        other, metrics = cleaner(fake, host)
        task = asyncio.create_task(other.run())
        await let_pass(3600)
        assert fake.asked == [], "not before our rules are in the kernel"
        other.due()
        other.due()
        await until_idle(task)
        return metrics

    with caplog.at_level(logging.INFO):
        metrics = in_virtual_time(serve())
    assert fake.asked == [(Backend.LEGACY,)] * 5
    assert fake.delays == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        "Cannot remove rules of the other backend"
    ] * 2
    assert metrics.registry.get_sample_value(FAILURES, {"work": "other backend"}) == 4
    assert not host.choice.other_holds_rules


def test_the_back_off_is_bounded() -> None:
    fake = Fake(*[["a foreign rule jumps there"]] * 12)

    async def serve() -> None:
        other, _ = cleaner(fake, the_host())
        other.due()
        await other.run()

    with pytest.raises(Ended):
        asyncio.run(serve())
    assert fake.delays[-1] == MAX_DELAY
    assert fake.delays == sorted(fake.delays)


def test_without_rules_there_nothing_is_run() -> None:
    fake = Fake()

    async def serve() -> None:
        other, _ = cleaner(fake, the_host(other_holds_rules=False))
        other.due()
        await until_idle(asyncio.create_task(other.run()))

    in_virtual_time(serve())
    assert fake.asked == []


def test_a_failed_measurement_is_logged_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latencies of many changes are measured in a thread, whose exception reaches no caller."""
    metrics = Metrics({})
    status = Status(metrics, ProxyHealth(1.0, clock=lambda: 0.0, wall_ns=lambda: 0), Readiness({}))

    def broken(*_: object) -> None:
        raise ValueError("clock")

    monkeypatch.setattr(metrics, "network_programmed", broken)

    async def sync() -> None:
        effects = AfterSync(the_host(), ProblemBook(), status)
        effects.measure_programming("ipv4", ["2026-01-01T00:00:00Z"] * 1000, 0.0)
        await until(lambda: metrics.registry.get_sample_value(FAILURES, {"work": "network programming latency"}))

    asyncio.run(sync())
    assert [r.message for r in caplog.records] == ["Changes not measured"]
    assert metrics.registry.get_sample_value(FAILURES, {"work": "network programming latency"}) == 1
