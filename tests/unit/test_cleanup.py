"""Tests cleanup beside rules of other programs, by the input of the tools."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ferrule.cleanup import Removed, cleanup
from ferrule.process.completed import Completed
from ferrule.process.runner import Runner
from ferrule.types import Backend


@dataclass(frozen=True)
class Tools(Runner):
    """A fake runner: `iptables-nft-save` prints `saved`, the other tools print nothing; input of restores is
    recorded."""

    saved: bytes = b""
    restored: list[bytes] = field(default_factory=list)

    # time: the real one's, not waited for
    async def run(self, argv: Sequence[str], *, stdin: bytes | int = b"", timeout: float = 30.0) -> Completed:  # noqa: ARG002, ASYNC109 - the real one's
        if argv[0].endswith("-save"):
            return Completed(tuple(argv), 0, self.saved if argv[0] == "iptables-nft-save" else b"", "")
        assert isinstance(stdin, int)
        self.restored.append(os.read(stdin, 1 << 20))
        return Completed(tuple(argv), 0, b"", "")


SAVED = b"""*nat
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
%s-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -j KUBE-SVC-AAAAAAAAAAAAAAAA
COMMIT
"""
REMOVAL = b"""*nat
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-X KUBE-SVC-AAAAAAAAAAAAAAAA
-X KUBE-SERVICES
COMMIT
"""


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b'-A OUTPUT -m comment --comment "not -j KUBE-SERVICES again" -j ACCEPT\n',
        b'-A OUTPUT -m comment --comment "not -g KUBE-SVC-AAAAAAAAAAAAAAAA again" -j ACCEPT\n',
        b'-A OUTPUT -m comment --comment "a\x0b-A OUTPUT -j KUBE-SERVICES " -j ACCEPT\n',
        b'-A OUTPUT -m comment --comment "a\n-A OUTPUT -j KUBE-SERVICES " -j ACCEPT\n',
        b'-A OUTPUT -m comment --comment "\xff\xfe" -j ACCEPT\n',
    ],
)
def test_rules_that_only_mention_our_chains_stay(foreign: bytes) -> None:
    tools = Tools(saved=SAVED % foreign)
    report = asyncio.run(cleanup(tools))
    assert tools.restored == [REMOVAL]
    assert report.problems == []
    assert report.removed == [Removed(Backend.NFT, "ipv4", "nat", 2, 1)]


def test_a_jump_of_ours_is_deleted_with_whatever_bytes_it_has() -> None:
    jump = b'-A OUTPUT -m comment --comment "\xff" -j KUBE-SERVICES\n'
    tools = Tools(saved=SAVED % jump)
    assert asyncio.run(cleanup(tools)).problems == []
    assert b'-D OUTPUT -m comment --comment "\xff" -j KUBE-SERVICES\n' in tools.restored[0]


def test_a_reference_from_a_foreign_rule_is_reported_and_its_chain_emptied() -> None:
    tools = Tools(saved=SAVED % b"-A OUTPUT -s 192.0.2.0/24 -g KUBE-SVC-AAAAAAAAAAAAAAAA\n")
    report = asyncio.run(cleanup(tools))
    assert tools.restored == [REMOVAL.replace(b"-X KUBE-SVC-AAAAAAAAAAAAAAAA\n", b"")]
    assert report.problems == [
        "iptables-nft -t nat: KUBE-SVC-AAAAAAAAAAAAAAAA was emptied but stays: a foreign rule jumps there:"
        " -A OUTPUT -s 192.0.2.0/24 -g KUBE-SVC-AAAAAAAAAAAAAAAA"
    ]
    assert report.removed == [Removed(Backend.NFT, "ipv4", "nat", 1, 1)]
