"""A small HTTP server on `aiohttp.web` with limits on connections, header size and idle time.

Any client in the cluster's network can reach the health ports, so: few and short headers, a limit of connections at
which the oldest one ends, a time limit for idle and for slow clients, and no line in the log that a client could cause
at will.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import hdrs, web

from ferrule.observe.logs import kv

log = logging.getLogger(__name__)

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them, may take. Seconds and bytes."""

    connections: int = 64
    """At most so many at once; one more, and the oldest is cut off: a probe is short, whoever stays is not a probe."""
    idle_seconds: float = 75.0
    """Without a whole request. Above Prometheus' default interval, so that its connection is used again."""
    response_seconds: float = 10.0
    """For taking our answer. Also given to the kernel (TCP_USER_TIMEOUT), which drops peers that went away."""
    line_bytes: int = 4096
    """Request line, and each header."""
    headers: int = 64


@dataclass(frozen=True, slots=True)
class Question:
    """What a handler may know of a request. Bodies are never read."""

    path: str
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accept: str = ""
    accept_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. `X-Content-Type-Options: nosniff` goes with all of them."""

    body: bytes
    content_type: str = TEXT
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Question], Awaitable[Answer]]

NOT_FOUND = Answer(b"404 page not found\n", status=404)
"""Go's words, which kube-proxy's users know."""

_NOT_ALLOWED = Answer(b"Method Not Allowed\n", status=405, headers={hdrs.ALLOW: "GET, HEAD"})
_FAILED = Answer(b"500 Internal Server Error\n", status=500)
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n"
    b"Connection: close\r\n\r\n400 Bad Request"
)

SHUTDOWN_SECONDS = 0.1
"""For handlers that were cancelled with their connection."""


class Connections:
    """Open connections of one or of many servers, oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.Transport, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transport: asyncio.Transport) -> None:
        """Make room for it and keep it."""
        while len(self._open) >= self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[transport] = None

    def remove(self, transport: asyncio.Transport) -> None:
        """It is closed."""
        self._open.pop(transport, None)

    def cut(self) -> None:
        """End every connection now."""
        for transport in list(self._open):
            transport.abort()


class HttpServer:
    """Answers on any number of sockets, each with a handler of its own, all of them within one set of limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = Connections(limits.connections)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Makes ready for `protocol`. A second call does nothing."""
        if self._runner is not None:
            return
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer, expect_handler=_go_on)
        app.on_response_prepare.append(_without_banner)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_connection_log(),
            handler_cancellation=True,
            keepalive_timeout=self.limits.idle_seconds,
            lingering_time=0,
            max_line_size=self.limits.line_bytes,
            max_field_size=self.limits.line_bytes,
            max_headers=self.limits.headers,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        self._runner = runner

    async def stop(self) -> None:
        """Ends what `start` began, and every connection."""
        runner, self._runner = self._runner, None
        self.connections.cut()
        if runner is not None:
            await runner.cleanup()

    def protocol(self, handler: Handler, transports: set[asyncio.Transport]) -> asyncio.Protocol:
        """A protocol for one connection, whose transport is in `transports` while it is open."""
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("not started")
        return _Connection(self._runner.server(), handler, self.connections, transports)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        transport = cast("_Transport | None", request.transport)
        if transport is None:
            raise ConnectionResetError("the client is gone")
        answer = _NOT_ALLOWED
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            try:
                answer = await transport.handler(_question(request))
            except Exception:
                log.exception("Cannot answer", extra=kv(path=request.path))
                answer = _FAILED
        response = web.Response(
            status=answer.status,
            body=answer.body,
            headers={hdrs.CONTENT_TYPE: answer.content_type, "X-Content-Type-Options": "nosniff", **answer.headers},
        )
        # Written here and not by aiohttp afterwards: only so can a client that does not read be given up.
        transport.answering = True
        try:
            async with asyncio.timeout(self.limits.response_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client took too long to read") from None
        finally:
            transport.answering = False
        return response


async def _without_banner(_: web.Request, response: web.StreamResponse) -> None:
    """Answers do not say what they are made of, as with kube-proxy."""
    response.headers.popall(hdrs.SERVER, None)


async def _go_on(_: web.Request) -> None:
    """`Expect: 100-continue` is answered like any other request: bodies are never read."""


def _connection_log() -> logging.Logger:
    """aiohttp's log of failed connections and malformed requests, at debug level: a port scan must not fill a disk."""

    def demote(record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return log.isEnabledFor(logging.DEBUG)

    logger = logging.getLogger(f"{__name__}.connections")
    if not logger.filters:
        logger.addFilter(demote)
    return logger


class _Transport:
    """The transport as aiohttp sees it. Only answers of a handler pass.

    aiohttp answers a malformed request by itself: with its name and version, and with a quotation of the request. Go's
    words are sent instead, and the connection ends.
    """

    def __init__(self, transport: asyncio.Transport, handler: Handler) -> None:
        self._transport = transport
        self.handler = handler
        self.answering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends an answer, or ends the connection."""
        if self.answering:
            self._transport.write(data)
        elif not self._transport.is_closing():
            log.debug("Bad request", extra=kv(peer=self._transport.get_extra_info("peername")))
            self._transport.write(_MALFORMED)
            self._transport.close()

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Like `write`, all at once."""
        self.write(b"".join(parts))


class _Connection(asyncio.Protocol):
    """Counts a connection from its first moment on, before a byte of it came, and hands everything on to aiohttp."""

    def __init__(
        self, inner: asyncio.Protocol, handler: Handler, pool: Connections, transports: set[asyncio.Transport]
    ) -> None:
        self._inner = inner
        self._handler = handler
        self._pool = pool
        self._transports = transports
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transports.add(self._transport)
        self._pool.add(self._transport)
        self._inner.connection_made(cast("asyncio.Transport", _Transport(self._transport, self._handler)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transports.discard(self._transport)
            self._pool.remove(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def _question(request: web.Request) -> Question:
    query: dict[str, tuple[str, ...]] = {}
    with contextlib.suppress(ValueError):
        for key, value in request.query.items():
            query[key] = (*query.get(key, ()), value)
    return Question(
        request.path,
        query,
        ",".join(request.headers.getall(hdrs.ACCEPT, ())),
        ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, ())),
    )
