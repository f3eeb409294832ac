"""A small HTTP server on `aiohttp.web` with limits on connections, header size and idle time.

Any client in the cluster's network can reach the health ports. Headers are therefore few and short, the number of
connections is limited (the oldest one is closed), idle and slow clients have a time limit, and no client can cause log
lines at will.
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
    """Limits per client and for all clients. Seconds and bytes."""

    connections: int = 64
    """Maximum number of open connections. At the limit, the oldest idle one is closed: probes are short, so a long
    connection is not a probe."""
    idle_seconds: float = 75.0
    """Idle time without a complete request. Above Prometheus' default interval, so that its connection is reused."""
    response_seconds: float = 10.0
    """Time limit for reading the response. Also set in the kernel (TCP_USER_TIMEOUT), which drops vanished peers."""
    line_bytes: int = 4096
    """Maximum size of the request line and of each header."""
    headers: int = 64


@dataclass(frozen=True, slots=True)
class Request:
    """A request as handlers see it. Bodies are never read."""

    path: str
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accept: str = ""
    accept_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """A response. `X-Content-Type-Options: nosniff` is added to all of them."""

    body: bytes
    content_type: str = TEXT
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]

NOT_FOUND = Response(b"404 page not found\n", status=404)
"""Go's message, as in kube-proxy."""

_NOT_ALLOWED = Response(b"Method Not Allowed\n", status=405, headers={hdrs.ALLOW: "GET, HEAD"})
_FAILED = Response(b"500 Internal Server Error\n", status=500)
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n"
    b"Connection: close\r\n\r\n400 Bad Request"
)

SHUTDOWN_SECONDS = 0.1
"""Time limit for handlers that are cancelled with their connection."""


class Connections:
    """Open connections of one or of many servers, oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.Transport, Callable[[], bool]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transport: asyncio.Transport, is_busy: Callable[[], bool]) -> None:
        """Adds a connection. At the limit, the oldest one without a request in progress ends, or the oldest one."""
        while len(self._open) >= self._most:
            idle = (open_ for open_, busy in self._open.items() if not busy())
            ended = next(idle, next(iter(self._open)))
            del self._open[ended]
            ended.abort()
        self._open[transport] = is_busy

    def remove(self, transport: asyncio.Transport) -> None:
        """Removes a closed connection."""
        self._open.pop(transport, None)

    def cut(self) -> None:
        """Closes every connection immediately."""
        for transport in list(self._open):
            transport.abort()


class HttpServer:
    """Serves any number of sockets, each with its own handler, all of them with one set of limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = Connections(limits.connections)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Prepares the server for `protocol`. A second call does nothing."""
        if self._runner is not None:
            return
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._respond, expect_handler=_go_on)
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
        """Stops the server and closes every connection."""
        runner, self._runner = self._runner, None
        self.connections.cut()
        if runner is not None:
            await runner.cleanup()

    def protocol(self, handler: Handler, transports: set[asyncio.Transport]) -> asyncio.Protocol:
        """Returns a protocol for one connection, whose transport is in `transports` while it is open."""
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("not started")
        return _Connection(self._runner.server(), handler, self.connections, transports)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        transport = cast("_Transport | None", request.transport)
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.handling = True
        try:
            return await self._handle(request, transport)
        finally:
            transport.handling = False

    async def _handle(self, request: web.Request, transport: _Transport) -> web.StreamResponse:
        result = _NOT_ALLOWED
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            try:
                result = await transport.handler(_parsed(request))
            except Exception:
                log.exception("Cannot answer", extra=kv(path=request.path))
                result = _FAILED
        response = web.Response(
            status=result.status,
            body=result.body,
            headers={hdrs.CONTENT_TYPE: result.content_type, "X-Content-Type-Options": "nosniff", **result.headers},
        )
        # Written here and not later by aiohttp, so that a client that does not read can be disconnected.
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
    """Removes the server's name and version from responses, as in kube-proxy."""
    response.headers.popall(hdrs.SERVER, None)


async def _go_on(_: web.Request) -> None:
    """Treats `Expect: 100-continue` like any other request, because bodies are never read."""


def _connection_log() -> logging.Logger:
    """Returns aiohttp's logger of failed connections and malformed requests, at debug level: a port scan must not
    fill a disk."""

    def demote(record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return log.isEnabledFor(logging.DEBUG)

    logger = logging.getLogger(f"{__name__}.connections")
    if not logger.filters:
        logger.addFilter(demote)
    return logger


class _Transport:
    """The transport as aiohttp sees it. It passes only responses of a handler.

    aiohttp responds to a malformed request with its name and version, and quotes the request. Go's message is sent
    instead, and the connection is closed.
    """

    def __init__(self, transport: asyncio.Transport, handler: Handler) -> None:
        self._transport = transport
        self.handler = handler
        self.handling = False
        """Whether a request is in progress."""
        self.answering = False
        """Whether a handler's answer is being sent."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends a response, or closes the connection."""
        if self.answering:
            self._transport.write(data)
        elif not self._transport.is_closing():
            log.debug("Bad request", extra=kv(peer=self._transport.get_extra_info("peername")))
            self._transport.write(_MALFORMED)
            self._transport.close()

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Like `write`, for several parts."""
        self.write(b"".join(parts))


class _Connection(asyncio.Protocol):
    """Counts a connection from its start, before its first byte, and passes everything on to aiohttp."""

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
        seen = _Transport(self._transport, self._handler)
        self._pool.add(self._transport, lambda: seen.handling)
        self._inner.connection_made(cast("asyncio.Transport", seen))

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


def _parsed(request: web.Request) -> Request:
    query: dict[str, tuple[str, ...]] = {}
    with contextlib.suppress(ValueError):
        for key, value in request.query.items():
            query[key] = (*query.get(key, ()), value)
    return Request(
        request.path,
        query,
        ",".join(request.headers.getall(hdrs.ACCEPT, ())),
        ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, ())),
    )
