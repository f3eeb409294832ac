"""Port 10249: numbers, the mode, the configuration in force, and on request a look inside the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ferrule.observe.exposition import render
from ferrule.observe.metrics import Metrics
from ferrule.serve.http import JSON, NOT_FOUND, Answer, Handler, Question

DEFAULT_PORT = 10249


def admin_handler(
    metrics: Metrics,
    *,
    configz: Callable[[], bytes],
    mode: str = "iptables",
    profiling: Handler | None = None,
) -> Handler:
    """`configz` gives the configuration in force as JSON, without credentials. `profiling` answers below /debug/pprof/;
    None (enableProfiling is off) hides it."""
    one_at_a_time = asyncio.Lock()

    async def scrape(question: Question) -> Answer:
        # Rendering takes milliseconds, and several Prometheis must not add them up on the event loop.
        async with one_at_a_time:
            found = await asyncio.to_thread(
                render, metrics.registry, question.accept, question.accept_encoding, question.query.get("name[]", ())
            )
        headers = {"Process-Start-Time-Unix": str(int(metrics.started_at))}
        if found.encoding is not None:
            headers["Content-Encoding"] = found.encoding
        return Answer(found.body, found.content_type, headers=headers)

    async def handle(question: Question) -> Answer:
        if question.path == "/healthz":
            return Answer(b"ok")
        if question.path == "/metrics":
            return await scrape(question)
        if question.path == "/proxyMode":
            return Answer(mode.encode())
        if question.path == "/configz":
            return Answer(configz(), JSON)
        if profiling is not None and question.path.startswith("/debug/pprof"):
            return await profiling(question)
        return NOT_FOUND

    return handle
