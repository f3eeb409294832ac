"""One family's iptables: read-back, restore, canaries, version. No knowledge of what the rules mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ferrule._engine import CANARY_CHAIN, NotUnderstood, Plan, RuleReader, RulesChanged
from ferrule.dataplane import nftables, xtables
from ferrule.dataplane.outcome import check, says_missing
from ferrule.errors import DataplaneError, FailureKind
from ferrule.observe.logs import kv
from ferrule.process.memory_file import append, memory_file, reading, rewind
from ferrule.process.runner import Runner
from ferrule.types import Backend, Family

log = logging.getLogger(__name__)

LOCK_SECONDS = 5
"""`-w`: kube-proxy's own wait for the xtables lock (legacy; the nft tool accepts the option and has no lock)."""

RESTORE_TIMEOUT = 300.0
"""Seconds. A cold start of 30,000 Services in one legacy block takes 10 to 20; ten times that is hung."""

RUN_BYTES = 1 << 20
"""From here on one process's input ends with the transaction that is open (nft). The tool gets slower with each COMMIT
that it has done: 31 transactions of 10,000 Services cost one process 7.5 s of its own time, eleven processes 3.3 s."""

COMMIT = b"COMMIT\n"
"""How a piece ends that could be a process's last. The engine ends pieces so wherever it can."""

SAVE_TIMEOUT = 600.0
"""Seconds. `iptables-nft-save` is quadratic in chains: 12 s at 10,000 Services of 4 endpoints, 108 s at 30,000."""

CANARY_TABLES = ("mangle", "nat", "filter")
"""All of them: kube-proxy asks only the first, and so misses for up to an hour that somebody flushed nat."""

RANDOM_FULLY_SINCE = (1, 6, 2)
"""First iptables whose MASQUERADE knows `--random-fully`."""


Payload = bytes | Iterable[bytes]
"""Restore text, whole or in pieces that are read once."""


class Dataplane(Protocol):
    """What the sync loop needs of a kernel: the real one, or `testing.fake_dataplane`."""

    @property
    def family(self) -> Family:
        """Whose rules."""

    async def read_back(self, reader: RuleReader) -> bytes | RuleReader:
        """What the kernel holds, for `Engine.observe`: `reader`, read to its end, or all tables as iptables-save prints
        them. Raises `DataplaneError`."""

    @property
    def by_netlink(self) -> bool:
        """The next plan is to be cut for the kernel alone, not for a tool."""

    async def write(self, plan: Plan) -> None:
        """Carry out a plan and use it up. Raises `DataplaneError`: then the outcome is unknown."""

    async def canary_present(self) -> bool:
        """Whether our canary chains stand in every table. Raises `DataplaneError` when that cannot be told."""


