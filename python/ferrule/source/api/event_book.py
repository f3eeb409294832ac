"""Decides which Events are sent when. Pure: time is a parameter, in seconds of a monotonic clock and of the wall clock.

A repeated Event within `SERIES_SECONDS` does not create an object but continues the first one's series, which is sent
at most every `PATCH_SECONDS`. New ones are limited to a burst and a few per minute. Excess ones are dropped and
counted, because the log has everything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

SERIES_SECONDS = 360.0
"""Seconds after which a series ends without a repetition, as in client-go."""

PATCH_SECONDS = 120.0

BURST = 6
"""Burst of requests, sufficient for a start."""

PER_MINUTE = 3.0

QUEUE_LIMIT = 50
"""Maximum number of waiting Events; further ones are dropped."""

NOTE_LIMIT = 1024
"""Bytes; the API rejects longer notes."""

PATH = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an Event is about."""

    kind: Literal["Node", "Service"]
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One Event. Equal ones belong to one series."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    regarding: Regarding
    note: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send now."""

    method: Literal["POST", "PATCH"]
    path: str
    body: bytes
    event: Event


@dataclass(slots=True)
class _Series:
    name: str
    first_at: float
    last_at: float
    last_wall: float
    count: int = 1
    told: int = 1
    told_at: float = float("-inf")


class EventBook:
    """Sent and waiting Events. `instance` is the reportingInstance."""

    def __init__(self, controller: str, instance: str) -> None:
        self._controller = controller
        self._instance = instance
        self._series: dict[Event, _Series] = {}
        self._waiting: deque[tuple[Event, float]] = deque()
        self._tokens = float(BURST)
        self._filled_at: float | None = None
        self._last_stamp = 0
        self.dropped = 0

    def add(self, event: Event, now: float, wall: float) -> None:
        """Adds an occurrence of an Event."""
        known = self._series.get(event)
        if known is not None and now - known.last_at < SERIES_SECONDS:
            known.count, known.last_at, known.last_wall = known.count + 1, now, wall
            return
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._series[event] = _Series(self._object_name(event, wall), now, now, wall)
        self._waiting.append((event, wall))

    def next_request(self, now: float) -> Request | None:
        """Takes a request that may be sent now."""
        self._refill(now)
        self._forget(now)
        if self._tokens < 1.0:
            return None
        if self._waiting:
            event, wall = self._waiting.popleft()
            self._tokens -= 1.0
            # It may have been removed (`lost`) by a request that began before this one was added.
            series = self._series.setdefault(event, _Series(self._object_name(event, wall), now, now, wall))
            series.told_at = now
            return self._create(event, series, wall)
        for event, series in self._series.items():
            if self._has_news(series) and now - series.told_at >= PATCH_SECONDS:
                self._tokens -= 1.0
                series.told, series.told_at = series.count, now
                return self._patch(event, series)
        return None

    def wait(self, now: float) -> float | None:
        """Returns the seconds until `next_request` may return one; None if none is waiting."""
        self._refill(now)
        moments = [now] if self._waiting else []
        moments += [s.told_at + PATCH_SECONDS for s in self._series.values() if self._has_news(s)]
        if not moments:
            return None
        token = max(0.0, (1.0 - self._tokens) * 60.0 / PER_MINUTE)
        return max(min(moments) - now, token, 0.0)

    def lost(self, event: Event) -> None:
        """Records that the server does not have the Event: the next occurrence creates a new one."""
        self._series.pop(event, None)

    # ------------------------------------------------------------------ inside

    def _object_name(self, event: Event, wall: float) -> str:
        # Time stamps are unique: two Events about one object within a tick of the clock would otherwise have one name.
        self._last_stamp = max(int(wall * 1e6) * 1000, self._last_stamp + 1)
        # 253 is the limit of a name; the suffix has 16 digits.
        return f"{event.regarding.name[:230].rstrip('-.')}.{self._last_stamp:x}"

    @staticmethod
    def _has_news(series: _Series) -> bool:
        return series.count > series.told

    def _refill(self, now: float) -> None:
        since = 0.0 if self._filled_at is None else max(0.0, now - self._filled_at)
        self._tokens = min(float(BURST), self._tokens + since * PER_MINUTE / 60.0)
        self._filled_at = now

    def _forget(self, now: float) -> None:
        waiting = {event for event, _ in self._waiting}
        for event, series in list(self._series.items()):
            if now - series.last_at >= SERIES_SECONDS and not self._has_news(series) and event not in waiting:
                del self._series[event]

    def _create(self, event: Event, series: _Series, wall: float) -> Request:
        regarding = event.regarding
        about = {"apiVersion": "v1", "kind": regarding.kind, "name": regarding.name}
        about |= {k: v for k, v in (("namespace", regarding.namespace), ("uid", regarding.uid)) if v}
        namespace = regarding.namespace or "default"
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": namespace},
            "eventTime": micro_time(wall),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "action": event.action,
            "reason": event.reason,
            "regarding": about,
            "note": event.note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
            "type": event.type,
        }
        return Request("POST", PATH.format(namespace=namespace), orjson.dumps(body), event)

    def _patch(self, event: Event, series: _Series) -> Request:
        path = PATH.format(namespace=event.regarding.namespace or "default") + f"/{series.name}"
        news = {"count": series.count, "lastObservedTime": micro_time(series.last_wall)}
        return Request("PATCH", path, orjson.dumps({"series": news}), event)


def micro_time(wall: float) -> str:
    """Formats a time as metav1.MicroTime."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
