"""Deletes stale conntrack entries of UDP flows: over netlink, concurrently with the next sync.

The engine's `ConntrackView` decides which flows are stale. A worker thread dumps the kernel's table datagram by
datagram, so a table of a million entries costs one buffer of memory, and a sync never waits for it.

A host on which this fails (no permission, no module) still gets every rule: the state is reported once and retried
after later syncs, and pending work is kept in between.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ferrule._engine import acknowledgements
from ferrule.dataplane.netlink import NETLINK_NETFILTER, RECEIVE_BYTES, open_channel
from ferrule.observe.logs import kv
from ferrule.types import FAMILIES, Family

if TYPE_CHECKING:
    from ferrule._engine import ConntrackView

log = logging.getLogger(__name__)

DUMP_ATTEMPTS = 3
"""How often a dump is restarted when the kernel reports that it may be incomplete."""

_GONE = errno.ENOENT
_NO_FILTER = {errno.EINVAL, errno.EOPNOTSUPP}
_NO_MODULE = {errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT}


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The result of one pass over a family's table."""

    family: Family
    seconds: float
    seen: int
    """Number of entries that the kernel dumped (UDP only, where it can filter)."""
    deleted: int
    errors: int
    """Number of entries that the kernel refused to delete, without those that had expired."""
    complete: bool = True
    """False if the kernel kept interrupting the dump, or the process is ending."""


@dataclass(slots=True)
class _Tally:
    seen: int = 0
    deleted: int = 0
    errors: int = 0


def clean(view: ConntrackView, stop: threading.Event) -> Cleaned:
    """Dumps the table of the calling thread's network namespace to its end, or until `stop`. Raises `OSError`."""
    started = time.monotonic()
    tally = _Tally()
    # Without frontends no flow is stale; a cluster without UDP Services costs nothing.
    complete = not view.frontends
    attempts = 0
    filtered = True
    while not complete and attempts < DUMP_ATTEMPTS and not stop.is_set():
        try:
            complete = _walk(view, stop, tally, filtered=filtered)
        except OSError as error:
            if filtered and error.errno in _NO_FILTER:
                filtered = False
                continue
            if error.errno != errno.ENOBUFS:
                raise
        attempts += 1
    return Cleaned(view.family, time.monotonic() - started, tally.seen, tally.deleted, tally.errors, complete=complete)


def _walk(view: ConntrackView, stop: threading.Event, tally: _Tally, *, filtered: bool) -> bool:
    """Performs one dump. Returns whether it was complete."""
    whole = True
    with open_channel(NETLINK_NETFILTER) as dump, open_channel(NETLINK_NETFILTER) as deletes:
        dump.send(view.dump_request(filtered=filtered))
        while not stop.is_set():
            found = view.stale(dump.recv(RECEIVE_BYTES))
            if found.error is not None:
                raise OSError(found.error, os.strerror(found.error))
            whole = whole and not found.interrupted
            tally.seen += found.seen
            if found.count:
                _delete(deletes, found.deletes, found.count, tally)
            if found.done:
                return whole
    return False


def _delete(channel: socket.socket, requests: bytes, count: int, tally: _Tally) -> None:
    """Sends the requests for one datagram of the dump. Failures are answered, and the last request always is."""
    channel.send(requests)
    gone = refused = 0
    answered = False
    while not answered:
        for sequence, code in acknowledgements(channel.recv(RECEIVE_BYTES)):
            gone += code == _GONE
            refused += code not in (0, _GONE)
            if code in (errno.EPERM, errno.EACCES):
                raise OSError(code, os.strerror(code))
            answered = answered or sequence == count
    tally.errors += refused
    tally.deleted += count - gone - refused


async def reconcile(view: ConntrackView) -> Cleaned:
    """`clean` in a worker thread, which ends soon after a cancellation. Raises `OSError`."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(clean, view, stop)
    finally:
        stop.set()


def why(error: OSError) -> str:
    """Returns the reason as one sentence."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return "CAP_NET_ADMIN is missing in this network namespace"
    if error.errno in _NO_MODULE:
        return "the kernel offers no conntrack table over netlink: module nf_conntrack_netlink is not loaded"
    return str(error) or type(error).__name__


@dataclass(slots=True)
class ConntrackCleaner:
    """Runs one pass at a time. A newer view replaces a waiting one and inherits its work.

    `after_sync` belongs to the event loop's thread, as `run` does.
    """

    on_cleaned: Callable[[Cleaned], None] = lambda _: None
    reconcile: Callable[[ConntrackView], Awaitable[Cleaned]] = reconcile
    degraded: dict[Family, str] = field(default_factory=dict)
    """Why stale flows were not deleted, by family; empty without failures."""
    _owed: dict[Family, ConntrackView] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def after_sync(self, family: Family, view: ConntrackView | None) -> None:
        """Schedules a pass after a sync of `family`. `view` is the engine's; None retries what failed."""
        if view is not None:
            waiting = self._owed.get(family)
            self._owed[family] = view if waiting is None else view.inheriting(waiting)
        if family in self._owed:
            self._wake.set()

    async def run(self) -> None:
        """Runs scheduled passes, for ever."""
        while True:
            await self._wake.wait()
            await self.clean_owed()

    async def clean_owed(self) -> None:
        """Runs all scheduled passes once. Does not raise for what the host refuses."""
        self._wake.clear()
        for family in FAMILIES:
            view = self._owed.pop(family, None)
            if view is not None:
                await self._clean(family, view)

    async def _clean(self, family: Family, view: ConntrackView) -> None:
        done: Cleaned | None = None
        try:
            done = await self.reconcile(view)
        except OSError as error:
            self._degrade(family, why(error))
        finally:
            # On cancellation, too, pending work is kept.
            if done is None or not done.complete:
                newer = self._owed.get(family)
                self._owed[family] = view if newer is None else newer.inheriting(view)
        if done is None:
            return
        if self.degraded.pop(family, None) is not None:
            log.info("Stale conntrack entries can be deleted again", extra=kv(ipFamily=family))
        log.log(
            logging.INFO if done.deleted or done.errors else logging.DEBUG,
            "Deleted stale conntrack entries",
            extra=kv(
                ipFamily=family,
                deleted=done.deleted,
                seen=done.seen,
                errors=done.errors,
                complete=done.complete,
                ms=round(done.seconds * 1000, 1),
            ),
        )
        self.on_cleaned(done)

    def _degrade(self, family: Family, reason: str) -> None:
        if self.degraded.get(family) != reason:
            log.warning(
                "Cannot delete stale conntrack entries: UDP clients may keep sending to removed endpoints",
                extra=kv(ipFamily=family, reason=reason, retry="after later syncs"),
            )
        self.degraded[family] = reason
