"""Permanent tasks of a running daemon: drift detection, memory, the configuration file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import NoReturn

from ferrule.config import watch
from ferrule.config.load import parse_config
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.errors import ConfigError, DataplaneError
from ferrule.host import memory
from ferrule.host.probe import Host
from ferrule.observe.logs import kv
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import SyncReport
from ferrule.types import Family

log = logging.getLogger(__name__)

REREAD_SECONDS = 3600.0
"""Seconds between complete read-backs of a small rule set; kube-proxy rewrites its own hourly. Above a thousand
endpoints only the canaries are checked, because a read-back costs seconds."""

CALM_SECONDS = 20.0
"""Seconds without a sync after which memory of a burst of changes is returned to the host."""

BURST_BYTES = 1 << 20
"""Bytes of restore text since the last time. Less is not worth a pass over the heap."""


class DriftWatch:
    """Detects that rules were removed or changed, and makes the sync loop read them back."""

    def __init__(self, host: Host, loop: SyncLoop, complete: Callable[[], Set[Family]], period: float) -> None:
        """`complete` returns the families that were completely in the kernel; the others have no canary yet."""
        self._host = host
        self._loop = loop
        self._complete = complete
        self._period = period

    async def run(self) -> NoReturn:
        """Checks every `period` seconds."""
        reread_at = time.monotonic() + REREAD_SECONDS
        while True:
            await asyncio.sleep(self._period)
            due = time.monotonic() >= reread_at
            if due:
                reread_at = time.monotonic() + REREAD_SECONDS
            await self._reread(due=due)
            for plane in self._host.planes:
                await self._check_canary(plane)

    async def _reread(self, *, due: bool) -> None:
        async with self._loop.engine_lock:
            facts = {family: self._host.engine.facts(family) for family in self._host.families}
        for family, found in facts.items():
            # Only a read-back shows whether a foreign rule still prevents the deletion of chains. It takes seconds for
            # a large rule set, so it is rare there.
            if (due or not found.large_mode) if found.held else (due and not found.large_mode):
                self._loop.recheck(family)

    async def _check_canary(self, plane: IptablesDataplane) -> None:
        try:
            present = await plane.canary_present()
        except DataplaneError as error:
            log.warning("Cannot check the canary chains", extra=kv(ipFamily=plane.family, err=str(error)))
            return
        if not present and plane.family in self._complete():
            log.warning("Tables flushed by another process, rewriting", extra=kv(ipFamily=plane.family))
            self._loop.recheck(plane.family)


class MemoryRelease:
    """Returns freed memory to the host once a burst of changes is over."""

    def __init__(self) -> None:
        self._written = 0
        self._synced_at = 0.0

    def synced(self, report: SyncReport) -> None:
        """Counts the bytes that a sync wrote or tried to write."""
        plans = (*report.stages_before, *report.plans.values(), *report.unwritten.values())
        self._written += sum(plan.payload_size for plan in plans)
        self._synced_at = time.monotonic()

    async def run(self) -> NoReturn:
        """Checks every `CALM_SECONDS`."""
        while True:
            await asyncio.sleep(CALM_SECONDS)
            if self._written >= BURST_BYTES and time.monotonic() - self._synced_at >= CALM_SECONDS:
                self._written = 0
                await asyncio.to_thread(memory.give_back)


async def watch_config(path: Path, known: bytes | None) -> NoReturn:
    """Raises `ConfigError` once the file has changed to another valid configuration than `known`."""
    # Decoded as at a start: unknown and repeated fields are ignored, all other faults are errors.
    check = partial(parse_config, source=str(path), strict=False)
    raise ConfigError([await watch.changed(path, check, _keep_running, known=known)])


def _keep_running(error: ConfigError) -> None:
    log.error("Changed configuration is not valid, keeping the running one", extra=kv(err=str(error)))
