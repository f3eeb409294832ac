"""SyncLoop writing to the kernel over netlink: refusals, other writers and cancellations in the middle of a write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions, Transaction
from ferrule.dataplane import nftables
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.dataplane.nftables import NetlinkFallback
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.runner import Runner, ToolRun
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes, SyncReport
from ferrule.testing.netns import NetNs
from ferrule.types import FAMILIES, Backend, Family
from tests.objects import NODE, endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

TOOL: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}
Transact = Callable[[Any, Transaction], None]


class Loop:
    """The loop over both families of one namespace's kernel, with its processes and transactions counted."""

    def __init__(self, netns: NetNs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.netns = netns
        self.runs: list[ToolRun] = []
        self.transactions = 0
        self.trusts = {family: NetlinkFallback() for family in FAMILIES}
        runner = Runner((), [self.runs.append])
        planes = [IptablesDataplane(family, Backend.NFT, runner, self.trusts[family]) for family in FAMILIES]
        engine = Engine(EngineOptions(node_name="node-1", ordered_blocks=True))
        self.loop = SyncLoop(engine, planes, Cadence(0.0), clock=time.monotonic)
        self.before: Transact = lambda *_: None
        original = nftables._transact

        def transact(channel: Any, transaction: Transaction) -> None:
            self.before(channel, transaction)
            original(channel, transaction)
            self.transactions += 1

        monkeypatch.setattr(nftables, "_transact", transact)

    def submit(self, *pods: str, port: int = 80) -> None:
        families = {"IPv4": [p for p in pods if ":" not in p], "IPv6": [p for p in pods if ":" in p]}
        slices = [endpoint_slice([endpoint(ip) for ip in ips], family=family) for family, ips in families.items()]
        lists = {"Service": [service(port=port)], "EndpointSlice": slices, "Node": [NODE]}
        self.loop.submit(Changes({kind: orjson.dumps(items) for kind, items in lists.items()}))

    def sync(self) -> SyncReport:
        self.runs.clear()
        self.transactions = 0
        return self.netns.call(lambda: asyncio.run(self.loop.sync()))

    @property
    def tools(self) -> list[str]:
        return [run.tool for run in self.runs]

    def saved(self, family: Family) -> list[str]:
        text = self.netns.run(f"{TOOL[family]}-nft-save").stdout
        return sorted(line for line in text.splitlines() if not line.startswith("#"))


@pytest.fixture
def ours(netns: NetNs, monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(netns, monkeypatch)


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """Another kernel that the same objects are written to from nothing, without any fault."""
    with NetNs("undisturbed") as other:
        yield Loop(other, monkeypatch)


def converged(ours: Loop, undisturbed: Loop, *pods: str, port: int = 80) -> None:
    """The kernel holds what a first write of the same state makes, and the loop knows."""
    assert ours.sync().plans == {}, "nothing is left to write"
    undisturbed.submit(*pods, port=port)
    assert undisturbed.sync().ok
    for family in FAMILIES:
        assert ours.saved(family) == undisturbed.saved(family)


def test_changes_reach_both_families_without_a_process(ours: Loop, undisturbed: Loop) -> None:
    ours.submit("10.128.1.10", "fd00:128::10")
    report = ours.sync()
    assert report.ok
    assert all(plan.netlink and plan.full for plan in report.plans.values())
    assert ours.transactions == sum(plan.blocks for plan in report.plans.values())
    ours.submit("10.128.1.11", "fd00:128::10")
    report = ours.sync()
    assert set(report.plans) == {"ipv4"}
    assert ours.transactions == report.plans["ipv4"].blocks == 1
    assert ours.tools == []
    converged(ours, undisturbed, "10.128.1.11", "fd00:128::10")


@pytest.mark.parametrize("reached", [0, 1, 2])
def test_a_refusal_is_looked_at_and_the_tool_finishes(ours: Loop, undisturbed: Loop, reached: int) -> None:
    """The transaction after the first `reached` ones is refused: what they wrote stays and is not written again."""
    left = [reached]

    def refuse(*_: object) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise DataplaneError(FailureKind.KERNEL, nftables.COMMAND, stderr="Invalid argument")

    pods = ("10.128.1.10", "fd00:128::10")
    ours.submit(*pods)
    ours.before = refuse
    report = ours.sync()
    assert set(report.failures) == {"ipv4"}, "the other family is not held up"
    unwritten = report.unwritten["ipv4"]
    assert unwritten.netlink
    report = ours.sync()
    assert report.ok
    plan = report.plans["ipv4"]
    assert not plan.netlink
    assert ours.tools == ["iptables-nft-restore"]
    assert set(plan.chains_written) < set(unwritten.chains_written) if reached else plan.full
    assert plan.blocks == unwritten.blocks - reached
    assert ours.trusts["ipv4"] == NetlinkFallback(refusals=1)
    converged(ours, undisturbed, *pods)
    ours.submit("10.128.1.11", "fd00:128::10")
    assert ours.sync().plans["ipv4"].netlink, "one refusal is forgotten"
    assert ours.trusts["ipv4"] == NetlinkFallback()


def test_another_writers_change_is_repaired(ours: Loop, undisturbed: Loop) -> None:
    pods = ("10.128.1.10", "fd00:128::10")
    ours.submit(*pods)
    assert ours.sync().ok
    ours.netns.run("iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES")
    ours.netns.run("ip6tables-nft", "-F", "KUBE-FORWARD")
    for family in FAMILIES:
        ours.loop.recheck(family)
    report = ours.sync()
    assert report.ok
    assert {family: drift.repaired for family, drift in report.drift.items()} == {"ipv4": 1, "ipv6": 1}
    assert ours.transactions == 2
    assert ours.tools == []
    converged(ours, undisturbed, *pods)


def test_rules_that_vanished_are_refused_and_written_again(ours: Loop, undisturbed: Loop) -> None:
    """A flush between two syncs: the change refers to chains that are gone."""
    ours.submit("10.128.1.10", "fd00:128::10")
    assert ours.sync().ok
    ours.netns.run("nft", "flush", "ruleset")
    ours.submit("10.128.1.11", "fd00:128::10")
    report = ours.sync()
    assert set(report.failures) == {"ipv4"}, "nothing of IPv6 changed: only a look finds that"
    assert "No such file or directory" in str(report.failures["ipv4"])
    report = ours.sync()
    assert report.ok
    assert report.plans["ipv4"].full
    ours.loop.recheck("ipv6")
    assert ours.sync().plans["ipv6"].full
    converged(ours, undisturbed, "10.128.1.11", "fd00:128::10")


@pytest.mark.parametrize("reached", [0, 1, 2])
def test_a_cancelled_write_stops_between_transactions(ours: Loop, undisturbed: Loop, reached: int) -> None:
    """The running transaction of a plan ends, no other begins, and the next sync looks first."""
    pods = ("10.128.1.10", "fd00:128::10")
    ours.submit(*pods)

    async def interrupted() -> None:
        loop, cancelled = asyncio.get_running_loop(), asyncio.Event()

        def hold(*_: object) -> None:
            if ours.transactions == reached:
                loop.call_soon_threadsafe(task.cancel)
                asyncio.run_coroutine_threadsafe(cancelled.wait(), loop).result()

        ours.before = hold
        task = asyncio.create_task(ours.loop.sync())
        await asyncio.wait([task])
        assert task.cancelled()
        cancelled.set()
        await loop.shutdown_default_executor()

    ours.netns.call(lambda: asyncio.run(interrupted()))
    assert ours.transactions == reached + 1
    ours.before = lambda *_: None
    report = ours.sync()
    assert report.ok
    assert set(report.drift) == set(FAMILIES), "both were in doubt"
    assert ours.tools == []
    converged(ours, undisturbed, *pods)
