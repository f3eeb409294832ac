"""Remove everything that ferrule or kube-proxy wrote: both backends, both families, and nothing else.

Works from what iptables-save prints, needs no cluster, goes on after errors and reports them all. Run twice, the second
time finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ferrule.dataplane.iptables import CANARY, IptablesDataplane
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.runner import Runner
from ferrule.types import FAMILIES, Backend, Family

OURS: dict[str, frozenset[str]] = {
    "nat": frozenset({"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", CANARY}),
    "filter": frozenset(
        {"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", CANARY}
    ),
    "mangle": frozenset({CANARY}),
}
"""Chains by name. KUBE-FIREWALL, KUBE-IPTABLES-HINT and KUBE-KUBELET-CANARY are kubelet's and stay."""

HASHED = re.compile(r"KUBE-(?:SVC|SVL|SEP|EXT|FW)-[A-Z2-7]{16}")
"""Chains of one Service or endpoint; all in nat."""

BALANCE = re.compile(r"KUBE-SVC-BAL-[A-Z2-7]{15}")
"""Parts of balancing trees, in nat."""

PART = re.compile(r"KUBE-SVC-DSP-[A-Z2-7]{15}")
"""Parts of dispatch trees, in nat and filter."""

_TARGET = re.compile(r" -[jg] (\S+)")


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken out of one table."""

    backend: Backend
    family: Family
    table: str
    chains: int
    jumps: int


@dataclass(slots=True)
class CleanupReport:
    """What was removed and what could not be."""

    removed: list[Removed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Table:
    name: str
    builtin: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    jumps: list[str] = field(default_factory=list)
    """Our rules in built-in chains, as `CHAIN rule…`."""
    held: dict[str, str] = field(default_factory=dict)
    """Chain of ours → the foreign rule that jumps there."""


def is_ours(table: str, chain: str) -> bool:
    """Whether a chain is one that ferrule or kube-proxy made for itself."""
    if table == "nat" and (HASHED.fullmatch(chain) or BALANCE.fullmatch(chain)):
        return True
    return chain in OURS.get(table, ()) or (table in ("nat", "filter") and PART.fullmatch(chain) is not None)


def parse_saved(saved: str) -> list[_Table]:
    """What of iptables-save's output concerns us."""
    tables: list[_Table] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append(_Table(line[1:]))
        elif not tables:
            continue
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            if policy != "-":
                tables[-1].builtin.add(name)
            elif is_ours(tables[-1].name, name):
                tables[-1].chains.add(name)
        elif line.startswith("-A "):
            _rule(tables[-1], line[3:])
    return tables


def _rule(table: _Table, rule: str) -> None:
    chain = rule.split(" ", 1)[0]
    target = _TARGET.search(rule)
    if target is None or is_ours(table.name, chain) or not is_ours(table.name, target[1]):
        return
    if chain in table.builtin and target[1] in OURS[table.name]:
        table.jumps.append(rule)
    else:
        table.held[target[1]] = f"-A {rule}"


def removal(table: _Table) -> bytes:
    """Restore text that takes it all out in one transaction; empty when there is nothing."""
    if not table.chains and not table.jumps:
        return b""
    # Declaring empties a chain. In descending order: the nft tool keeps names in a sorted list and walks it from the
    # front, so this way each lookup ends at once.
    chains = sorted(table.chains, reverse=True)
    lines = [
        f"*{table.name}",
        *(f":{chain} - [0:0]" for chain in chains),
        *(f"-D {rule}" for rule in table.jumps),
        *(f"-X {chain}" for chain in chains if chain not in table.held),
        "COMMIT",
        "",
    ]
    return "\n".join(lines).encode()


async def cleanup(runner: Runner, backends: Iterable[Backend] = tuple(Backend)) -> CleanupReport:
    """Remove our rules. Never raises `DataplaneError`: what went wrong is in the report."""
    report = CleanupReport()
    for backend in backends:
        for family in FAMILIES:
            await _clean(IptablesDataplane(family, backend, runner), report)
    return report


async def _clean(plane: IptablesDataplane, report: CleanupReport) -> None:
    try:
        saved = await plane.save()
    except DataplaneError as error:
        # Where a tool is not installed, nothing can have been written with it.
        if error.kind is not FailureKind.MISSING:
            report.problems.append(str(error))
        return
    for table in parse_saved(saved.decode(errors="surrogateescape")):
        payload = removal(table)
        for chain, rule in sorted(table.held.items()):
            where = f"{plane.tool()} -t {table.name}"
            report.problems.append(f"{where}: {chain} was emptied but stays: a foreign rule jumps there: {rule}")
        # A held chain that was emptied before is all there is: done.
        if not payload or (set(table.held) >= table.chains and not table.jumps and _empty(saved, table)):
            continue
        try:
            await plane.restore(payload)
        except DataplaneError as error:
            report.problems.append(str(error))
        else:
            chains = len(table.chains - table.held.keys())
            report.removed.append(Removed(plane.backend, plane.family, table.name, chains, len(table.jumps)))


def _empty(saved: bytes, table: _Table) -> bool:
    return not any(f"-A {chain} ".encode() in saved for chain in table.chains)
