"""Follows collections: the I/O around `reflector`, which passes bytes of lists and watches to a sink.

This module does not parse objects. On any failure the sink keeps its state: only a complete list replaces a store, and
only a watch frame that names an object changes one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from ferrule import errors
from ferrule._engine import IngestReport, InputError, NotBegun
from ferrule.observe.logs import kv
from ferrule.source.api import reflector
from ferrule.source.api.client import ApiClient, jitter
from ferrule.source.api.frames import FRAME_LIMIT, FrameCutter, FrameTooLarge
from ferrule.source.api.outcome import ApiError, Cause
from ferrule.source.api.reflector import Action, Failed, Failure, List, Reflector, Signal, Wait, Watch
from ferrule.source.api.resources import Resource
from ferrule.types import Kind

log = logging.getLogger(__name__)

IDLE_MARGIN = 15.0
"""Seconds after the requested end of a watch after which silence means that the server is gone."""


class Sink(Protocol):
    """The consumer of the bytes."""

    async def begin_list(self, kind: Kind) -> None:
        """Begins a list."""

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """Adds a piece of its body, split anywhere."""

    async def end_list(self, kind: Kind) -> IngestReport:
        """Completes the list and replaces the store. Raises `InputError`, without a change, if the list is
        incomplete."""

    async def abort_list(self, kind: Kind) -> None:
        """Discards the list that is being received."""

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """Applies whole watch frames."""


class Observer(Protocol):
    """The observer of a follower: readiness and metrics."""

    def listed(self, kind: Kind, seconds: float, version: str) -> None:
        """Reports an applied list."""

    def relist(self, kind: Kind, trouble: str) -> None:
        """Reports the begin of a relist. `trouble` is one of a few fixed words, for a metric's label."""

    def reconnect(self, kind: Kind, trouble: str) -> None:
        """Reports that a watch is opened again after a failure; `trouble` as above."""

    def failing(self, kind: Kind, reason: str, since: float) -> None:
        """Reports, at every failure, that the objects of this kind may be outdated since a time (monotonic seconds)."""

    def ok(self, kind: Kind) -> None:
        """Reports once that the kind is up to date again."""

    def auth_failed(self, reason: str) -> None:
        """Reports once per change that the server denies access (401, 403) or that credentials are unreadable."""

    def auth_ok(self) -> None:
        """Reports once that access works again."""


class _Broken(Exception):
    """A watch must end, for this reason."""

    def __init__(self, trouble: str, reason: str, signal: Failed | None = None) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.signal = signal or Failed()


@dataclass(slots=True)
class _Status:
    """What was reported about one kind."""

    failing_since: float | None = None
    reason: str = ""
    trouble: str = ""
    denied: str = ""
    listed: bool = False


