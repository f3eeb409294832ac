"""Sends requests to an API server, concurrently or at a steady rate; runs inside the control plane's namespace.

python -m bench.load < FILE     first line: [server, CA, certificate, key, requests a second or null]; then one JSON
                                request a line: [method, path, body, content type]. Prints the seconds it took.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import aiohttp

PARALLEL = 32
BEHIND = 5.0
"""Seconds. A server that falls behind the rate by more than this fails the row."""

JSON = "application/json"
T = TypeVar("T")


def session(ca: str, certificate: str, key: str) -> aiohttp.ClientSession:
    """Opens a session with as many connections as `each` uses."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=PARALLEL))


async def call(http: aiohttp.ClientSession, method: str, url: str, body: object, content: str) -> bytes:
    """Returns the response; raises if the request was rejected."""
    data = None if body is None else json.dumps(body)
    async with http.request(method, url, data=data, headers={"Content-Type": content}) as answer:
        said = await answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {url}: {answer.status} {said[:500]!r}")
        return said


async def each(things: Iterable[T], work: Callable[[T], Awaitable[object]], parallel: int = PARALLEL) -> None:
    """Starts work in order, `parallel` at a time; raises with the first that does."""
    queue = iter(things)

    async def worker() -> None:
        for thing in queue:
            await work(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(worker())


async def send_all(
    server: str, ca: str, certificate: str, key: str, rate: float | None, requests: list[list[Any]]
) -> float:
    """Sends every request once; raises on the first rejection. Returns the seconds."""
    begun = time.monotonic()
    async with session(ca, certificate, key) as http:

        async def send(numbered: tuple[int, list[Any]]) -> None:
            number, (method, path, body, content) = numbered
            if rate is not None:
                early = begun + number / rate - time.monotonic()
                if early < -BEHIND:
                    raise RuntimeError(f"the API server does not keep {rate:.1f} requests a second")
                await asyncio.sleep(max(0.0, early))
            await call(http, method, server + path, body, content)

        await each(enumerate(requests), send, PARALLEL if rate is None else 4)
    return time.monotonic() - begun


if __name__ == "__main__":
    url, ca_file, cert_file, key_file, pace = json.loads(sys.stdin.readline())
    lines = [json.loads(line) for line in sys.stdin]
    print(asyncio.run(send_all(url, ca_file, cert_file, key_file, pace, lines)))
