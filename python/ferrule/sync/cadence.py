"""Decides when a sync may run and when it must. Pure: time is a parameter, in seconds of a monotonic clock.

Three guarantees:
1. After a sync *ends*, at least `min_gap` passes before the next one starts; changes accumulate in between. (Counting
   from its start, as kube-proxy does, lets a sync longer than the gap run back to back and starves other users of the
   xtables lock.)
2. A request is served as soon as (1) allows: the first change after an idle period is not delayed.
3. A failed sync is retried, first after `RETRY_FIRST`, then twice as long each time up to `retry_max`, until one
   succeeds. A change in between may fix the cause, so it is tried after `min_gap`.
"""

from __future__ import annotations

from dataclasses import dataclass

RETRY_FIRST = 0.1
"""Seconds. Most failures are caused by a lock or another writer and pass quickly; kube-proxy's fixed 30 s is an
outage."""

RETRY_MAX = 30.0
"""Seconds. kube-proxy's retry period, which users are used to."""


@dataclass(slots=True)
class Cadence:
    """Decides when the next sync starts. One instance per loop; not thread-safe."""

    min_gap: float
    retry_max: float = RETRY_MAX
    _wanted: bool = False
    _not_before: float = float("-inf")
    _retry_at: float | None = None
    _failures: int = 0

    def request(self) -> None:
        """Requests a sync."""
        self._wanted = True

    def due_at(self) -> float | None:
        """Returns the earliest time at which a sync should start; None if none is requested."""
        moments = []
        if self._wanted:
            moments.append(self._not_before)
        if self._retry_at is not None:
            moments.append(self._retry_at)
        return min(moments, default=None)

    def started(self) -> None:
        """Records the start of a sync; later changes request another one."""
        self._wanted = False

    def succeeded(self, now: float) -> None:
        """Records a successful sync."""
        self._not_before = now + self.min_gap
        self._retry_at = None
        self._failures = 0

    def failed(self, now: float) -> float:
        """Records a failed sync. Returns the seconds until the retry."""
        # The exponent is limited because 2**10000 is not a float.
        delay = min(RETRY_FIRST * 2.0 ** min(self._failures, 20), self.retry_max)
        self._failures += 1
        self._not_before = now + self.min_gap
        self._retry_at = now + delay
        return delay
