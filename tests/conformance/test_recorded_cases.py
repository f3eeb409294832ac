"""Replays every recorded history on a real kernel, on both backends: ferrule's rules equal kube-proxy's.

Three modes: live, step by step; fresh at each step on an empty kernel; fresh over the rules of the previous step (as
after a restart), which must also leave no stale chain.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator

import pytest

from ferrule._engine import Engine
from ferrule.dataplane import nfacct, nftables
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Family
from tests.conformance.normal_form import normal_form
from tests.conformance.replay import ALL, Case, committed_payloads, load

pytestmark = pytest.mark.netns

TOOL = {"ipv4": "iptables", "ipv6": "ip6tables"}


class Kernel:
    """The rules of one namespace through one backend's tools."""

    def __init__(self, netns: NetNs, backend: str) -> None:
        self.netns = netns
        self.backend = backend

    def engine(self, case: Case, form: str = "auto") -> Engine:
        """Returns an engine as the daemon creates it for this backend."""
        return case.engine(ordered_blocks=self.backend == "nft", form=form)

    def save(self, family: Family) -> str:
        return self.netns.run(f"{TOOL[family]}-{self.backend}-save").stdout

    def restore(self, family: Family, payload: str, *flags: str) -> None:
        self.netns.run(f"{TOOL[family]}-{self.backend}-restore", "-w", "5", *flags, stdin=payload)

    def apply(self, payloads: dict[Family, bytes]) -> None:
        for family, payload in payloads.items():
            self.restore(family, payload.decode(), "--noflush")

    def wipe(self) -> None:
        for family in FAMILIES:
            blank = "".join(f"*{table}\nCOMMIT\n" for table in ("filter", "nat", "mangle"))
            self.restore(family, blank)

    def observe(self, engine: Engine) -> None:
        """Observes as the daemon does, over netlink or with iptables-save."""
        for family in FAMILIES:
            if self.backend == "nft":
                reader = engine.rule_reader(family)
                self.netns.call(lambda reader=reader: nftables.read_in_thread(reader, threading.Event()))
                engine.observe(family, reader)
            else:
                engine.observe(family, self.save(family).encode())


@pytest.fixture(scope="module", params=["nft", "legacy"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with NetNs("cases") as netns:
        for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED):
            assert netns.call(lambda name=name: nfacct.ensure(name)) is nfacct.Outcome.YES
        yield Kernel(netns, request.param)


def compare(kernel: Kernel, case: Case, step: int) -> None:
    for family in FAMILIES:
        want = case.saved(step, family)
        got = normal_form(kernel.save(family))
        if got != want:
            lines = difflib.unified_diff(want.splitlines(), got.splitlines(), "stock", "ferrule", lineterm="", n=1)
            pytest.fail(f"{case.name} step {step} {family}\n" + "\n".join(list(lines)[:60]))


def nothing_left(engine: Engine) -> None:
    assert [engine.plan(family) for family in FAMILIES] == [None, None]


def replay_live(kernel: Kernel, case: Case) -> None:
    kernel.wipe()
    engine = kernel.engine(case)
    kernel.observe(engine)
    for step in case.steps:
        load(engine, case.objects(step))
        kernel.apply(committed_payloads(engine))
        compare(kernel, case, step)
        nothing_left(engine)


def start_fresh(kernel: Kernel, case: Case) -> None:
    for step in case.steps:
        kernel.wipe()
        start_over_what_is_there(kernel, case, step)


def start_over_previous(kernel: Kernel, case: Case) -> None:
    kernel.wipe()
    for step in case.steps:
        start_over_what_is_there(kernel, case, step)
        # Observed again: digests of the kernel's rules equal the applied ones.
        engine = kernel.engine(case)
        load(engine, case.objects(step))
        kernel.observe(engine)
        nothing_left(engine)


def trees_come_and_go(kernel: Kernel, case: Case) -> None:
    """Checks trees for dispatch and balancing: recognised after one restart, and completely removed after another."""
    kernel.wipe()
    step = case.steps[-1]
    for _ in range(2):
        start_over_what_is_there(kernel, case, step, "flat")
        trees = kernel.engine(case, "tree")
        load(trees, case.objects(step))
        kernel.observe(trees)
        kernel.apply(committed_payloads(trees))
        again = kernel.engine(case, "tree")
        load(again, case.objects(step))
        kernel.observe(again)
        nothing_left(again)
    start_over_what_is_there(kernel, case, step, "flat")


def start_over_what_is_there(kernel: Kernel, case: Case, step: int, form: str = "auto") -> None:
    engine = kernel.engine(case, form)
    kernel.observe(engine)
    load(engine, case.objects(step))
    kernel.apply(committed_payloads(engine))
    compare(kernel, case, step)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "mode", [replay_live, start_fresh, start_over_previous, trees_come_and_go], ids=lambda mode: mode.__name__
)
def test_rules_equal_stock(kernel: Kernel, case: Case, mode: Callable[[Kernel, Case], None]) -> None:
    why_not = small_transactions_only(kernel.backend) if case.name.startswith("large-") else None
    if why_not:
        pytest.skip(why_not)
    mode(kernel, case)
