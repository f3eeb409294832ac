"""From the API's bytes into the engine, between the steps of a sync. Nothing is parsed in Python.

Short work is done where it arrives: a watch event costs the engine some ten microseconds, less than a thread's wake-up.
Long work goes to a thread, so that the event loop is never held up for more than a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ferrule._engine import Engine, IngestReport
from ferrule.types import KINDS, Kind

INLINE_BYTES = 256 * 1024
"""The engine reads 300 MB/s and more: at most a millisecond on the event loop."""


class Intake:
    """What `api.follow` pours into. `on_change` hears of every batch that was taken over, once all kinds are there."""

    def __init__(self, engine: Engine, lock: asyncio.Lock, on_change: Callable[[Kind, IngestReport], None]) -> None:
        self._engine = engine
        self._lock = lock
        self._on_change = on_change
        self._listed: set[Kind] = set()

    @property
    def missing(self) -> tuple[Kind, ...]:
        """Kinds that were never listed."""
        return tuple(kind for kind in KINDS if kind not in self._listed)

    async def begin_list(self, kind: Kind) -> None:
        """A list's body is about to arrive."""
        async with self._lock:
            self._engine.begin_list(kind)

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """More of it, cut anywhere. Raises `InputError` where it is no list; nothing has changed then."""
        async with self._lock:
            if len(chunk) <= INLINE_BYTES:
                self._engine.feed_list(kind, chunk)
            else:
                await asyncio.to_thread(self._engine.feed_list, kind, chunk)

    async def end_list(self, kind: Kind) -> IngestReport:
        """It is complete: swap it in whole. Raises `InputError` where it is not; nothing has changed then."""
        async with self._lock:
            report = await asyncio.to_thread(self._engine.end_list, kind)
        self._taken(kind, report)
        return report

    async def abort_list(self, kind: Kind) -> None:
        """The rest will not come."""
        async with self._lock:
            self._engine.abort_list(kind)

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """Whole watch frames, a line each."""
        async with self._lock:
            if len(frames) <= INLINE_BYTES:
                report = self._engine.ingest(kind, frames)
            else:
                report = await asyncio.to_thread(self._engine.ingest, kind, frames)
        self._taken(kind, report)
        return report

    async def go_without(self, kind: Kind) -> None:
        """Treat a kind as listed and empty, until its first list arrives after all."""
        if kind in self._listed:
            return
        async with self._lock:
            report = self._engine.replace(kind, [b"[]"])
        self._taken(kind, report)

    def _taken(self, kind: Kind, report: IngestReport) -> None:
        if report.in_sync:
            self._listed.add(kind)
        self._on_change(kind, report)
