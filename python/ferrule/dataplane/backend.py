"""Chooses the backend (nft or legacy) as iptables-wrappers does.

kubelet creates KUBE-IPTABLES-HINT (or, before 1.24, KUBE-KUBELET-CANARY) in the mangle table of the backend that it
uses. ferrule looks for those in nft, then in legacy, and defaults to nft. Its own rules do not count as a hint: a wrong
choice would become permanent.
"""

from __future__ import annotations

from dataclasses import dataclass

from ferrule._engine import SERVICES_CHAIN
from ferrule.dataplane.iptables import SAVE_TIMEOUT, IptablesDataplane
from ferrule.dataplane.outcome import classify
from ferrule.errors import DataplaneError
from ferrule.process.completed import Completed
from ferrule.process.runner import Runner
from ferrule.types import FAMILIES, Backend, Family

HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend and why."""

    backend: Backend
    reason: str
    other_holds_rules: bool = False
    """Whether the other backend holds Service rules: packets would traverse both sets, and the wrong one could
    decide."""


async def choose(runner: Runner, override: Backend | None = None) -> Choice:
    """Inspects both backends. Never writes, and never creates a missing table."""
    hinted = {backend: await _hinted(runner, backend) for backend in Backend}
    if override is not None:
        choice, reason = override, "asked for"
    elif hinted[Backend.NFT]:
        choice, reason = Backend.NFT, "kubelet's hint chain"
    elif hinted[Backend.LEGACY]:
        choice, reason = Backend.LEGACY, "kubelet's hint chain"
    else:
        choice, reason = Backend.NFT, "no hint of kubelet's: the default"
    other = Backend.LEGACY if choice is Backend.NFT else Backend.NFT
    return Choice(choice, reason, await _holds_rules(runner, other))


async def _run(runner: Runner, backend: Backend, verb: str, *arguments: str) -> list[Completed]:
    """Runs a tool in both families. Returns no result where it is missing or refuses, which is not a hint either."""
    done = []
    for family in FAMILIES:
        argv = (IptablesDataplane(family, backend, runner).tool(verb), *arguments)
        try:
            done.append(await runner.run(argv, timeout=SAVE_TIMEOUT))
        except DataplaneError:
            continue
    return [d for d in done if classify(d) is None]


async def _hinted(runner: Runner, backend: Backend) -> bool:
    # On nft the hint is in mangle. Listing one chain is cheaper than a save, which reads all tables. On legacy, naming
    # a table would create it, so the save is used: it lists existing tables only.
    if backend is Backend.NFT:
        for hint in HINTS:
            if await _run(runner, backend, "", "-t", "mangle", "-S", hint):
                return True
        return False
    saved = await _run(runner, backend, "save")
    return any(f":{hint} ".encode() in done.stdout for done in saved for hint in HINTS)


async def _holds_rules(runner: Runner, backend: Backend) -> bool:
    if backend is Backend.NFT:
        return bool(await _run(runner, backend, "", "-t", "nat", "-S", SERVICES_CHAIN))
    saved = await _run(runner, backend, "save")
    return any(f":{SERVICES_CHAIN} ".encode() in done.stdout for done in saved)


async def families(runner: Runner, backend: Backend) -> dict[Family, DataplaneError | None]:
    """Returns for each family None, or why this host cannot have its rules (no tool, IPv6 disabled, no permission)."""
    return {family: await IptablesDataplane(family, backend, runner).works() for family in FAMILIES}
