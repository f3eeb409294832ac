"""Removes the rules of the iptables backend that is not in use.

Packets traverse the rules of both backends, so the copy in the other backend would still decide. It is removed once
ferrule's rules are in the kernel. A failed removal is retried with back-off; each problem is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from ferrule.cleanup import CleanupReport, cleanup
from ferrule.dataplane.backend import Choice
from ferrule.host.probe import Host
from ferrule.observe.logs import kv
from ferrule.observe.metrics import Metrics
from ferrule.process.runner import Runner
from ferrule.types import Backend

log = logging.getLogger(__name__)

FIRST_DELAY = 5.0
MAX_DELAY = 300.0
"""Maximum seconds between two attempts; doubled from the first on. What prevents the removal (a foreign rule, an
xtables lock) rarely disappears sooner, and each attempt costs a save of the other backend in both families."""

WORK = "other backend"
"""The label of the failure counter."""

Remove = Callable[[Runner, Iterable[Backend]], Awaitable[CleanupReport]]


class OtherBackend:
    """Removes the rules of the other backend. One instance per daemon. `due` may be called any number of times;
    `run` is a permanent task."""

    def __init__(
        self,
        host: Host,
        metrics: Metrics,
        *,
        remove: Remove = cleanup,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._host = host
        self._metrics = metrics
        self._remove = remove
        self._sleep = sleep
        self._due = asyncio.Event()
        self._logged: set[str] = set()

    def due(self) -> None:
        """Requests a removal, once ferrule's rules are in the kernel for every family."""
        self._due.set()

    async def run(self) -> None:
        """Removes when requested, and retries until nothing is left."""
        await self._due.wait()
        delay = FIRST_DELAY
        while not await self.remove_once():
            await self._sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
        await asyncio.Event().wait()

    async def remove_once(self) -> bool:
        """Returns whether nothing is left to remove."""
        chosen = self._host.choice
        if not chosen.other_holds_rules:
            return True
        other = Backend.LEGACY if chosen.backend is Backend.NFT else Backend.NFT
        try:
            report = await self._remove(self._host.runner, (other,))
        except Exception as error:  # The rules still exist, so any failure is retried.
            problems = [f"{type(error).__name__}: {error}"]
        else:
            problems = report.problems
            removed = sum(r.chains for r in report.removed)
            if report.removed:
                log.warning(
                    "Removed Service rules of the other backend",
                    extra=kv(backend=other.value, chains=removed),
                )
        if problems:
            self._failed(other, problems)
            return False
        if self._logged:
            log.info("Other backend is free of Service rules", extra=kv(backend=other.value))
        self._host.choice = Choice(chosen.backend, chosen.reason)
        return True

    def _failed(self, other: Backend, problems: Iterable[str]) -> None:
        self._metrics.background_failed(WORK)
        for problem in problems:
            if problem not in self._logged:
                self._logged.add(problem)
                log.error(
                    "Cannot remove rules of the other backend",
                    extra=kv(backend=other.value, err=problem, retry="with back-off"),
                )
