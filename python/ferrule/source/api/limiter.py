"""clientConnection's qps and burst: a token bucket. Pure: time is a parameter, in seconds of a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field

QPS_DEFAULT = 5.0
BURST_DEFAULT = 10
"""The values that 0 stands for, as in client-go."""


@dataclass(slots=True)
class TokenBucket:
    """Allows `burst` requests, then `qps` per second; a negative `qps` means no limit."""

    qps: float = QPS_DEFAULT
    burst: int = BURST_DEFAULT
    _tokens: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.qps = self.qps or QPS_DEFAULT
        self.burst = self.burst or BURST_DEFAULT
        self._tokens = float(self.burst)

    def reserve(self, now: float) -> float:
        """Takes a token. Returns the seconds to wait before the request may be sent."""
        if self.qps < 0:
            return 0.0
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._tokens = min(float(self.burst), self._tokens + since * self.qps) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self.qps)
