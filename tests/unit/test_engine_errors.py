"""Which exception the engine raises: one class for each party at fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from ferrule import _engine
from ferrule._engine import Engine, EngineOptions, InputError, Misuse, UnusableRules
from ferrule.dataplane import nftables
from ferrule.dataplane.iptables import NOT_ENCODED, IptablesDataplane
from ferrule.errors import DataplaneError, FailureKind
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import Changes
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.types import KINDS, Backend


def listed() -> Engine:
    engine = Engine(EngineOptions(node_name="node-1"))
    for kind in KINDS:
        engine.replace(kind, [b"[]"])
    return engine


def in_flight() -> Engine:
    engine = listed()
    engine.observe("ipv4", b"")
    engine.plan("ipv4")
    return engine


def second_commit() -> None:
    engine = listed()
    engine.observe("ipv4", b"")
    plan = engine.plan("ipv4")
    assert plan is not None
    engine.commit(plan)
    engine.commit(plan)


def unread() -> None:
    engine = listed()
    engine.observe("ipv4", engine.rule_reader("ipv4"))


CASES: dict[str, tuple[type[Exception], type[Exception], Callable[[], object]]] = {
    "option": (InputError, InputError, lambda: EngineOptions(node_name="n", masquerade_bit=99)),
    "page": (InputError, InputError, lambda: listed().replace("Service", [b"7"])),
    "unlisted": (_engine.NotReady, Misuse, lambda: Engine(EngineOptions(node_name="n")).plan("ipv4")),
    "unobserved": (_engine.NotReady, Misuse, lambda: listed().plan("ipv4")),
    "in flight": (_engine.PlanInFlight, Misuse, lambda: in_flight().plan("ipv4")),
    "second commit": (_engine.StalePlan, Misuse, second_commit),
    "unread": (_engine.NotRead, Misuse, unread),
    "not begun": (_engine.NotBegun, Misuse, lambda: listed().feed_list("Service", b"{}")),
    "no end": (_engine.NotBegun, Misuse, lambda: listed().end_list("Service")),
    "kind": (Misuse, Misuse, lambda: listed().begin_list(cast(Any, "Pod"))),
    "family": (Misuse, Misuse, lambda: listed().facts(cast(Any, "ipx"))),
    "cut short": (_engine.CutShort, UnusableRules, lambda: listed().observe("ipv4", b"*nat\n:KUBE-SERVICES - [0:0]\n")),
}


@pytest.mark.parametrize("name", CASES)
def test_who_is_at_fault(name: str) -> None:
    exception, fault, call = CASES[name]
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    assert isinstance(caught.value, fault)


def test_output_that_is_cut_short_is_a_failure_of_the_dataplane() -> None:
    """Not of the input, and not the end of the daemon: the family is observed again."""

    class Short(FakeDataplane):
        async def read_back(self, _: object) -> bytes:
            return b"*nat\n:KUBE-SERVICES - [0:0]\n"

    loop = SyncLoop(Engine(EngineOptions(node_name="node-1")), [Short()], Cadence(0.0), clock=lambda: 0.0)
    loop.submit(Changes(dict.fromkeys(KINDS, b"[]")))
    failure = asyncio.run(loop.sync()).failures["ipv4"]
    assert failure.kind is FailureKind.CONTENT
    assert "table nat has no COMMIT" in str(failure)


def test_a_rule_that_cannot_be_encoded_is_ferrules_own_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def transactions() -> Any:
        raise _engine.NotEncodable('no netlink request can be made of "-A X"')
        yield

    with pytest.raises(DataplaneError) as caught:
        nftables.write_in_thread(transactions(), threading.Event())
    assert caught.value.kind is FailureKind.ENCODING

    async def fails(_: object) -> None:
        raise caught.value

    monkeypatch.setattr(nftables, "write", fails)
    engine = listed()
    engine.observe("ipv4", b"")
    plan = engine.plan("ipv4", netlink=True)
    assert plan is not None
    plane = IptablesDataplane("ipv4", Backend.NFT, fallback=nftables.NetlinkFallback())
    with pytest.raises(DataplaneError):
        asyncio.run(plane.write(plan))
    assert [r.message for r in caplog.records] == [NOT_ENCODED]
