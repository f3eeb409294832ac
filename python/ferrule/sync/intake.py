"""Passes the API's bytes to the engine, between the steps of a sync. Nothing is parsed in Python.

Short work is done on the event loop: a watch event costs the engine about ten microseconds, less than waking a thread.
Long work runs in a thread, so that the event loop is never blocked for more than a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ferrule._engine import Engine, IngestReport, OwnNode
from ferrule.types import KINDS, Kind

INLINE_BYTES = 256 * 1024
"""Bytes that are decoded on the event loop. The engine decodes 300 MB/s and more, so at most a millisecond."""


@dataclass(slots=True)
class Batch:
    """A list, or the watch frames that arrived together. Times are those of the clock."""

    kind: Kind
    arrived_at: float
    """The time of its first bytes."""
    seconds: float = 0.0
    """Seconds of decoding, without the wait for the engine."""


class Intake:
    """The sink of `source.api.follow`. `on_change` is called with every applied batch."""

    def __init__(
        self,
        engine: Engine,
        lock: asyncio.Lock,
        on_change: Callable[[Batch, IngestReport], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is that of the sync loop."""
        self._engine = engine
        self._lock = lock
        self._on_change = on_change
        self._clock = clock
        self._listed: set[Kind] = set()
        self._lists: dict[Kind, Batch] = {}

    @property
    def missing(self) -> tuple[Kind, ...]:
        """Kinds that are not listed yet."""
        return tuple(kind for kind in KINDS if kind not in self._listed)

    async def begin_list(self, kind: Kind) -> None:
        """Begins a list."""
        self._lists[kind] = Batch(kind, self._clock())
        async with self._lock:
            self._engine.begin_list(kind)

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """Adds a chunk, split anywhere. Raises `InputError` if it is not a list; nothing changes then."""
        async with self._lock:
            with self._working(self._lists[kind]):
                if len(chunk) <= INLINE_BYTES:
                    self._engine.feed_list(kind, chunk)
                else:
                    await asyncio.to_thread(self._engine.feed_list, kind, chunk)

    async def end_list(self, kind: Kind) -> IngestReport:
        """Applies the complete list. Raises `InputError` if it is incomplete; nothing changes then."""
        batch = self._lists[kind]
        async with self._lock:
            with self._working(batch):
                report = await asyncio.to_thread(self._engine.end_list, kind)
        self._taken(batch, report)
        return report

    async def abort_list(self, kind: Kind) -> None:
        """Discards the list."""
        async with self._lock:
            self._engine.abort_list(kind)

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """Applies whole watch frames, one per line."""
        batch = Batch(kind, self._clock())
        async with self._lock:
            with self._working(batch):
                if len(frames) <= INLINE_BYTES:
                    report = self._engine.ingest(kind, frames)
                else:
                    report = await asyncio.to_thread(self._engine.ingest, kind, frames)
        self._taken(batch, report)
        return report

    async def own_node(self) -> OwnNode | None:
        """Returns the node's own Node object as of what was taken over."""
        async with self._lock:
            return self._engine.own_node()

    async def go_without(self, kind: Kind) -> None:
        """Treats a kind as listed and empty, until its first list arrives."""
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
