"""A long text on nft is split over several processes, each with whole transactions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.dataplane import iptables
from ferrule.dataplane.iptables import COMMIT, IptablesDataplane
from ferrule.errors import DataplaneError
from ferrule.process.completed import Completed
from ferrule.process.runner import Runner
from ferrule.types import Backend

LIMIT = 400


@dataclass(frozen=True)
class Recorder(Runner):
    """A fake runner without processes; the one with `broken` in its input fails."""

    inputs: list[bytes] = field(default_factory=list)

    # time: the real one's, not waited for
    async def run(self, argv: Sequence[str], *, stdin: bytes | int = b"", timeout: float = 30.0) -> Completed:  # noqa: ARG002, ASYNC109 - the real one's
        assert isinstance(stdin, int)
        self.inputs.append(os.read(stdin, 1 << 20))
        failed = b"broken" in self.inputs[-1]
        return Completed(tuple(argv), int(failed), b"", "iptables-nft-restore: line 2 failed" if failed else "")


def block(rules: int) -> bytes:
    return b"*nat\n" + b"-A KUBE-SERVICES -j COMMIT\n" * rules + b"COMMIT\n"


def restored(backend: Backend, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(iptables, "RUN_BYTES", LIMIT)
    recorder = Recorder()
    asyncio.run(IptablesDataplane("ipv4", backend, recorder).restore(iter(pieces)))
    return recorder.inputs


def pieces_of(blocks: list[int], size: int) -> list[bytes]:
    """Splits as the engine does: at the end of a transaction, if the piece is at least half full, otherwise
    anywhere."""
    pieces, since = [b""], 0
    for rest in map(block, blocks):
        while rest:
            room = size - len(pieces[-1])
            # Its last line is never cut.
            room = len(rest) if len(rest) - len(COMMIT) < room < len(rest) else room
            taken, rest = rest[:room], rest[room:]  # noqa: PLW2901 - used up
            pieces[-1] += taken
            since = 0 if not rest and 2 * (since + len(taken)) >= size else since + len(taken)
            if len(pieces[-1]) >= size or since == 0:
                pieces.append(b"")
    return [piece for piece in pieces if piece]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(len(COMMIT), 600))
def test_whole_transactions_in_order(blocks: list[int], size: int) -> None:
    text, pieces = b"".join(map(block, blocks)), pieces_of(blocks, size)
    with pytest.MonkeyPatch.context() as patch:
        runs = restored(Backend.NFT, pieces, patch)
        assert restored(Backend.LEGACY, pieces, patch) == [text], "there each COMMIT swaps the whole table"
    assert b"".join(runs) == text
    assert all(run.endswith(COMMIT) for run in runs)
    # The transaction that is open at the limit is completed.
    longest = max(len(block(rules)) for rules in blocks)
    assert all(len(run) <= LIMIT + longest + size for run in runs)
    assert len(text) <= LIMIT or len(runs) > 1 or len(text) <= LIMIT + longest + size


def test_a_text_that_is_not_long_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    text = block(3) + block(4)
    assert len(text) <= LIMIT
    assert restored(Backend.NFT, [text], monkeypatch) == [text]


def test_nothing_follows_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "RUN_BYTES", LIMIT)
    recorder = Recorder()
    pieces = [block(20), b"*nat\n-A KUBE-SERVICES -j broken\nCOMMIT\n" + block(20), block(20)]
    with pytest.raises(DataplaneError, match="broken"):
        asyncio.run(IptablesDataplane("ipv4", Backend.NFT, recorder).restore(iter(pieces)))
    assert len(recorder.inputs) == 2
