"""Which half of the kernel to talk to, chosen the way iptables-wrappers does.

kubelet leaves KUBE-IPTABLES-HINT (or, before 1.24, KUBE-KUBELET-CANARY) in the mangle table of the backend it uses. We
look for those in nft, then in legacy, and take nft where there is no hint. Our own rules are no hint: counting them is
what makes a wrong choice stick.
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
    """The other backend holds Service rules too: both sets see every packet, and the wrong one may decide."""


async def choose(runner: Runner, override: Backend | None = None) -> Choice:
    """Look at both backends; never writes, and never creates a table that is not there."""
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
    """A tool in both families; nothing where it is missing or refuses (that is no hint either)."""
    done = []
    for family in FAMILIES:
        argv = (IptablesDataplane(family, backend, runner).tool(verb), *arguments)
        try:
            done.append(await runner.run(argv, timeout=SAVE_TIMEOUT))
        except DataplaneError:
            continue
    return [d for d in done if classify(d) is None]


async def _hinted(runner: Runner, backend: Backend) -> bool:
    # nft keeps the hint in mangle. One chain is asked for: the save reads all tables, whichever it is to print. For
    # legacy, naming a table would create it, so there it is the save: it lists the tables that exist.
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
    """For each family None, or why this host has no such rules (no tool, IPv6 disabled, no right)."""
    return {family: await IptablesDataplane(family, backend, runner).works() for family in FAMILIES}
