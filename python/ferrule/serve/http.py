"""A small HTTP server on aiohttp's low level: questions in, answers out, strangers kept in bounds.

Anybody in the cluster's network can reach the health ports, so: few and short headers, a limit of connections at which
the oldest one goes, a time limit for idle and for slow clients, and no line in the log that a client could cause at
will. Why the low level: `aiohttp.web` with its application, routes and static files costs 1.3 MB of memory more than
the three modules used here, for four fixed paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from ferrule.observe.logs import kv

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

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


class HttpServer(Server):
    """A protocol factory for `loop.create_server`."""

    def __init__(self, handler: Handler, limits: Limits, connections: Connections) -> None:
        super().__init__(
            self._answer,
            request_factory=self._request,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=0,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
            access_log=None,
            logger=log,
        )
        self._handler = handler
        self._limits = limits
        self._pool = connections
        self._transports: dict[RequestHandler, asyncio.Transport] = {}

    def __call__(self) -> RequestHandler:
        """A protocol for one connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Counted from the first moment on, before it said a word."""
        super().connection_made(handler, transport)
        self._transports[handler] = transport
        self._pool.add(transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Not counted any more."""
        super().connection_lost(handler, exc)
        transport = self._transports.pop(handler, None)
        if transport is not None:
            self._pool.remove(transport)

    def cut(self) -> None:
        """End every connection now."""
        for transport in list(self._transports.values()):
            transport.abort()

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)

    async def _answer(self, request: BaseRequest) -> StreamResponse:
        answer = _NOT_ALLOWED
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            try:
                answer = await self._handler(_question(request))
            except Exception:
                log.exception("Cannot answer", extra=kv(path=request.path))
                answer = _FAILED
        response = Response(
            status=answer.status,
            body=answer.body,
            headers={hdrs.CONTENT_TYPE: answer.content_type, "X-Content-Type-Options": "nosniff", **answer.headers},
        )
        # Written here and not by aiohttp afterwards: only so can a client that does not read be given up.
        try:
            async with asyncio.timeout(self._limits.response_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client took too long to read") from None
        return response


class _Request(BaseRequest):
    """Answers do not say what they are made of: no banner, as with kube-proxy."""

    async def _prepare_hook(self, response: StreamResponse) -> None:
        response.headers.popall(hdrs.SERVER, None)


class _Protocol(RequestHandler):
    """Nonsense is answered and not logged: a port scan must not fill a node's disk."""

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """`message` quotes the client; it gets Go's words instead."""
        log.debug("Bad request", extra=kv(status=status, err=repr(exc), detail=message))
        text = f"{status} {HTTPStatus(status).phrase}"
        response = Response(status=status, body=text.encode(), headers={hdrs.CONTENT_TYPE: TEXT})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Whatever of a connection fails concerns that connection only."""
        log.debug("Connection failed", extra=kv(detail=[str(arg) for arg in args], err=repr(kw.get("exc_info"))))


def _question(request: BaseRequest) -> Question:
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