@dataclass(frozen=True, slots=True)
class IptablesDataplane:
    """The kernel, through one backend's tools."""

    family: Family
    backend: Backend
    runner: Runner = field(default_factory=Runner)
    trust: nftables.Trust | None = None
    """Write over netlink while this says so: on nft, in the namespace of this process. None: always with the tool."""
    _with_canary: dict[str, bytes | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What each legacy table looked like from afar when its canary was last seen."""

    def tool(self, verb: str = "") -> str:
        """`iptables-nft`, `ip6tables-legacy-restore`, …"""
        name = "iptables" if self.family == "ipv4" else "ip6tables"
        return "-".join(part for part in (name, self.backend.value, verb) if part)

    async def read_back(self, reader: RuleReader) -> bytes | RuleReader:
        """See `Dataplane.read_back`. On nft over netlink, which needs no tool and is not quadratic; but whatever is not
        known there to the last bit, the tool has to tell."""
        if self.backend is Backend.NFT:
            try:
                await nftables.read(reader)
            except (OSError, NotUnderstood, RulesChanged) as error:
                facts = kv(ipFamily=self.family, tool=self.tool("save"), reason=str(error) or type(error).__name__)
                log.warning("Rules are read back with a tool, which takes long where they are many", extra=facts)
            else:
                return reader
        return await self.save()

    async def save(self) -> bytes:
        """All tables, as iptables-save prints them. Raises `DataplaneError`."""
        done = check(await self.runner.run((self.tool("save"),), timeout=SAVE_TIMEOUT))
        return done.stdout

    @property
    def by_netlink(self) -> bool:
        """See `Dataplane.by_netlink`."""
        return self.trust is not None and self.trust.given

    async def write(self, plan: Plan) -> None:
        """See `Dataplane.write`. What was refused over netlink, the tool tries next time: see `nftables.Trust`."""
        if plan.netlink:
            try:
                await nftables.write(plan.take_transactions())
            except DataplaneError:
                if self.trust is not None:
                    self.trust.refuse()
                    log.warning("Refused over netlink", extra=kv(ipFamily=self.family, next=self.tool("restore")))
                raise
        else:
            await self.restore(plan.take_payload())
        if self.trust is not None:
            self.trust.confirm(netlink=plan.netlink)

    async def restore(self, payload: Payload) -> None:
        """Apply restore text without flushing the rest. Raises `DataplaneError`: then the outcome is unknown.

        On nft a long text goes to several processes, each with whole transactions."""
        pieces = iter((payload,) if isinstance(payload, bytes) else payload)
        following = next(pieces, None)
        while following is not None:
            with memory_file("ferrule-restore") as source:
                following = await self._fill(source, following, pieces)
                await self._run(source)

    async def _fill(self, source: int, piece: bytes, pieces: Iterator[bytes]) -> bytes | None:
        """One process's input into `source`; gives the beginning of the next one's, None at the end."""
        written = 0
        while True:
            append(source, piece)
            written += len(piece)
            # A large text is tens of milliseconds of copying: others get their turn in between.
            await asyncio.sleep(0)
            following = next(pieces, None)
            full = self.backend is Backend.NFT and written >= RUN_BYTES and _ends_a_transaction(piece)
            if following is None or full:
                return following
            piece = following

    async def _run(self, source: int) -> None:
        argv = (self.tool("restore"), "--noflush", "-w", str(LOCK_SECONDS))
        rewind(source)
        done = await self.runner.run(argv, stdin=source, timeout=RESTORE_TIMEOUT)
        with reading(source) as text:
            check(done, text)

    async def canary_present(self) -> bool:
        """See `Dataplane.canary_present`. At most three short processes: a save costs seconds where rules are many. (On
        legacy each reads a whole table, so one that has not changed since its canary was seen is not asked for.)"""
        for table in CANARY_TABLES:
            outline = await self._outline(table)
            if outline is not None and self._with_canary.get(table) == outline:
                continue
            argv = (self.tool(), "-w", str(LOCK_SECONDS), "-t", table, "-S", CANARY_CHAIN)
            done = await self.runner.run(argv)
            if done.exit_code == 0:
                self._with_canary[table] = outline
                continue
            if says_missing(done):
                return False
            check(done)
        return True

    async def _outline(self, table: str) -> bytes | None:
        """None where only the tool can tell: on nft, and in another namespace."""
        if self.backend is not Backend.LEGACY or self.runner.prefix:
            return None
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(xtables.outline, self.family, table)
        return None

    async def version(self) -> tuple[int, ...]:
        """`(1, 8, 9)`; raises `DataplaneError` where the tool does not run."""
        done = check(await self.runner.run((self.tool(), "--version")))
        found = re.search(rb"v(\d+(?:\.\d+)*)", done.stdout)
        return tuple(int(n) for n in found[1].split(b".")) if found else ()

    async def supports_random_fully(self) -> bool:
        """Whether MASQUERADE may carry `--random-fully`."""
        return await self.version() >= RANDOM_FULLY_SINCE

    async def works(self) -> DataplaneError | None:
        """None when rules of this family can be read; else why not."""
        try:
            check(await self.runner.run((self.tool(), "-w", str(LOCK_SECONDS), "-t", "nat", "-S", "OUTPUT")))
        except DataplaneError as error:
            # Somebody holds the lock just now: that is no lack of anything, and the sync has its own patience.
            return None if error.kind is FailureKind.LOCK else error
        return None


def _ends_a_transaction(piece: bytes) -> bool:
    """A rule's last word may be COMMIT; a line that is nothing else may not."""
    return piece == COMMIT or piece.endswith(b"\n" + COMMIT)
