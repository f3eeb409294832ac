"""Removes the rules of ferrule and kube-proxy: both backends, both families, and nothing else.

Uses the output of iptables-save, in which the engine recognises chains by name. Needs no cluster, continues after
errors and reports all of them. A second run finds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from ferrule._engine import removals
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.runner import Runner
from ferrule.types import FAMILIES, Backend, Family


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed from one table."""

    backend: Backend
    family: Family
    table: str
    chains: int
    jumps: int


@dataclass(slots=True)
class CleanupReport:
    """What was removed, and what could not be removed."""

    removed: list[Removed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def cleanup(runner: Runner, backends: Iterable[Backend] = tuple(Backend)) -> CleanupReport:
    """Removes ferrule's rules. Never raises `DataplaneError`: the report contains failures."""
    report = CleanupReport()
    for backend in backends:
        for family in FAMILIES:
            await _clean(IptablesDataplane(family, backend, runner), report)
    return report


async def _clean(plane: IptablesDataplane, report: CleanupReport) -> None:
    try:
        saved = await plane.save()
    except DataplaneError as error:
        # Without the tool, no rules can have been written with it.
        if error.kind is not FailureKind.MISSING:
            report.problems.append(str(error))
        return
    # In a thread, because a daemon may be running: a save of a large cluster is tens of megabytes.
    for removal in await asyncio.to_thread(removals, saved):
        where = f"{plane.tool()} -t {removal.table}"
        for chain, rule in removal.held:
            report.problems.append(f"{where}: {chain} was emptied but stays: a foreign rule jumps there: {rule}")
        payload = removal.payload()
        if not payload:
            continue
        try:
            await plane.restore(payload)
        except DataplaneError as error:
            report.problems.append(str(error))
        else:
            report.removed.append(Removed(plane.backend, plane.family, removal.table, removal.chains, removal.jumps))
