"""From the API's bytes into the engine, between the steps of a sync. Nothing is parsed in Python.

Short work is done where it arrives: a watch event costs the engine some ten microseconds, less than a thread's wake-up.
Long work goes to a thread, so that the event loop is never held up for more than a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ferrule._engine import Engine, IngestReport
from ferrule.types import KINDS, Kind

INLINE_BYTES = 256 * 1024
"""The engine reads 300 MB/s and more: at most a millisecond on the event loop."""


@dataclass(slots=True)
class Batch:
    """A list, or the watch frames that came together. Seconds are of the clock."""

    kind: Kind
    arrived_at: float
    """Its first bytes."""
    seconds: float = 0.0
    """How long the engine worked on it; waiting for the engine is not in it."""


class Intake:
    """What `source.api.follow` pours into. `on_change` hears of every batch that was taken over."""

    def __init__(
        self,
        engine: Engine,
        lock: asyncio.Lock,
        on_change: Callable[[Batch, IngestReport], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is the sync loop's."""
        self._engine = engine
        self._lock = lock
        self._on_change = on_change
        self._clock = clock
        self._listed: set[Kind] = set()
        self._lists: dict[Kind, Batch] = {}

    @property
    def missing(self) -> tuple[Kind, ...]:
        """Kinds that were never listed."""
        return tuple(kind for kind in KINDS if kind not in self._listed)

    async def begin_list(self, kind: Kind) -> None:
        """A list's body is about to arrive."""
        self._lists[kind] = Batch(kind, self._clock())
        async with self._lock:
            self._engine.begin_list(kind)

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """More of it, cut anywhere. Raises `InputError` where it is no list; nothing has changed then."""
        async with self._lock:
            with self._working(self._lists[kind]):
                if len(chunk) <= INLINE_BYTES:
                    self._engine.feed_list(kind, chunk)
                else:
                    await asyncio.to_thread(self._engine.feed_list, kind, chunk)

    async def end_list(self, kind: Kind) -> IngestReport:
        """It is complete: swap it in whole. Raises `InputError` where it is not; nothing has changed then."""
        batch = self._lists[kind]
        async with self._lock:
            with self._working(batch):
                report = await asyncio.to_thread(self._engine.end_list, kind)
        self._taken(batch, report)
        return report

    async def abort_list(self, kind: Kind) -> None:
        """The rest will not come."""
        async with self._lock:
            self._engine.abort_list(kind)

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """Whole watch frames, a line each."""
        batch = Batch(kind, self._clock())
        async with self._lock:
            with self._working(batch):
                if len(frames) <= INLINE_BYTES:
                    report = self._engine.ingest(kind, frames)
                else:
                    report = await asyncio.to_thread(self._engine.ingest, kind, frames)
        self._taken(batch, report)
        return report

    async def go_without(self, kind: Kind) -> None:
        """Treat a kind as listed and empty, until its first list arrives after all."""
        if kind in self._listed:
            return
        batch = Batch(kind, self._clock())
        async with self._lock:
            with self._working(batch):
                report = self._engine.replace(kind, [b"[]"])
        self._taken(batch, report)

    @contextmanager
    def _working(self, batch: Batch) -> Iterator[None]:
        begun = self._clock()
        try:
            yield
        finally:
            batch.seconds += self._clock() - begun

    def _taken(self, batch: Batch, report: IngestReport) -> None:
        if report.in_sync:
            self._listed.add(batch.kind)
        self._on_change(batch, report)
