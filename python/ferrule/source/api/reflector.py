"""List and watch as a state machine. Pure: no I/O, no clock, no loop; `source.api.follow` does what it says.

    List ──ok──► Watch ──ended──► Watch …            any failure ──► Wait ──► Watch (same version) or List

Guarantees, whatever the server does (a property test holds the machine to each):
1. Requests are bounded: after the n-th failure of one sort at least 0.8 s, doubled n-1 times (30 s at most; while no
   connection can be made, `ABSENT_MAX`), pass before the next request, and two watches never start less than
   `WATCH_SPACING` apart. `Retry-After` is obeyed. Sorts count apart because a restart goes through them: nobody there,
   then a 403 or a 500 while the server gets up, then a 410; none of them says that the next was asked too often.
2. A list is asked for only at the start, when the server has forgotten our version (410) or not yet reached it ("too
   large"), and after `RELIST_AFTER` failures at one version. Nothing else leaves a good version behind, least of all a
   server that is away: every node of the cluster would list at the moment it comes back.
3. Calm is earned: only a watch that was open for `CALM` seconds makes us forget earlier failures. A list alone does
   not: a server that lists well and refuses every watch would otherwise be listed at full speed.
4. When the server is well again, the next request is at most `Wait` away and it succeeds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

BACKOFF_FIRST = 0.8
BACKOFF_MAX = 30.0
"""Seconds before jitter. kube-rs's default; client-go's reflectors use the same two numbers."""

ABSENT_MAX = 2.0
"""Seconds before jitter, while no connection can be made: a SYN and a RST burden nobody, and whoever looks twice a
minute follows up to half a minute late. It is an attempt, not a request: what comes back sees the ordinary back-off."""

BACKOFF_JITTER = 0.25
"""Up to this part is added, so that the nodes of a cluster do not come back in step."""

RETRY_AFTER_MAX = 600.0
"""Seconds. A longer Retry-After is a mistake of somebody in between: we would be blind for too long."""

RELIST_AFTER = 5
"""Failures at one version before we doubt the version itself (Felix's number)."""

CALM = 30.0
"""Seconds that a watch must have been open for earlier failures to be forgotten."""

WATCH_SPACING = 1.0
"""Seconds between the starts of two watches; one that ends sooner, with nothing new, counts as a failure: an endpoint
that answers every watch with an empty 200 would otherwise be asked thousands of times a second."""

WATCH_SECONDS = (270, 330)
"""The server ends a watch after a time in here: about 5 min, spread over the nodes."""

FROM_CACHE = "0"
"""List whatever the server has in its watch cache: costs etcd nothing. Right for a first list."""

MOST_RECENT = ""
"""List the newest state: needed once our version is gone, or a lagging cache would give us the same one again."""


class Failure(enum.Enum):
    """What a failure means to the machine."""

    EXPIRED = "expired"  # 410: our version is gone
    TOO_LARGE = "too large resource version"  # the server has not got there yet
    ABSENT = "absent"  # no connection: nobody was asked anything
    OTHER = "other"  # everything that is mended by trying again


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole list was taken over; `version` is its resourceVersion."""

    version: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A list failed, a watch could not start, or an open watch broke."""

    failure: Failure = Failure.OTHER
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Frames of the open watch were taken over; `version` is the newest among them (bookmarks count)."""

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
    """Ask for everything, not older than `version` (or `FROM_CACHE`, `MOST_RECENT`)."""

    version: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for changes since `version`; the server shall end it after `seconds`."""

    version: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask for nothing for so long."""

    seconds: float


Action = List | Watch | Wait


class Reflector:
    """One kind's machine. `random` gives numbers in [0, 1); `now` is seconds of a monotonic clock."""

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
        """The resourceVersion we hold; None: everything has to be listed."""
        return self._version

    @property
    def failures(self) -> int:
        """Without calm between them; times when nobody was there are not among them."""
        return sum(count for failure, count in self._failures.items() if failure is not Failure.ABSENT)

    def start(self) -> Action:
        """The first action."""
        return List(self._list_from)

    def step(self, signal: Signal, now: float) -> Action | None:
        """What to do next; None: go on reading the open watch."""
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
            # Nothing can be watched from there: whoever wrote this list is no API server.
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
                # Not older than what we have: a lagging cache must not take us back in time.
                self._list_from, self._version = self._version, None
        before = self._failures.get(failure, 0)
        self._failures[failure] = before + 1
        # The exponent is capped for its own sake: 2**10000 is no float.
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
        # From the request on, not from its answer: a server that lets us wait for headers has not earned calm, but it
        # cannot make us ask more often either, and time is all that counts here.
        self._watching_since, self._advanced = now, False
        return Watch(self._version, low + int((high - low) * self._random()))
