"""Sends Events about the Node and about Services, worded as kube-proxy's. Callers never wait for one.

Events are raw JSON, sent with ferrule's own client. kubernetes_asyncio's `EventsV1Api` needs `ApiClient` and all models
(36 MiB) and a second session with its own credentials and TLS context, for one POST of twelve fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

from ferrule.observe.logs import kv
from ferrule.source.api.client import JSON, MERGE_PATCH
from ferrule.source.api.event_book import Event, EventBook, Regarding, Request
from ferrule.source.api.outcome import ApiError, Cause

log = logging.getLogger(__name__)

CONTROLLER = "kube-proxy"
"""The reporting component: kube-proxy's name, which people and tools look for."""

TRIES = 4
RETRY_SECONDS = 10.0
"""Seconds between attempts, as in client-go, which makes twelve."""


class Sender(Protocol):
    """The part of `ApiClient` that is used."""

    async def send(self, method: str, path: str, body: bytes, content_type: str = JSON) -> bytes:
        """Raises `ApiError`."""


class EventRecorder:
    """Accepts Events from all tasks of the event loop; `run` sends them."""

    def __init__(
        self,
        sender: Sender,
        node_name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sender = sender
        self._node = Regarding("Node", node_name)
        # kube-proxy uses the host's name here, not the Node's.
        self._book = EventBook(CONTROLLER, f"{CONTROLLER}-{socket.gethostname()}")
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._news = asyncio.Event()
        self._complained = ""

    def starting(self) -> None:
        """Records the start."""
        self.record(Event("Normal", "Starting", "StartKubeProxy", self._node))

    def default_mode(self, message: str) -> None:
        """Records that the configuration leaves `mode` empty."""
        self.record(Event("Warning", "KubeProxyDefaultMode", "StartKubeProxy", self._node, message))

    def failed_to_listen(self, reason: str, message: str) -> None:
        """Records FailedToStartProxierHealthcheck or FailedToStartMetricServer."""
        self.record(Event("Warning", reason, "StartKubeProxy", self._node, message))

    def health_check_failed(self, namespace: str, name: str, message: str) -> None:
        """Records that the listener of a Service's healthCheckNodePort could not be opened."""
        service = Regarding("Service", name, namespace)
        self.record(Event("Warning", "FailedToStartServiceHealthcheck", "Listen", service, message))

    def not_programmed(self, namespace: str, name: str, message: str) -> None:
        """Records that a Service is not (or not completely) in the kernel, and why. Not in kube-proxy."""
        service = Regarding("Service", name, namespace)
        self.record(Event("Warning", "ServiceNotProgrammed", "Program", service, message))

    def record(self, event: Event) -> None:
        """Queues an Event. Never blocks, never raises."""
        self._book.add(event, self._clock(), self._wall())
        self._news.set()

    async def run(self) -> NoReturn:
        """Sends queued Events, for ever."""
        while True:
            self._news.clear()
            request = self._book.next_request(self._clock())
            if request is not None:
                await self._send(request)
                continue
            wait = self._book.wait(self._clock())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), None if wait is None else max(wait, 0.05))

    async def _send(self, request: Request) -> None:
        content_type = JSON if request.method == "POST" else MERGE_PATCH
        for attempt in range(1, TRIES + 1):
            try:
                await self._sender.send(request.method, request.path, request.body, content_type)
            except ApiError as error:
                # 409: an attempt with a lost response was successful.
                if error.status == 409 and request.method == "POST":
                    return
                passing = error.cause is not Cause.STATUS or error.status >= 500 or error.status == 429
                if passing and attempt < TRIES:
                    await self._sleep(max(RETRY_SECONDS, min(error.retry_after or 0.0, 60.0)))
                    continue
                self._book.lost(request.event)
                if error.status != 404:
                    self._complain(error, request)
                return
            else:
                self._complained = ""
                return

    def _complain(self, error: ApiError, request: Request) -> None:
        kind = f"{error.cause.value} {error.status}"
        if self._complained != kind:
            self._complained = kind
            log.warning(
                "Cannot write Events, logged once until it succeeds",
                extra=kv(reason=request.event.reason, err=str(error), dropped=self._book.dropped),
            )
