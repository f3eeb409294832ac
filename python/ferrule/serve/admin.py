"""Port 10249: metrics, mode, current configuration and flags, and optional profiling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from ferrule.observe.exposition import render
from ferrule.observe.health import Readiness
from ferrule.observe.metrics import Metrics
from ferrule.serve import zpages
from ferrule.serve.health import ready_response
from ferrule.serve.http import JSON, NOT_FOUND, Handler, Request, Response

DEFAULT_PORT = 10249
SLIS = ("process_start_time_seconds",)
"""kube-proxy registers no health check at /metrics/slis, so this is its whole content."""


def admin_handler(
    metrics: Metrics,
    readiness: Readiness,
    *,
    in_full: bool = False,
    configz: Callable[[], bytes],
    mode: str = "iptables",
    profiling: Handler | None = None,
    build: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Handler:
    """Returns the handler of port 10249. /readyz includes the reasons `in_full` if only this host can connect.

    `configz` returns the current configuration as JSON, without credentials. `profiling` serves /debug/pprof/; None
    (enableProfiling is off) disables it, as None for `build` disables /statusz and None for `flags` /flagz."""
    one_at_a_time = asyncio.Lock()
    paths = [path for path, hidden in (("/configz", False), ("/flagz", flags is None)) if not hidden]
    paths += ["/healthz", "/metrics", "/proxyMode"]

    async def scrape(request: Request, names: tuple[str, ...]) -> Response:
        # Rendering takes milliseconds, so it runs in a thread: several Prometheis must not block the event loop.
        async with one_at_a_time:
            found = await asyncio.to_thread(render, metrics.registry, request.accept, request.accept_encoding, names)
        headers = {"Process-Start-Time-Unix": str(int(metrics.started_at))}
        if found.encoding is not None:
            headers["Content-Encoding"] = found.encoding
        return Response(found.body, found.content_type, headers=headers)

    async def handle(request: Request) -> Response:
        if request.path == "/healthz":
            return Response(b"ok")
        if request.path == "/metrics":
            return await scrape(request, request.query.get("name[]", ()))
        if request.path == "/readyz":
            return ready_response(readiness, in_full=in_full)
        if request.path == "/metrics/slis":
            return await scrape(request, SLIS)
        if request.path == "/proxyMode":
            return Response(mode.encode())
        if request.path == "/configz":
            return Response(configz(), JSON)
        if request.path == "/statusz" and build is not None:
            return Response(zpages.statusz(build, paths, started_at=metrics.started_at, now=time.time()))
        if request.path == "/flagz" and flags is not None:
            return Response(zpages.flagz(flags))
        if profiling is not None and request.path.startswith("/debug/pprof"):
            return await profiling(request)
        return NOT_FOUND

    return handle
