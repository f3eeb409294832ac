"""One family's iptables: read-back, restore, canaries, version. Independent of the meaning of the rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ferrule._engine import CANARY_CHAIN, Plan, RuleReader, UnusableRules
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
"""Seconds. A cold start of 30,000 Services in one legacy block takes 10 to 20; ten times that means that the tool
hangs."""

RUN_BYTES = 1 << 20
"""Bytes of input from which on a process ends with the current transaction (nft). The tool gets slower with each
COMMIT: 31 transactions of 10,000 Services cost one process 7.5 s of CPU, eleven processes 3.3 s."""

COMMIT = b"COMMIT\n"
"""The end of a piece with which a process's input may end. The engine ends pieces so wherever it can."""

SAVE_TIMEOUT = 600.0
"""Seconds. `iptables-nft-save` is quadratic in chains: 12 s at 10,000 Services of 4 endpoints, 108 s at 30,000."""

CANARY_TABLES = ("mangle", "nat", "filter")
"""The tables whose canaries are checked. kube-proxy checks only the first, and so misses a flush of nat for up to an
hour."""

RANDOM_FULLY_SINCE = (1, 6, 2)
"""First iptables whose MASQUERADE knows `--random-fully`."""


Payload = bytes | Iterable[bytes]
"""Restore text, complete or in pieces that are read once."""

REFUSED = "Kernel refused a netlink transaction, the next write uses the iptables tool"
NOT_ENCODED = "Rule not encoded for netlink, the next write uses the iptables tool"


class Dataplane(Protocol):
    """The kernel as the sync loop uses it: the real one, or `testing.fake_dataplane`."""

    @property
    def family(self) -> Family:
        """The family of the rules."""

    async def read_back(self, reader: RuleReader) -> bytes | RuleReader:
        """Reads what the kernel holds, for `Engine.observe`. Returns `reader`, read to its end, or all tables as
        iptables-save prints them. Raises `DataplaneError`."""

    @property
    def by_netlink(self) -> bool:
        """Whether the next plan should be split for netlink, not for a tool."""

    async def write(self, plan: Plan) -> None:
        """Applies a plan and consumes it. Raises `DataplaneError`; the outcome is then unknown."""

    async def canary_present(self) -> bool:
        """Returns whether ferrule's canary chains exist in every table. Raises `DataplaneError` if that is unknown."""


@dataclass(frozen=True, slots=True)
class IptablesDataplane:
    """One family of the kernel's rules, through one backend."""

    family: Family
    backend: Backend
    runner: Runner = field(default_factory=Runner)
    fallback: nftables.NetlinkFallback | None = None
    """Whether to write over netlink: on nft, in the namespace of this process. None: always with the tool."""
    _with_canary: dict[str, bytes | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The outline of each legacy table when its canary was last seen."""

    def tool(self, verb: str = "") -> str:
        """`iptables-nft`, `ip6tables-legacy-restore`, …"""
        name = "iptables" if self.family == "ipv4" else "ip6tables"
        return "-".join(part for part in (name, self.backend.value, verb) if part)

    async def read_back(self, reader: RuleReader) -> bytes | RuleReader:
        """Implements `Dataplane.read_back`. On nft it uses netlink, which takes linear time, and falls back to the
        tool for rules that are not fully understood."""
        if self.backend is Backend.NFT:
            try:
                await nftables.read(reader)
            except (OSError, UnusableRules) as error:
                facts = kv(ipFamily=self.family, tool=self.tool("save"), reason=str(error) or type(error).__name__)
                log.warning("Reading rules back with iptables-save, slow for large rule sets", extra=facts)
            else:
                return reader
        return await self.save()

    async def save(self) -> bytes:
        """Returns the output of iptables-save for all tables. Raises `DataplaneError`."""
        done = check(await self.runner.run((self.tool("save"),), timeout=SAVE_TIMEOUT))
        return done.stdout

    @property
    def by_netlink(self) -> bool:
        """See `Dataplane.by_netlink`."""
        return self.fallback is not None and self.fallback.enabled

    async def write(self, plan: Plan) -> None:
        """Implements `Dataplane.write`. After a refusal over netlink the next write uses the tool: see
        `nftables.NetlinkFallback`."""
        if plan.netlink:
            try:
                await nftables.write(plan.take_transactions())
            except DataplaneError as error:
                if self.fallback is not None:
                    self.fallback.refuse()
                    message = NOT_ENCODED if error.kind is FailureKind.ENCODING else REFUSED
                    log.warning(message, extra=kv(ipFamily=self.family, next=self.tool("restore")))
                raise
        else:
            await self.restore(plan.take_payload())
        if self.fallback is not None:
            self.fallback.confirm(netlink=plan.netlink)

    async def restore(self, payload: Payload) -> None:
        """Applies restore text without flushing other rules. Raises `DataplaneError`; the outcome is then unknown.

        On nft a long text is split over several processes, each with whole transactions."""
        pieces = iter((payload,) if isinstance(payload, bytes) else payload)
        following = next(pieces, None)
        while following is not None:
            with memory_file("ferrule-restore") as source:
                following = await self._fill(source, following, pieces)
                await self._run(source)

    async def _fill(self, source: int, piece: bytes, pieces: Iterator[bytes]) -> bytes | None:
        """Writes the input of one process to `source`. Returns the beginning of the next one's, None at the end."""
        written = 0
        while True:
            append(source, piece)
            written += len(piece)
            # Copying a large text takes tens of milliseconds: other tasks run in between.
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
        """Implements `Dataplane.canary_present` with at most three short processes: a save costs seconds with many
        rules. (On legacy each reads a whole table, so a table that has not changed since its canary was seen is
        skipped.)"""
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
        """Returns the outline of a legacy table; None on nft and in another namespace, where only the tool knows."""
        if self.backend is not Backend.LEGACY or self.runner.prefix:
            return None
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(xtables.outline, self.family, table)
        return None

    async def version(self) -> tuple[int, ...]:
        """Returns the version, for example `(1, 8, 9)`. Raises `DataplaneError` if the tool does not run."""
        done = check(await self.runner.run((self.tool(), "--version")))
        found = re.search(rb"v(\d+(?:\.\d+)*)", done.stdout)
        return tuple(int(n) for n in found[1].split(b".")) if found else ()

    async def supports_random_fully(self) -> bool:
        """Returns whether MASQUERADE supports `--random-fully`."""
        return await self.version() >= RANDOM_FULLY_SINCE

    async def works(self) -> DataplaneError | None:
        """Returns None if rules of this family can be read; otherwise why not."""
        try:
            check(await self.runner.run((self.tool(), "-w", str(LOCK_SECONDS), "-t", "nat", "-S", "OUTPUT")))
        except DataplaneError as error:
            # Another process holds the lock: the host is not at fault, and the sync waits for the lock itself.
            return None if error.kind is FailureKind.LOCK else error
        return None


def _ends_a_transaction(piece: bytes) -> bool:
    """Returns whether the piece ends with a COMMIT line. A rule may end with the word COMMIT, so the whole line is
    compared."""
    return piece == COMMIT or piece.endswith(b"\n" + COMMIT)
