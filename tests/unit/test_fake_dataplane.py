"""The fake data plane refuses what the kernel refuses, is as atomic as the kernel, and fails on request."""

from __future__ import annotations

import asyncio

import pytest

from ferrule.errors import DataplaneError, FailureKind
from ferrule.testing.fake_dataplane import FakeDataplane

NAT = "*nat\n{}\nCOMMIT\n"


def restore(fake: FakeDataplane, *lines: str) -> None:
    asyncio.run(fake.restore(NAT.format("\n".join(lines)).encode()))


REFUSALS = [
    (["-A OUTPUT -j NOWHERE"], FailureKind.SYNTAX),
    ([":" + "K" * 29 + " - [0:0]"], FailureKind.SYNTAX),
    ([":A - [0:0]", "-A OUTPUT -j A", "-X A"], FailureKind.KERNEL),
    ([":A - [0:0]", "-A A -j RETURN", "-X A"], FailureKind.KERNEL),
    (["-A NOCHAIN -j RETURN"], FailureKind.KERNEL),
    (["-X NOCHAIN"], FailureKind.KERNEL),
    (["-D OUTPUT -j RETURN"], FailureKind.KERNEL),
    ([":A - [0:0]", '-A A -m comment --comment "open -j RETURN'], FailureKind.SYNTAX),
    (["--bogus A"], FailureKind.SYNTAX),
]


@pytest.mark.parametrize(("lines", "kind"), REFUSALS)
def test_what_the_kernel_refuses_changes_nothing(lines: list[str], kind: FailureKind) -> None:
    fake = FakeDataplane()
    before = fake.text()
    with pytest.raises(DataplaneError) as caught:
        restore(fake, *lines)
    assert caught.value.kind is kind
    assert fake.text() == before


def test_a_refusal_quotes_the_line() -> None:
    with pytest.raises(DataplaneError, match=r"> line 3: -A B -j RETURN"):
        restore(FakeDataplane(), ":A - [0:0]", "-A B -j RETURN")


@pytest.mark.parametrize("text", ["*nat\n", "*bogus\nCOMMIT\n", "garbage\n"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(DataplaneError):
        asyncio.run(FakeDataplane().restore(text.encode()))


def test_tables_before_a_refused_one_stay_committed() -> None:
    fake = FakeDataplane()
    text = "*filter\n:F - [0:0]\nCOMMIT\n*nat\n:N - [0:0]\n-A N -j NOWHERE\nCOMMIT\n"
    with pytest.raises(DataplaneError):
        asyncio.run(fake.restore(text.encode()))
    assert "F" in fake.tables["filter"]
    assert "N" not in fake.tables["nat"]


def test_declaring_empties_and_insertion_comes_first() -> None:
    fake = FakeDataplane()
    restore(fake, ":A - [0:0]", "-A A -j RETURN", "-A A -j ACCEPT", "-I A -j DROP")
    assert fake.tables["nat"]["A"] == ["-j DROP", "-j RETURN", "-j ACCEPT"]
    restore(fake, ":A - [0:0]")
    assert fake.tables["nat"]["A"] == []


@pytest.mark.parametrize(("commits", "applied"), [(0, False), (99, True)])
def test_failures_on_demand(commits: int, applied: bool) -> None:
    fake = FakeDataplane()
    fake.fail_next(FailureKind.KILLED, commits)
    with pytest.raises(DataplaneError) as caught:
        restore(fake, ":A - [0:0]")
    assert caught.value.kind is FailureKind.KILLED
    assert ("A" in fake.tables["nat"]) is applied
    restore(fake, ":A - [0:0]")
    assert "A" in fake.tables["nat"]
    assert len(fake.restores) == 2


def test_save_reads_back_what_restore_wrote() -> None:
    fake, other = FakeDataplane(), FakeDataplane()
    restore(fake, ":A - [0:0]", '-A A -m comment --comment "x -j y" -j RETURN', "-A OUTPUT -j A")
    asyncio.run(
        other.restore(
            "\n".join(
                line.split(" [")[0] if line.startswith(":") else line for line in fake.text().splitlines()
            ).encode()
            + b"\n"
        )
    )
    assert other.text() == fake.text()


def test_the_canary_counts_in_every_table() -> None:
    fake = FakeDataplane()
    for table in fake.tables.values():
        assert not asyncio.run(fake.canary_present())
        table["KUBE-PROXY-CANARY"] = []
    assert asyncio.run(fake.canary_present())
