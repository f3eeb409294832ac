"""Faulty responses of a broken, overloaded or hostile API server. Each fault is a function from a request to a
response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

Forward = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Fault = Callable[[web.BaseRequest, Forward], Awaitable[web.StreamResponse]]

JSON = "application/json"
MIB = 1 << 20


def status(code: int, reason: str, message: str, *, retry_after: int | None = None) -> Fault:
    """Returns a fault with a `Status` object."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = json.dumps(_status(code, reason, message)).encode()
    return answer(code, body, content_type=JSON, headers=headers)


def answer(code: int, body: bytes, *, content_type: str, headers: dict[str, str] | None = None) -> Fault:
    """Returns a fault with any complete response."""

    async def fault(_request: web.BaseRequest, _forward: Forward) -> web.StreamResponse:
        return web.Response(status=code, body=body, content_type=content_type, headers=headers or {})

    return fault


def gone() -> Fault:
    """410: the resourceVersion is too old."""
    return status(410, "Expired", "too old resource version: 1 (2)")


def gone_in_the_stream() -> Fault:
    """The same in a watch: 200, then one ERROR event."""
    event = {"type": "ERROR", "object": _status(410, "Expired", "too old resource version: 1 (2)")}
    return answer(200, json.dumps(event).encode() + b"\n", content_type=JSON)


def too_many(retry_after: int | None = 1) -> Fault:
    """429, with `Retry-After` in seconds unless None."""
    return status(429, "TooManyRequests", "the server has received too many requests", retry_after=retry_after)


def internal_error() -> Fault:
    """500."""
    return status(500, "InternalError", "etcdserver: request timed out")


def unauthorized() -> Fault:
    """401, as for an expired token."""
    return status(401, "Unauthorized", "Unauthorized")


def forbidden() -> Fault:
    """403, as without the role."""
    return status(403, "Forbidden", 'services is forbidden: User "x" cannot list resource "services"')


def empty() -> Fault:
    """200 without a body."""
    return answer(200, b"", content_type=JSON)


def html() -> Fault:
    """502 with HTML, as from a load balancer."""
    return answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>\n", content_type="text/html")


def html_as_ok() -> Fault:
    """A log-in page with 200: a captive portal, a wrong port."""
    return answer(200, b"<html><body>Please log in</body></html>\n", content_type="text/html")


def truncated(upto: int = 400) -> Fault:
    """A real response that breaks off after `upto` bytes with the connection; as JSON, whatever was requested."""

    async def fault(request: web.BaseRequest, _forward: Forward) -> web.StreamResponse:
        item = {"metadata": {"name": "half", "namespace": "default", "resourceVersion": "1"}, "spec": {"x": "y" * upto}}
        whole: dict[str, object] = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": [item]}
        if "watch" in request.query:
            whole = {"type": "ADDED", "object": item}
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(json.dumps(whole).encode()[:upto])
        await asyncio.sleep(0.05)
        abort(request)
        return response

    return fault


def huge(size: int = 5 * MIB) -> Fault:
    """A watch whose first event is one object of `size` bytes, of the requested kind, then silence. Lists pass."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        if "watch" not in request.query:
            return await forward(request)
        thing = {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"name": "huge", "namespace": "default", "uid": "huge", "resourceVersion": "1"}
            | {"annotations": {"fill": "x" * size}},
            "spec": {"type": "ClusterIP", "clusterIP": "None"},
        }
        if "endpointslices" in request.path:
            thing |= {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4"}
            thing |= {"endpoints": [], "ports": []}
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(json.dumps({"type": "ADDED", "object": thing}).encode() + b"\n")
        await asyncio.Event().wait()
        return response

    return fault


def silence() -> Fault:
    """The request is read and never answered."""

    async def fault(_request: web.BaseRequest, _forward: Forward) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return fault


def delayed(seconds: float) -> Fault:
    """The real response, delayed."""

    async def fault(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await forward(request)

    return fault


def reset() -> Fault:
    """The connection breaks without a response."""

    async def fault(request: web.BaseRequest, _forward: Forward) -> web.StreamResponse:
        abort(request)
        return web.Response()

    return fault


def abort(request: web.BaseRequest) -> None:
    """Aborts the client's connection."""
    if request.transport is not None:
        request.transport.abort()


def _status(code: int, reason: str, message: str) -> dict[str, object]:
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return head | {"code": code, "reason": reason, "message": message}
