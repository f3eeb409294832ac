"""A fake data plane in memory, which refuses what the kernel refuses, and fails on request.

It is as atomic as the kernel: each table of a restore text is applied to a copy and replaced at its COMMIT; tables
before a rejected one stay committed. `tests/netns/test_fake_agrees.py` compares it with the real iptables.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from ferrule._engine import Plan, RuleReader
from ferrule.dataplane.iptables import Payload
from ferrule.errors import DataplaneError, FailureKind
from ferrule.types import Family

NAME_LIMIT = 28
"""The kernel's limit: 29 bytes with the NUL."""

BUILTIN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
TARGETS = frozenset({"ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "MASQUERADE", "DNAT"})

Chains = dict[str, list[str]]


class Refused(Exception):
    """A line was rejected by the tool or the kernel."""

    def __init__(self, kind: FailureKind, line: int, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.line, self.reason = kind, line, reason


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a future restore."""

    kind: FailureKind
    commits: int = 0
    """Number of tables that still reach the kernel: 99 applies all of them and still reports a failure."""


@dataclass
class FakeDataplane:
    """A data plane in memory. Tests may edit `tables` to simulate another process."""

    family: Family = "ipv4"
    tables: dict[str, Chains] = field(default_factory=lambda: {t: {c: [] for c in cs} for t, cs in BUILTIN.items()})
    restores: list[bytes] = field(default_factory=list)
    """All payloads, including failed ones."""
    saves: int = 0
    failures: list[Failure] = field(default_factory=list)
    """Future failures, one per restore."""
    by_netlink: bool = False
    save_failures: list[FailureKind] = field(default_factory=list)

    def fail_next(self, kind: FailureKind, commits: int = 0) -> None:
        """Makes the next restore fail."""
        self.failures.append(Failure(kind, commits))

    async def write(self, plan: Plan) -> None:
        """Applies a plan as text."""
        await self.restore(plan.take_payload())

    async def read_back(self, reader: RuleReader) -> bytes | RuleReader:  # noqa: ARG002 - there is no netlink
        """Returns the rules as text."""
        return await self.save()

    async def save(self) -> bytes:
        """Returns the rules as iptables-save prints them."""
        self.saves += 1
        if self.save_failures:
            raise DataplaneError(self.save_failures.pop(0), ("fake-save",))
        return self.text().encode()

    def text(self) -> str:
        """Returns the rules as text, for tests."""
        out: list[str] = []
        for name, chains in self.tables.items():
            out.append(f"*{name}")
            out += (f":{chain} {'ACCEPT' if chain in BUILTIN[name] else '-'} [0:0]" for chain in chains)
            out += (f"-A {chain} {rule}".rstrip() for chain, rules in chains.items() for rule in rules)
            out.append("COMMIT")
        return "\n".join(out) + "\n"

    async def restore(self, payload: Payload) -> None:
        """Applies restore text, or raises the error that the tool would report."""
        text = payload if isinstance(payload, bytes) else b"".join(payload)
        self.restores.append(text)
        failure = self.failures.pop(0) if self.failures else None
        try:
            self._apply(text.decode(), failure.commits if failure else len(BUILTIN))
        except Refused as refused:
            lines = text.decode().splitlines()
            quoted = [f"> line {refused.line}: {lines[refused.line - 1]}"] if refused.line <= len(lines) else []
            raise DataplaneError(refused.kind, ("fake-restore",), 1, refused.reason, quoted) from refused
        if failure is not None:
            raise DataplaneError(failure.kind, ("fake-restore",), None, "as told")

    async def canary_present(self) -> bool:
        """Returns whether the canaries exist in all three tables."""
        return all("KUBE-PROXY-CANARY" in chains for chains in self.tables.values())

    def _apply(self, text: str, commits: int) -> None:
        name: str | None = None
        chains: Chains = {}
        number = 0
        for number, line in enumerate(text.splitlines(), start=1):
            if not line or line.startswith("#"):
                continue
            if line.startswith("*"):
                name = line[1:]
                if name not in self.tables:
                    raise Refused(FailureKind.SYNTAX, number, f"table name {name!r} invalid")
                chains = copy.deepcopy(self.tables[name])
            elif name is None:
                raise Refused(FailureKind.KERNEL, number, f"line {number} failed")
            elif line == "COMMIT":
                if commits == 0:
                    return
                commits -= 1
                self.tables[name], name = chains, None
            else:
                _line(chains, number, line)
        if name is not None:
            raise Refused(FailureKind.SYNTAX, number + 1, f"COMMIT expected at line {number + 1}")


def _line(chains: Chains, number: int, line: str) -> None:
    if line.startswith(":"):
        declared = line[1:].split(" ", maxsplit=1)[0]
        if len(declared) > NAME_LIMIT:
            raise Refused(FailureKind.SYNTAX, number, f"chain name {declared!r} too long")
        chains[declared] = []
        return
    verb, chain, rule = [*line.split(" ", 2), ""][:3]
    if verb not in ("-A", "-I", "-D", "-X"):
        raise Refused(FailureKind.SYNTAX, number, f"unknown option {verb!r}")
    if chain not in chains:
        raise Refused(FailureKind.KERNEL, number, f"line {number} failed: No chain/target/match by that name.")
    match verb:
        case "-A":
            chains[chain].append(_checked(chains, number, rule))
        case "-I":
            chains[chain].insert(0, _checked(chains, number, rule.removeprefix("1 ")))
        case "-D" if rule in chains[chain]:
            chains[chain].remove(rule)
        case "-D":
            raise Refused(FailureKind.KERNEL, number, f"line {number}: RULE_DEL failed")
        case "-X":
            used = any(_target(r) == chain for rules in chains.values() for r in rules)
            if used or chains[chain]:
                raise Refused(FailureKind.KERNEL, number, f"line {number}: CHAIN_DEL failed (Device or resource busy)")
            del chains[chain]


def _target(rule: str) -> str | None:
    """Returns the word after -j, ignoring quoted text."""
    words = " ".join(rule.split('"')[::2]).split()
    return words[words.index("-j") + 1] if "-j" in words[:-1] else None


def _checked(chains: Chains, number: int, rule: str) -> str:
    if rule.count('"') % 2:
        raise Refused(FailureKind.SYNTAX, number, "unbalanced quote: the rest of the text would be a comment")
    target = _target(rule)
    if target is not None and target not in TARGETS and target not in chains:
        raise Refused(FailureKind.SYNTAX, number, f"Chain {target!r} does not exist")
    return rule
