"""Events about our Node and about Services, in kube-proxy's words. Fire and forget: nobody waits for one.

Raw JSON through our own client and not kubernetes_asyncio's `EventsV1Api`: that API needs `ApiClient` and all models
(36 MiB), a second session with its own credentials and TLS context, for one POST of twelve fields.
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
"""Also the name by which people and tools look for our Events: that of what we stand in for."""

TRIES = 4
RETRY_SECONDS = 10.0
"""Between them, as client-go, which tries twelve times."""


class Sender(Protocol):
    """What is needed of `ApiClient`."""

    async def send(self, method: str, path: str, body: bytes, content_type: str = JSON) -> bytes:
        """Raises `ApiError`."""


class EventRecorder:
    """Takes Events from anywhere in the event loop; `run` sends them."""

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
        # kube-proxy takes the host's name here and not the Node's.
        self._book = EventBook(CONTROLLER, f"{CONTROLLER}-{socket.gethostname()}")
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._news = asyncio.Event()
        self._complained = ""

    def starting(self) -> None:
        """We are up."""
        self.record(Event("Normal", "Starting", "StartKubeProxy", self._node))

    def default_mode(self, message: str) -> None:
        """The configuration leaves `mode` empty."""
        self.record(Event("Warning", "KubeProxyDefaultMode", "StartKubeProxy", self._node, message))

    def failed_to_listen(self, reason: str, message: str) -> None:
        """FailedToStartProxierHealthcheck or FailedToStartMetricServer."""
        self.record(Event("Warning", reason, "StartKubeProxy", self._node, message))

    def health_check_failed(self, namespace: str, name: str, message: str) -> None:
        """The listener for a Service's healthCheckNodePort could not be opened."""
        service = Regarding("Service", name, namespace)
        self.record(Event("Warning", "FailedToStartServiceHealthcheck", "Listen", service, message))

    def not_programmed(self, namespace: str, name: str, message: str) -> None:
        """Ours: a Service that is not (or not wholly) in the kernel, and why."""
        service = Regarding("Service", name, namespace)
        self.record(Event("Warning", "ServiceNotProgrammed", "Program", service, message))

    def record(self, event: Event) -> None:
        """Never blocks, never raises."""
        self._book.add(event, self._clock(), self._wall())
        self._news.set()

    async def run(self) -> NoReturn:
        """Send what there is, for ever."""
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
                # 409: a try whose answer was lost had worked.
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
                "Events cannot be written; said once until one can be",
                extra=kv(reason=request.event.reason, err=str(error), dropped=self._book.dropped),
            )
