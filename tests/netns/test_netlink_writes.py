"""What ferrule writes over netlink is what iptables-nft-restore makes of the same text, down to the last character that
iptables-nft-save prints; refusals are told in its words, change nothing, and pass to the tool."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ferrule._engine import Plan
from ferrule.dataplane import nfacct, nftables
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Family
from tests.conformance.replay import ALL, Case, load

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
