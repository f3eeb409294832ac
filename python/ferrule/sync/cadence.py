"""When a sync may run and when it must. Pure: time comes in as an argument, in seconds of a monotonic clock.

Three guarantees:
1. After a sync *ends*, at least `min_gap` passes before the next one starts; changes pool meanwhile. (Counting from its
   start, as kube-proxy does, lets a sync longer than the gap run back to back and starve others of the xtables lock.)
2. A request is served as soon as (1) allows: the first change after calm is not delayed.
3. A failed sync is tried again by itself, first after `RETRY_FIRST`, then twice as long each time up to `retry_max`,
   until one succeeds. A change in between (perhaps the cure) is tried after `min_gap` already.
"""

from __future__ import annotations

from dataclasses import dataclass

RETRY_FIRST = 0.1
"""Seconds. Most failures are a lock or another writer and are gone at once; kube-proxy's flat 30 s is an outage."""

RETRY_MAX = 30.0
"""Seconds. kube-proxy's own retry period: never slower than what users are used to."""


@dataclass(slots=True)
class Cadence:
    """Decides the moment of the next sync. One instance per loop; not thread-safe."""

    min_gap: float
    retry_max: float = RETRY_MAX
    _wanted: bool = False
    _not_before: float = float("-inf")
    _retry_at: float | None = None
    _failures: int = 0

    def request(self) -> None:
        """Something changed."""
        self._wanted = True

    def due_at(self) -> float | None:
        """The earliest moment at which a sync should start; None: nothing to do."""
        moments = []
        if self._wanted:
            moments.append(self._not_before)
        if self._retry_at is not None:
            moments.append(self._retry_at)
        return min(moments, default=None)

    def started(self) -> None:
        """A sync starts now; changes from here on want another one."""
        self._wanted = False

    def succeeded(self, now: float) -> None:
        """It ended and the kernel has everything."""
        self._not_before = now + self.min_gap
        self._retry_at = None
        self._failures = 0

    def failed(self, now: float) -> float:
        """It ended without success; gives the seconds until the retry."""
        # The exponent is capped for its own sake: 2**10000 is no float.
        delay = min(RETRY_FIRST * 2.0 ** min(self._failures, 20), self.retry_max)
        self._failures += 1
        self._not_before = now + self.min_gap
        self._retry_at = now + delay
        return delay