@dataclass(slots=True)
class Follower:
    """Follows collections for ever; one instance for all kinds, one task per kind (`run`)."""

    client: ApiClient
    sink: Sink
    observer: Observer
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = jitter
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    idle_margin: float = IDLE_MARGIN
    frame_limit: int = FRAME_LIMIT
    _status: dict[Kind, _Status] = field(default_factory=dict)
    _denied: str = ""

    async def run(self, resource: Resource) -> NoReturn:
        """Follows one kind. Never returns; raises only bugs (its own or the sink's)."""
        self._status[resource.kind] = _Status()
        machine = Reflector(self.random)
        action: Action = machine.start()
        while True:
            signal = await self._do(resource, machine, action)
            following = machine.step(signal, self.clock())
            if following is None:
                raise errors.BugError(f"the reflector of {resource.kind} has no answer to {signal}")
            action = following

    async def _do(self, resource: Resource, machine: Reflector, action: Action) -> Signal:
        kind = resource.kind
        try:
            match action:
                case Wait(seconds):
                    await self.sleep(seconds)
                    return reflector.Waited()
                case List(version):
                    return await self._list(resource, version)
                case Watch(version, seconds):
                    return await self._watch(resource, machine, version, seconds)
        except _Broken as broken:
            self._failing(kind, broken.trouble, str(broken))
            return broken.signal
        except ApiError as error:
            self._failing(kind, _trouble(error), str(error), denied=_denies(error))
            return Failed(_meaning(error), error.retry_after)

    # ------------------------------------------------------------------ list

    async def _list(self, resource: Resource, version: str) -> Signal:
        kind, status = resource.kind, self._status[resource.kind]
        if status.listed:
            self.observer.relist(kind, status.trouble)
            log.info("Relisting", extra=kv(kind=kind, reason=status.reason))
        started = self.clock()
        query = {**resource.selectors, **({"resourceVersion": version} if version else {})}
        async with self.client.stream(resource.path, query) as answer:
            await self.sink.begin_list(kind)
            try:
                async for chunk in answer.chunks():
                    await self.sink.feed_list(kind, chunk)
                report = await self.sink.end_list(kind)
            except (InputError, NotBegun, errors.InputError) as error:
                raise ApiError(Cause.CONTENT, self.client.server, f"the list cannot be used: {error}") from error
            except BaseException:
                await self.sink.abort_list(kind)
                raise
        if report.resource_version in ("", "0"):
            raise ApiError(Cause.CONTENT, self.client.server, "the list has no resourceVersion")
        status.listed = True
        self.observer.listed(kind, self.clock() - started, report.resource_version)
        self._ok(kind)
        return reflector.Listed(report.resource_version)

    # ------------------------------------------------------------------ watch

    async def _watch(self, resource: Resource, machine: Reflector, version: str, seconds: int) -> Signal:
        kind = resource.kind
        query = {
            **resource.selectors,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        if self._status[kind].failing_since is not None:
            self.observer.reconnect(kind, self._status[kind].trouble)
        cutter, started, frames = FrameCutter(self.frame_limit), self.clock(), 0
        async with self.client.stream(resource.path, query, idle=seconds + self.idle_margin) as answer:
            # A quiet watch sends nothing for a minute; staying open distinguishes it from an empty response.
            trusted = asyncio.get_running_loop().call_later(reflector.WATCH_SPACING, self._ok, kind)
            try:
                async for chunk in answer.chunks():
                    whole = cutter.feed(chunk)
                    if whole:
                        frames += 1
                        await self._ingest(kind, machine, whole)
            except FrameTooLarge as error:
                raise _Broken("too large", str(error)) from error
            finally:
                trusted.cancel()
        if cutter.held:
            raise _Broken("broken", f"the watch ended within a frame ({cutter.held} bytes of it had come)")
        if not frames and self.clock() - started < reflector.WATCH_SPACING:
            raise _Broken("empty", "the watch ended immediately without an event")
        return reflector.Ended()

    async def _ingest(self, kind: Kind, machine: Reflector, whole: bytes) -> None:
        report = await self.sink.ingest(kind, whole)
        machine.step(reflector.Progress(report.resource_version), self.clock())
        if report.error_code is not None:
            expired = report.error_code == 410
            reason = "the resource version is too old" if expired else "the server reports an error in the watch"
            failure = Failure.EXPIRED if expired else Failure.OTHER
            raise _Broken("expired" if expired else "error", f"{reason} ({report.error_code})", Failed(failure))
        if report.malformed is not None:
            raise _Broken("content", f"the watch contains an invalid event: {report.malformed}")
        self._ok(kind)

    # ------------------------------------------------------------------ reports

    def _failing(self, kind: Kind, trouble: str, reason: str, *, denied: bool = False) -> None:
        status = self._status[kind]
        status.denied = reason if denied else ""
        if status.failing_since is None:
            status.failing_since = self.clock()
        if status.reason != reason:
            level = logging.ERROR if denied else logging.WARNING
            log.log(level, "Cannot follow the API server; rules stay as they are", extra=kv(kind=kind, err=reason))
        status.reason, status.trouble = reason, trouble
        self.observer.failing(kind, reason, status.failing_since)
        self._tell_denied()

    def _ok(self, kind: Kind) -> None:
        status = self._status[kind]
        status.denied = ""
        if status.failing_since is not None:
            lasted = self.clock() - status.failing_since
            log.info("Following the API server again", extra=kv(kind=kind, afterSeconds=round(lasted, 1)))
            status.failing_since, status.reason = None, ""
            self.observer.ok(kind)
        self._tell_denied()

    def _tell_denied(self) -> None:
        denied = next((s.denied for s in self._status.values() if s.denied), "")
        if denied == self._denied:
            return
        self._denied = denied
        if denied:
            self.observer.auth_failed(denied)
        else:
            self.observer.auth_ok()


def _denies(error: ApiError) -> bool:
    return error.status in (401, 403) or error.cause is Cause.CREDENTIALS


def _trouble(error: ApiError) -> str:
    """Returns a word for a metric's label: few, fixed, never external text."""
    if error.expired:
        return "expired"
    if error.status in (401, 403):
        return "denied"
    if error.status == 429:
        return "throttled"
    return error.cause.value


def _meaning(error: ApiError) -> Failure:
    if error.expired:
        return Failure.EXPIRED
    if error.cause in (Cause.REFUSED, Cause.UNREACHABLE):
        return Failure.ABSENT
    return Failure.TOO_LARGE if error.version_too_large else Failure.OTHER
