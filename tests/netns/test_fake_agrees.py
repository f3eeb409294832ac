"""The fake dataplane against the real one: the same texts are accepted and refused, with the same result."""

from __future__ import annotations

import asyncio

import pytest

from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.runner import Runner
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.testing.netns import NetNs
from ferrule.types import Backend
from tests.conformance.replay import ALL, committed_payloads, load
from tests.unit.test_fake_dataplane import NAT, REFUSALS

pytestmark = pytest.mark.netns


def real(netns: NetNs, backend: str) -> IptablesDataplane:
    return IptablesDataplane("ipv4", Backend(backend), Runner(netns.prefix))


def chains(saved: str) -> dict[str, list[str]]:
    """Table and chain → rules; tables that hold nothing are as good as absent."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":") and line.split()[1] == "-":
            found[f"{table} {line[1:].split()[0]}"] = []
        elif line.startswith("-A "):
            found.setdefault(f"{table} {line.split()[1]}", []).append(line)
    return found


# An open quote the real tool accepts, and eats the rest of the text: there the fake is stricter on purpose.
@pytest.mark.parametrize(("lines", "kind"), [r for r in REFUSALS if '"open' not in r[0][-1]])
def test_the_kernel_refuses_it_too(netns: NetNs, backend: str, lines: list[str], kind: FailureKind) -> None:
    with pytest.raises(DataplaneError) as caught:
        asyncio.run(real(netns, backend).restore(NAT.format("\n".join(lines)).encode()))
    # legacy cannot tell a missing chain from a refusal; both are its KERNEL.
    assert caught.value.kind in {kind, FailureKind.SYNTAX if backend == "nft" else FailureKind.KERNEL}
    assert chains(asyncio.run(real(netns, backend).save()).decode()) == {}


@pytest.mark.parametrize("case", ALL[::6], ids=lambda case: case.name)
def test_recorded_histories_end_alike(netns: NetNs, backend: str, case: object) -> None:
    plane, fake = real(netns, backend), FakeDataplane()
    engine = case.engine()  # type: ignore[attr-defined]
    for family in ("ipv4", "ipv6"):
        engine.observe(family, b"")
    from ferrule.dataplane import nfacct

    for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED):
        netns.call(lambda name=name: nfacct.ensure(name))
    for step in case.steps:  # type: ignore[attr-defined]
        load(engine, case.objects(step))  # type: ignore[attr-defined]
        payload = committed_payloads(engine).get("ipv4")
        if payload:
            asyncio.run(plane.restore(payload))
            asyncio.run(fake.restore(payload))
        assert chains(asyncio.run(plane.save()).decode()) == chains(fake.text())
