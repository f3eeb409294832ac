"""The reflector: list and watch as a state machine. Pure: no I/O, no clock, no event loop; `source.api.follow` carries
out its actions.

    List ──ok──► Watch ──ended──► Watch …            any failure ──► Wait ──► Watch (same version) or List

Guarantees, whatever the server does (a property test checks each):
1. Requests are bounded: after the n-th failure of one kind at least 0.8 s, doubled n-1 times (30 s at most; while no
   connection can be made, `ABSENT_MAX`), pass before the next request, and two watches never start less than
   `WATCH_SPACING` apart. `Retry-After` is obeyed. Kinds are counted separately because a restarting server goes through
   several: unreachable, then a 403 or a 500 while it starts, then a 410. None of them means that requests of the next
   kind were too frequent.
2. A list is requested only at the start, when the resource version is too old (410) or too new ("too large"), and after
   `RELIST_AFTER` failures at one version. Nothing else discards a valid version, in particular not an unreachable
   server: every node of the cluster would relist when it returns.
3. Back-off resets only after a watch was open for `CALM` seconds. A list alone does not reset it: a server that lists
   but rejects every watch would otherwise be listed at full speed.
4. When the server works again, the next request is at most `Wait` away and succeeds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

BACKOFF_FIRST = 0.8
BACKOFF_MAX = 30.0
"""Seconds before jitter. The default of kube-rs; client-go's reflectors use the same two numbers."""

ABSENT_MAX = 2.0
"""Seconds before jitter, while no connection can be made. A SYN and a RST put no load on a server, and a longer
interval would delay recovery by up to its length. After a connection the ordinary back-off applies."""

BACKOFF_JITTER = 0.25
"""Maximum fraction that is added at random, so that the nodes of a cluster do not retry in step."""

RETRY_AFTER_MAX = 600.0
"""Seconds. A longer Retry-After is a mistake of a proxy: ferrule would miss changes for too long."""

RELIST_AFTER = 5
"""Number of failures at one version after which the version itself is suspected (Felix's number)."""

CALM = 30.0
"""Seconds for which a watch must be open before earlier failures are forgotten."""

WATCH_SPACING = 1.0
"""Seconds between the starts of two watches. A watch that ends sooner without a change counts as a failure: an
endpoint that returns an empty 200 for every watch would otherwise receive thousands of requests per second."""

WATCH_SECONDS = (270, 330)
"""Range of the requested duration of a watch in seconds: about 5 min, spread over the nodes."""

FROM_CACHE = "0"
"""Lists from the server's watch cache, without load on etcd. Sufficient for a first list."""

MOST_RECENT = ""
"""Lists the newest state: required when the version is too old, because a lagging cache could return the same one
again."""


class Failure(enum.Enum):
    """The classification of a failure."""

    EXPIRED = "expired"  # 410: the version is too old
    TOO_LARGE = "too large resource version"  # the server does not have this version yet
    ABSENT = "absent"  # no connection: no request was sent
    OTHER = "other"  # everything that a retry may resolve


@dataclass(frozen=True, slots=True)
class Listed:
    """A list was applied; `version` is its resourceVersion."""

    version: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A list failed, a watch could not start, or an open watch broke."""

    failure: Failure = Failure.OTHER
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Frames of the open watch were applied; `version` is the newest among them (bookmarks count)."""

    version: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended the watch in good order."""


@dataclass(frozen=True, slots=True)
class Waited:
    """The wait is over."""


Signal = Listed | Failed | Progress | Ended | Waited


@dataclass(frozen=True, slots=True)
class List:
    """Request a list, not older than `version` (or `FROM_CACHE`, `MOST_RECENT`)."""

    version: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Request changes since `version`; the server ends the watch after `seconds`."""

    version: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Send no request for a number of seconds."""

    seconds: float


Action = List | Watch | Wait


class Reflector:
    """The state machine of one kind. `random` returns numbers in [0, 1); `now` is in seconds of a monotonic clock."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._version: str | None = None
        self._list_from = FROM_CACHE
        self._failures: dict[Failure, int] = {}
        self._at_version = 0
        self._watching_since: float | None = None
        self._advanced = False

    @property
    def version(self) -> str | None:
        """The current resourceVersion; None if a list is required."""
        return self._version

    @property
    def failures(self) -> int:
        """Number of consecutive failures, without failed connections."""
        return sum(count for failure, count in self._failures.items() if failure is not Failure.ABSENT)

    def start(self) -> Action:
        """Returns the first action."""
        return List(self._list_from)

    def step(self, signal: Signal, now: float) -> Action | None:
        """Returns the next action; None to continue with the open watch."""
        match signal:
            case Listed(version):
                return self._listed(version, now)
            case Progress(version):
                if version and version != self._version:
                    self._version, self._advanced, self._at_version = version, True, 0
                return None
            case Ended():
                return self._ended(now)
            case Failed(failure, retry_after):
                return self._failed(failure, retry_after, now)
            case Waited():
                return self._request(now)

    def _listed(self, version: str, now: float) -> Action:
        if version in ("", "0"):
            # This version cannot be watched: the list does not come from an API server.
            return self._failed(Failure.OTHER, None, now)
        self._version, self._list_from, self._at_version = version, version, 0
        return self._request(now)

    def _ended(self, now: float) -> Action:
        lasted = 0.0 if self._watching_since is None else now - self._watching_since
        if lasted < WATCH_SPACING and not self._advanced:
            return self._failed(Failure.OTHER, None, now)
        if lasted < WATCH_SPACING:
            return Wait(WATCH_SPACING - max(0.0, lasted))
        self._calm(now)
        return self._request(now)

    def _failed(self, failure: Failure, retry_after: float | None, now: float) -> Action:
        self._calm(now)
        self._watching_since = None
        if failure in (Failure.EXPIRED, Failure.TOO_LARGE):
            self._version, self._list_from = None, MOST_RECENT
        elif failure is Failure.OTHER:
            self._at_version += 1
            if self._version is not None and self._at_version >= RELIST_AFTER:
                # Not older than the current version: a lagging cache must not return an earlier state.
                self._list_from, self._version = self._version, None
        before = self._failures.get(failure, 0)
        self._failures[failure] = before + 1
        # The exponent is limited because 2**10000 is not a float.
        delay = min(BACKOFF_FIRST * 2.0 ** min(before, 20), ABSENT_MAX if failure is Failure.ABSENT else BACKOFF_MAX)
        delay *= 1 + BACKOFF_JITTER * self._random()
        return Wait(max(delay, min(retry_after or 0.0, RETRY_AFTER_MAX)))

    def _calm(self, now: float) -> None:
        if self._watching_since is not None and now - self._watching_since >= CALM:
            self._failures.clear()
            self._at_version = 0

    def _request(self, now: float) -> Action:
        if self._version is None:
            self._watching_since = None
            return List(self._list_from)
        low, high = WATCH_SECONDS
        # Measured from the request, not from its response: time alone matters, because a server that delays its headers
        # cannot cause more frequent requests.
        self._watching_since, self._advanced = now, False
        return Watch(self._version, low + int((high - low) * self._random()))
