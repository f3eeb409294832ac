"""Answers of the fake API server, faults of every known kind among them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers one request."""


def status(
    code: int, reason: str, message: str = "", *, retry_after: int | None = None, **details: Any
) -> web.Response:
    """Returns a Status object as the API server writes it."""
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message or reason}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response({**body, "details": details}, status=code, headers=headers)


async def start_json(request: web.Request) -> web.StreamResponse:
    """Starts a streamed response."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def answer(code: int, reason: str, message: str = "", *, retry_after: int | None = None, **details: Any) -> Respond:
    """Returns a fault that responds with a Status."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return status(code, reason, message, retry_after=retry_after, **details)

    return respond


def text(code: int, body: str, content_type: str = "text/html") -> Respond:
    """Returns a fault that responds with text that is not the API's."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=body, content_type=content_type)

    return respond


def stream(*parts: bytes, cut: bool = False) -> Respond:
    """Returns a fault that streams bytes as JSON; `cut` breaks the connection before the end of the response."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = await start_json(request)
        for part in parts:
            await response.write(part)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return respond


def generated(parts: Callable[[], AsyncIterator[bytes]]) -> Respond:
    """Returns a fault that generates bytes while it sends them, so that a huge response takes no memory."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = await start_json(request)
        async for part in parts():
            await response.write(part)
        return response

    return respond


def reset() -> Respond:
    """Returns a fault that breaks the connection before a response."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    return respond


def black_hole(*, headers: bool = True) -> Respond:
    """Returns a fault that keeps the connection open and sends nothing."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if headers:
            response = await start_json(request)
            await response.write(b"\n")
        await asyncio.Event().wait()
        return web.Response()

    return respond
