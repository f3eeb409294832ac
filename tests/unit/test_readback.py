"""Tests a rule reader with recorded responses, and the data plane when the reader fails. No kernel."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferrule._engine import Engine, EngineOptions, NotRead, NotUnderstood, RuleReader, RulesChanged
from ferrule.dataplane import iptables, nftables
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.types import Backend, Family
from tests import netlink

RECORDED = Path(__file__).parents[2] / "rust/engine/tests/data/nft"

SAVED = b"*filter\nCOMMIT\n"


def datagrams(name: str) -> Iterator[bytes]:
    data = (RECORDED / f"{name}.datagrams").read_bytes()
    while data:
        (length,) = struct.unpack_from("<I", data)
        yield data[4 : 4 + length]
        data = data[4 + length :]


@pytest.fixture
def engine() -> Engine:
    made = Engine(EngineOptions(node_name="node-1"))
    for kind in ("Service", "EndpointSlice", "Node"):
        made.replace(kind, [b"[]"])  # type: ignore[arg-type]
    return made


def fed(reader: RuleReader, answers: Iterator[bytes]) -> RuleReader:
    """Feeds a reader to the end."""
    reader.begin()
    for datagram in answers:
        if reader.feed(datagram) == b"":
            return reader
    raise AssertionError("the recording has no end")


def test_recorded_answers_are_an_observation(engine: Engine) -> None:
    engine.observe("ipv4", (RECORDED / "affinity.ipv4.save").read_bytes())
    plan = engine.plan("ipv4")
    assert plan is not None
    engine.abandon(plan)
    engine.observe("ipv4", (RECORDED / "affinity.ipv4.save").read_bytes())
    report = engine.observe("ipv4", fed(engine.rule_reader("ipv4"), datagrams("affinity.ipv4")))
    assert (report.differing, report.missing, report.entry_jumps_missing) == ((), (), ())
    assert len(report.stale) > 5
    assert len(report.held) == 3


def test_a_reader_is_used_up_and_belongs_to_a_family(engine: Engine) -> None:
    reader = engine.rule_reader("ipv6")
    assert reader.family == "ipv6"
    with pytest.raises(NotRead, match="not read to their end"):
        engine.observe("ipv6", reader)
    fed(reader, datagrams("mixed.ipv6"))
    with pytest.raises(NotRead):
        engine.observe("ipv4", reader)
    engine.observe("ipv6", reader)
    with pytest.raises(NotRead):
        engine.observe("ipv6", reader)


def error(sequence: int, code: int) -> bytes:
    return netlink.HEADER.pack(20, netlink.NLMSG_ERROR, 0, sequence, 0) + struct.pack("=i", -code)


def test_what_ends_a_read_early(engine: Engine) -> None:
    reader = engine.rule_reader("ipv4")
    reader.begin()
    with pytest.raises(OSError, match="refused") as caught:
        reader.feed(error(1, errno.EPERM))
    assert caught.value.errno == errno.EPERM
    reader.begin()
    with pytest.raises(RulesChanged):
        reader.feed(error(2, errno.EINTR))
    reader.begin()
    with pytest.raises(NotUnderstood):
        reader.feed(b"anything")


class Plane(IptablesDataplane):
    """A data plane whose tool prints SAVED."""

    async def save(self) -> bytes:
        return SAVED


@pytest.mark.parametrize(
    "reason", [NotUnderstood("a rule"), RulesChanged("again"), OSError(errno.EPERM, "no"), TimeoutError()]
)
def test_what_netlink_cannot_tell_the_tool_does(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: Exception
) -> None:
    async def fails(_: RuleReader) -> None:
        raise reason

    monkeypatch.setattr(nftables, "read", fails)
    seen = asyncio.run(Plane("ipv4", Backend.NFT).read_back(engine.rule_reader("ipv4")))
    assert seen == SAVED
    (record,) = caplog.records
    assert record.name == iptables.__name__
    assert str(reason) in str(record.__dict__)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_legacy_is_read_by_its_tool(engine: Engine, monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    async def unused(_: RuleReader) -> None:
        raise AssertionError("legacy rules are not in nf_tables")

    monkeypatch.setattr(nftables, "read", unused)
    assert asyncio.run(Plane(family, Backend.LEGACY).read_back(engine.rule_reader(family))) == SAVED
