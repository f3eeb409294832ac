"""What ferrule writes over netlink is what iptables-nft-restore makes of the same text, down to the last character that
iptables-nft-save prints; refusals are told in its words, change nothing, and pass to the tool."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions, Plan
from ferrule.dataplane import nfacct, nftables
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.dataplane.nftables import REFUSALS, NetlinkFallback
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.runner import Runner
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Backend, Family, Kind
from tests.conformance.replay import ALL, Case, load
from tests.objects import endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

TOOL = {"ipv4": "iptables", "ipv6": "ip6tables"}


class Kernel:
    """The nft rules of one namespace."""

    def __init__(self, netns: NetNs) -> None:
        self.netns = netns

    def save(self, family: Family) -> list[str]:
        """Without the comments that hold the time."""
        saved = self.netns.run(f"{TOOL[family]}-nft-save").stdout
        return [line for line in saved.splitlines() if not line.startswith("#")]

    def write(self, plan: Plan) -> None:
        self.netns.call(lambda: nftables.write_in_thread(plan.take_transactions(), threading.Event()))

    def by_tool(self, plan: Plan) -> None:
        self.netns.run(f"{TOOL[plan.family]}-nft-restore", "--noflush", stdin=plan.payload.decode())


@pytest.fixture(scope="module")
def names() -> Iterator[tuple[NetNs, NetNs]]:
    with NetNs("by-netlink") as one, NetNs("by-tool") as other:
        for netns in (one, other):
            for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED):
                assert netns.call(lambda name=name: nfacct.ensure(name)) is nfacct.Outcome.YES
        yield one, other


@pytest.fixture
def kernels(names: tuple[NetNs, NetNs]) -> tuple[Kernel, Kernel]:
    for netns in names:
        netns.run("nft", "flush", "ruleset")
    return Kernel(names[0]), Kernel(names[1])


@pytest.mark.parametrize("form", ["flat", "tree"])
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_both_ways_make_the_same_rules(kernels: tuple[Kernel, Kernel], case: Case, form: str) -> None:
    why_not = small_transactions_only("nft") if case.name.startswith("large-") else None
    if why_not:
        pytest.skip(why_not)
    ours, tools = kernels
    engine = case.engine(form=form)
    for family in FAMILIES:
        engine.observe(family, b"")
    for step in case.steps:
        load(engine, case.objects(step))
        for family in FAMILIES:
            plan = engine.plan(family, netlink=True)
            if plan is None:
                continue
            tools.by_tool(plan)
            ours.write(plan)
            engine.commit(plan)
            assert ours.save(family) == tools.save(family), f"step {step}"


def engine_of(services: list[dict[str, Any]], slices: list[dict[str, Any]], saved: list[str]) -> Engine:
    """One that wants these and has seen that."""
    engine = Engine(EngineOptions(node_name="node-1", dispatch="flat"))
    lists: dict[Kind, list[dict[str, Any]]] = {"Service": services, "EndpointSlice": slices, "Node": []}
    for kind, items in lists.items():
        assert engine.replace(kind, [orjson.dumps(items)]).rejected == 0
    engine.observe("ipv4", "\n".join(saved).encode())
    return engine


def nth_service(n: int) -> dict[str, Any]:
    """`s0`, `s1`, …"""
    ip = f"10.96.{n >> 8}.{n & 255}"
    return service(f"s{n}", clusterIP=ip, clusterIPs=[ip], ipFamilies=["IPv4"])


def planned(kernel: Kernel) -> tuple[Engine, Plan]:
    """What a Service of three Pods asks of a kernel."""
    pods = [endpoint(f"10.128.1.{n}") for n in (10, 11, 12)]
    engine = engine_of([service()], [endpoint_slice(pods)], kernel.save("ipv4"))
    plan = engine.plan("ipv4", netlink=True)
    assert plan is not None
    return engine, plan


def test_a_refusal_names_the_rule_and_changes_nothing(kernels: tuple[Kernel, Kernel]) -> None:
    ours, _ = kernels
    _, plan = planned(ours)
    ours.write(plan)
    # A foreign rule references a chain that is about to be deleted.
    ours.netns.run("iptables-nft", "-t", "nat", "-N", "MINE")
    saved = ours.save("ipv4")
    (held,) = (line.split()[-1] for line in saved if "-j KUBE-SVC-" in line)
    ours.netns.run("iptables-nft", "-t", "nat", "-A", "MINE", "-j", held)
    before = ours.save("ipv4")
    # That rule came after the last read-back.
    plan_to_delete = engine_of([], [], saved).plan("ipv4", netlink=True)
    assert plan_to_delete is not None
    with pytest.raises(DataplaneError) as caught:
        ours.write(plan_to_delete)
    assert caught.value.kind is FailureKind.KERNEL
    assert caught.value.offending == [f"> nat: -X {held}"]
    assert "Device or resource busy" in str(caught.value)
    assert [line for line in ours.save("ipv4") if held in line] == [line for line in before if held in line]


def test_policies_and_rules_of_others_stay(kernels: tuple[Kernel, Kernel]) -> None:
    ours, _ = kernels
    ours.netns.run("iptables-nft", "-P", "FORWARD", "DROP")
    ours.netns.run("iptables-nft", "-A", "FORWARD", "-p", "tcp", "-m", "tcp", "--dport", "22", "-j", "ACCEPT")
    ours.netns.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    _, plan = planned(ours)
    ours.write(plan)
    saved = ours.save("ipv4")
    assert ":FORWARD DROP [0:0]" in saved
    forward = [line for line in saved if line.startswith("-A FORWARD")]
    assert forward[-1] == "-A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT", "ours come first"
    assert saved.count("-A POSTROUTING -j MASQUERADE") == 1


def plane_of(kernel: Kernel, fallback: NetlinkFallback) -> IptablesDataplane:
    """Tools of that namespace; netlink by calling from a thread in it."""
    return IptablesDataplane("ipv4", Backend.NFT, Runner(kernel.netns.prefix), fallback)


def test_what_was_refused_the_tool_tries_next(
    kernels: tuple[Kernel, Kernel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, _ = kernels
    plane = plane_of(ours, NetlinkFallback())
    engine, plan = planned(ours)
    # A form of rule that this kernel does not take, say.
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(nftables, "_transact", refuse)
        for again in range(REFUSALS):
            assert plane.by_netlink
            with pytest.raises(DataplaneError):
                asyncio.run(plane.write(plan))
            engine.abandon(plan)
            engine.observe("ipv4", b"")
            assert not plane.by_netlink, "the tool's turn"
            by_tool = engine.plan("ipv4", netlink=plane.by_netlink)
            assert by_tool is not None
            assert not by_tool.netlink
            asyncio.run(plane.write(by_tool))
            engine.abandon(by_tool)
            engine.observe("ipv4", b"")
            assert plane.by_netlink == (again + 1 < REFUSALS), "time and again: for good"
            plan = engine.plan("ipv4", netlink=True)
            assert plan is not None
    assert [record.getMessage() for record in caplog.records] == [
        "Kernel refused a netlink transaction, the next write uses the iptables tool"
    ] * REFUSALS
    assert any("-A KUBE-SEP-" in line for line in ours.save("ipv4"))


def test_one_refusal_is_forgotten_once_netlink_works_again(
    kernels: tuple[Kernel, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = kernels
    fallback = NetlinkFallback()
    plane = plane_of(ours, fallback)
    engine, plan = planned(ours)
    with monkeypatch.context() as patched:
        patched.setattr(nftables, "_transact", refuse)
        with pytest.raises(DataplaneError):
            asyncio.run(plane.write(plan))
    engine.abandon(plan)
    engine.observe("ipv4", b"")
    by_tool = engine.plan("ipv4", netlink=plane.by_netlink)
    assert by_tool is not None
    asyncio.run(plane.write(by_tool))
    assert fallback == NetlinkFallback(refusals=1, after_refusal=False)
    engine.abandon(by_tool)
    engine.observe("ipv4", b"")
    plan = engine.plan("ipv4", netlink=plane.by_netlink) or plan
    assert plan.netlink
    ours.netns.call(lambda: asyncio.run(plane.write(plan)))
    assert fallback == NetlinkFallback()


def test_of_thousands_of_refusals_the_first_is_told(kernels: tuple[Kernel, Kernel]) -> None:
    why_not = small_transactions_only("nft")
    if why_not:
        pytest.skip(why_not)
    ours, _ = kernels
    numbers = range(1500)
    services = [nth_service(n) for n in numbers]
    pods = [[f"10.{n >> 8}.{n & 255}.{i}" for i in (1, 2, 3)] for n in numbers]

    def slices(count: int) -> list[dict[str, Any]]:
        return [endpoint_slice([endpoint(ip) for ip in pods[n][:count]], of=f"s{n}") for n in numbers]

    engine = engine_of(services, slices(2), [])
    plan = engine.plan("ipv4", netlink=True)
    assert plan is not None
    ours.write(plan)
    engine.commit(plan)
    # Another process flushes everything; what is written now jumps to chains that were there.
    ours.netns.run("nft", "flush", "ruleset")
    engine.replace("EndpointSlice", [orjson.dumps(slices(3))])
    plan = engine.plan("ipv4", netlink=True)
    assert plan is not None
    with pytest.raises(DataplaneError) as caught:
        ours.write(plan)
    assert "No such file or directory" in str(caught.value)
    (told,) = caught.value.offending
    assert told.startswith("> nat: -A KUBE-SEP-")
    assert told.endswith(" -j KUBE-MARK-MASQ")


def refuse(*_: object) -> None:
    raise DataplaneError(FailureKind.KERNEL, nftables.COMMAND, stderr="Invalid argument")


def test_a_transaction_larger_than_a_socket_holds(kernels: tuple[Kernel, Kernel]) -> None:
    why_not = small_transactions_only("nft")
    if why_not:
        pytest.skip(why_not)
    ours, tools = kernels
    numbers = range(700)
    slices = [endpoint_slice([endpoint(f"10.{n >> 8}.{n & 255}.{i}") for i in (1, 2)], of=f"s{n}") for n in numbers]
    services = [nth_service(n) for n in numbers]
    plan = engine_of(services, slices, []).plan("ipv4", netlink=True)
    assert plan is not None
    assert plan.blocks == 3, "one a table"
    assert plan.payload_size > 1 << 18
    tools.by_tool(plan)
    ours.write(plan)
    assert ours.save("ipv4") == tools.save("ipv4")
