"""Tests when the loop syncs, and its handling of success and failure. Virtual time, a fake kernel, the real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule._engine import Engine, EngineOptions, NotReady, StalePlan
from ferrule.dataplane.iptables import Payload
from ferrule.errors import FailureKind
from ferrule.observe.logs import verbose
from ferrule.sync.cadence import RETRY_FIRST, RETRY_MAX, Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes, SyncReport
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.testing.waiting import in_virtual_time, let_pass
from ferrule.types import KINDS
from tests.objects import endpoint, endpoint_slice, service

# ---------------------------------------------------------------- cadence


def test_nothing_wanted_nothing_due() -> None:
    cadence = Cadence(1.0)
    assert cadence.due_at() is None
    cadence.request()
    assert cadence.due_at() == float("-inf"), "the first change after calm is not delayed"


def test_the_gap_counts_from_the_end_of_a_sync() -> None:
    cadence = Cadence(1.0)
    cadence.request()
    cadence.started()
    cadence.request()  # something changes while it runs
    cadence.succeeded(now=50.0)
    assert cadence.due_at() == 51.0


def test_failures_are_retried_sooner_first_then_slower_and_success_resets() -> None:
    cadence = Cadence(1.0)
    delays = []
    for _ in range(12):
        cadence.started()
        delays.append(cadence.failed(now=0.0))
        assert cadence.due_at() == delays[-1]
    assert delays[:4] == [RETRY_FIRST, 2 * RETRY_FIRST, 4 * RETRY_FIRST, 8 * RETRY_FIRST]
    assert delays[-1] == RETRY_MAX
    cadence.request()
    assert cadence.due_at() == 1.0, "a change may be the cure: tried after the gap already"
    cadence.started()
    cadence.succeeded(now=5.0)
    assert cadence.due_at() is None
    cadence.started()
    assert cadence.failed(now=9.0) == RETRY_FIRST


@given(st.lists(st.sampled_from(["request", "ok", "fail"]), max_size=60))
@pytest.mark.usefixtures("loop")
def test_requests_are_never_forgotten(events: list[str]) -> None:
    cadence, owed = Cadence(0.5), False
    for now, event in enumerate(events):
        if event == "request":
            cadence.request()
            owed = True
        elif cadence.due_at() is not None:
            cadence.started()
            if event == "ok":
                cadence.succeeded(float(now))
                owed = False
            else:
                cadence.failed(float(now))
                owed = True
        assert (cadence.due_at() is not None) is owed


# ---------------------------------------------------------------- loop


class Bench:
    """A loop over fake kernels with a clock that tests advance."""

    def __init__(self, *families: str, options: EngineOptions | None = None) -> None:
        self.now = 0.0
        self.planes = [FakeDataplane(f) for f in families or ("ipv4",)]  # type: ignore[arg-type]
        self.engine = Engine(options or EngineOptions(node_name="node-1"))
        self.cadence = Cadence(1.0)
        self.reports: list[SyncReport] = []
        self.loop = SyncLoop(
            self.engine, self.planes, self.cadence, clock=lambda: self.now, on_sync=self.reports.append
        )

    def submit(self, *objects: dict[str, Any]) -> None:
        lists = {kind: json.dumps([o for o in objects if o["kind"] == kind]).encode() for kind in KINDS}
        self.loop.submit(Changes(lists))

    def sync(self) -> SyncReport:
        return asyncio.run(self.loop.sync())

    @property
    def kernel(self) -> FakeDataplane:
        return self.planes[0]


WEB = [service(), endpoint_slice([endpoint("10.128.1.10")])]


@pytest.mark.usefixtures("loop")
def test_nothing_is_written_before_every_kind_is_listed() -> None:
    bench = Bench()
    bench.loop.submit(Changes({"Service": b"[]"}))
    with pytest.raises(NotReady):
        bench.sync()
    assert bench.kernel.restores == []


@pytest.mark.usefixtures("loop")
def test_a_sync_with_nothing_to_do_runs_no_process() -> None:
    bench = Bench()
    bench.submit(*WEB)
    assert bench.sync().plans["ipv4"].full
    saves = bench.kernel.saves
    bench.submit(*WEB)
    report = bench.sync()
    assert (report.ok, report.plans) == (True, {})
    assert len(bench.kernel.restores) == 1
    assert bench.kernel.saves == saves


@pytest.mark.parametrize("commits", [0, 1, 2, 99])
@pytest.mark.parametrize("kind", [FailureKind.LOCK, FailureKind.KILLED, FailureKind.HUNG, FailureKind.KERNEL])
@pytest.mark.usefixtures("loop")
def test_a_failed_restore_is_looked_at_and_finished(kind: FailureKind, commits: int) -> None:
    bench, clean = Bench(), Bench()
    for b in (bench, clean):
        b.submit(*WEB)
    clean.sync()
    bench.kernel.fail_next(kind, commits)
    report = bench.sync()
    assert not report.ok
    assert report.failures["ipv4"].kind is kind
    assert bench.cadence.due_at() == RETRY_FIRST
    bench.sync()
    assert bench.kernel.text() == clean.kernel.text()
    assert bench.kernel.saves == 2, "the outcome was unknown, so the kernel was read again"
    if commits == 99:
        assert len(bench.kernel.restores) == 1, "it had worked after all: nothing is written twice"


@pytest.mark.usefixtures("loop")
def test_a_save_that_fails_is_retried_and_writes_nothing() -> None:
    bench = Bench()
    bench.submit(*WEB)
    bench.kernel.save_failures.append(FailureKind.HUNG)
    assert not bench.sync().ok
    assert bench.kernel.restores == []
    assert bench.sync().ok


@pytest.mark.usefixtures("loop")
def test_one_family_failing_does_not_hold_up_the_other() -> None:
    bench = Bench("ipv4", "ipv6")
    bench.submit(*WEB)
    bench.kernel.fail_next(FailureKind.LOCK)
    report = bench.sync()
    assert set(report.failures) == {"ipv4"}
    assert set(report.plans) == {"ipv6"}
    report = bench.sync()
    assert set(report.plans) == {"ipv4"}
    assert len(bench.planes[1].restores) == 1


@pytest.mark.usefixtures("loop")
def test_a_change_is_timed_from_its_arrival_to_its_confirmation() -> None:
    bench = Bench("ipv4", "ipv6")
    bench.now = 10.0
    bench.submit(*WEB)
    bench.now = 12.0
    bench.submit(*WEB)  # what comes later does not make the first one younger
    bench.now = 15.0
    report = bench.sync()
    assert {key: report.stages[key] for key in report.stages if key[0] == "wait"} == {
        ("wait", "ipv4"): 5.0,
        ("wait", "ipv6"): 5.0,
    }
    assert report.change_seconds == {"ipv4": 5.0, "ipv6": 5.0}
    assert {stage for stage, family in report.stages if family == "ipv4"} == {
        "wait",
        "observe",
        "plan",
        "restore",
        "commit",
    }
    # Of one family only: the other did not have to wait.
    bench.now = 20.0
    bench.submit(WEB[0], endpoint_slice([endpoint("10.128.1.11")]))
    bench.now = 21.0
    report = bench.sync()
    assert report.change_seconds == {"ipv4": 1.0}
    assert ("wait", "ipv6") not in report.stages
    # A read-back without a difference does not count as a change.
    bench.loop.recheck("ipv4")
    assert bench.sync().change_seconds == {}


@pytest.mark.usefixtures("loop")
def test_a_change_that_failed_is_as_old_as_it_is() -> None:
    bench = Bench()
    bench.submit(*WEB)
    bench.sync()
    bench.now = 30.0
    bench.submit(WEB[0], endpoint_slice([endpoint("10.128.1.11")]))
    bench.kernel.fail_next(FailureKind.KERNEL)
    bench.now = 31.0
    assert bench.sync().change_seconds == {}
    bench.submit(WEB[0], endpoint_slice([endpoint("10.128.1.12")]))
    bench.now = 34.0
    assert bench.sync().change_seconds == {"ipv4": 4.0}


@pytest.mark.usefixtures("loop")
def test_recheck_repairs_changes_by_another_process() -> None:
    bench = Bench()
    bench.submit(*WEB)
    bench.sync()
    before = bench.kernel.text()
    nat = bench.kernel.tables["nat"]
    for chain in [c for c in nat if c.startswith("KUBE-")]:
        del nat[chain]
    nat["OUTPUT"].clear()
    nat["MINE"] = ["-j RETURN"]
    bench.loop.recheck("ipv4")
    bench.sync()
    assert sorted(bench.kernel.text().replace(":MINE - [0:0]\n", "").replace("-A MINE -j RETURN\n", "")) == sorted(
        before
    )
    assert nat["MINE"] == ["-j RETURN"] or bench.kernel.tables["nat"]["MINE"] == ["-j RETURN"]


@pytest.mark.usefixtures("loop")
def test_a_cancelled_restore_leaves_no_wrong_belief() -> None:
    bench = Bench()
    bench.submit(*WEB)

    async def interrupted() -> None:
        started = asyncio.Event()
        original = bench.kernel.restore

        async def slow(payload: Payload) -> None:
            started.set()
            await asyncio.Event().wait()
            await original(payload)

        bench.kernel.restore = slow  # type: ignore[method-assign]
        task = asyncio.create_task(bench.loop.sync())
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        bench.kernel.restore = original  # type: ignore[method-assign]

    asyncio.run(interrupted())
    assert bench.sync().plans["ipv4"].full
    assert "10.128.1.10:8080" in bench.kernel.text()


@pytest.mark.usefixtures("loop")
def test_the_loop_sleeps_until_something_is_due() -> None:
    async def scenario() -> int:
        bench = Bench()
        clock = asyncio.get_running_loop().time
        loop = SyncLoop(bench.engine, bench.planes, Cadence(0.0), clock=clock, on_sync=bench.reports.append)
        task = asyncio.create_task(loop.run())
        await let_pass(3600)
        assert bench.reports == []
        for objects in (WEB, WEB[:1]):
            loop.submit(Changes({k: json.dumps([o for o in objects if o["kind"] == k]).encode() for k in KINDS}))
            await let_pass(3600)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(bench.reports)

    assert in_virtual_time(scenario()) == 2


# ---------------------------------------------------------------- stages


def large(services: int = 2100) -> list[dict[str, Any]]:
    """Returns dual-stack Services with one endpoint per family; the last is DNS by its name."""
    objects = []
    for n in range(services):
        name = "dns" if n == services - 1 else f"s{n}"
        ips = [f"10.96.{n // 250}.{n % 250 + 1}", f"fd00:96::{n + 1:x}"]
        pods = {"IPv4": f"10.128.{n // 250}.{n % 250 + 1}", "IPv6": f"fd00:128::{n + 1:x}"}
        objects.append(service(name, clusterIP=ips[0], clusterIPs=ips))
        objects += (endpoint_slice([endpoint(ip)], of=name, family=family) for family, ip in pods.items())
    return objects


def stages(bench: Bench) -> list[tuple[str, bool]]:
    """Returns which plans reached which kernel in which order: family, and whether the plan contained DNS only."""
    order: list[tuple[str, bool]] = []
    for plane in bench.planes:
        original = plane.restore

        async def noted(
            payload: Payload, plane: FakeDataplane = plane, original: Callable[..., Any] = original
        ) -> None:
            text = payload if isinstance(payload, bytes) else b"".join(payload)
            order.append((plane.family, b"shop/s0:" not in text))
            await original(text)

        plane.restore = noted  # type: ignore[method-assign]
    return order


def staged_bench() -> Bench:
    options = EngineOptions(node_name="node-1", first_services=["default/kubernetes", "shop/dns"])
    return Bench("ipv4", "ipv6", options=options)


def test_first_services_of_both_families_come_before_the_rest_of_either() -> None:
    bench = staged_bench()
    order = stages(bench)
    bench.submit(*large())
    report = bench.sync()
    assert order == [("ipv4", True), ("ipv6", True), ("ipv4", False), ("ipv6", False)]
    assert report.ok
    assert [plan.family for plan in report.stages_before] == ["ipv4", "ipv6"]
    assert all(plan.full and not plan.more for plan in report.plans.values())
    assert len(bench.reports) == 1, "one sync, said once"
    assert all("shop/s0:" in plane.text() for plane in bench.planes)
    bench.submit(*large())
    assert bench.sync().plans == {}


def test_a_failed_rest_of_a_start_is_retried() -> None:
    bench = staged_bench()
    bench.submit(*large())
    order = stages(bench)
    plane = bench.planes[0]
    plane.fail_next(FailureKind.LOCK)
    plane.failures.insert(0, None)  # type: ignore[arg-type]  # the first stage works
    report = bench.sync()
    assert set(report.failures) == {"ipv4"}
    assert set(report.plans) == {"ipv6"}
    assert report.unwritten["ipv4"].full
    assert "shop/dns" in plane.text()
    assert "shop/s0:" not in plane.text()
    assert not report.ok
    report = bench.sync()
    assert report.ok
    assert "shop/s0:" in plane.text()
    assert order.count(("ipv4", False)) == 2


@pytest.mark.usefixtures("loop")
def test_a_taken_text_cannot_be_taken_again() -> None:
    bench = Bench()
    bench.submit(*WEB)
    plan = bench.sync().plans["ipv4"]
    assert plan.payload_size == len(bench.kernel.restores[0])
    assert sum(octets for *_, octets in plan.phases) == plan.payload_size
    assert sum(rules for *_, rules, _ in plan.phases) == plan.rules_written
    assert sum(blocks for _, blocks, *_ in plan.phases) == plan.blocks
    assert plan.written_count == len(plan.chains_written)
    with pytest.raises(StalePlan):
        plan.take_payload()
    with pytest.raises(StalePlan):
        _ = plan.payload


def test_each_plan_says_how_it_is_cut_and_why(caplog: pytest.LogCaptureFixture) -> None:
    bench = staged_bench()
    bench.submit(*large())
    with caplog.at_level(verbose(4), logger="ferrule"):
        bench.sync()
    plans = [record.kv for record in caplog.records if record.message == "Plan"]  # type: ignore[attr-defined]
    assert [plan["more"] for plan in plans] == [True, True, False, False]
    assert all("legacy" in plan["strategy"] for plan in plans)
    assert plans[2]["phases"]["nat all"].startswith("blocks 1, chains 4")
    caplog.clear()
    with caplog.at_level(verbose(3), logger="ferrule"):
        bench.submit(*WEB)
        bench.sync()
    assert "Plan" not in [record.message for record in caplog.records]


@pytest.mark.usefixtures("loop")
def test_a_foreign_reference_costs_one_sync_at_most_and_its_chain_is_emptied(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.submit(*WEB)
    bench.sync()
    nat = bench.kernel.tables["nat"]
    (svc,) = (chain for chain in nat if chain.startswith("KUBE-SVC-"))
    nat["MINE"] = [f"-j {svc}"]
    other = service("other", clusterIP="10.96.9.9", clusterIPs=["10.96.9.9"])
    bench.submit(other)
    assert not bench.sync().ok, "nothing said that the chain is referenced"
    saves = bench.kernel.saves
    assert bench.sync().ok
    assert bench.kernel.saves == saves + 1
    assert nat is not bench.kernel.tables["nat"]
    nat = bench.kernel.tables["nat"]
    assert nat[svc] == []
    assert [chain for chain in nat if chain.startswith("KUBE-SEP-")] == [], "what it jumped to is gone"
    assert any("10.96.9.9" in rule for rule in bench.kernel.tables["filter"]["KUBE-SERVICES"])
    told = [record for record in caplog.records if "emptied but not deleted" in record.getMessage()]
    assert len(told) == 1
    for _ in range(2):
        bench.loop.recheck("ipv4")
        assert bench.sync().plans == {}
    assert len([r for r in caplog.records if "emptied but not deleted" in r.getMessage()]) == 1, "said once"
    del nat["MINE"]
    bench.loop.recheck("ipv4")
    assert bench.sync().plans["ipv4"].chains_deleted == (f"nat {svc}",)
    assert svc not in bench.kernel.tables["nat"]
