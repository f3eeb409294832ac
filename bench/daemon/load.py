"""Fills an API server with Services and slices, many requests at a time; runs inside the control plane's namespace.

python -m bench.daemon.load FILE   reads one JSON request a line ([method, path, body, content type]) from stdin
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

import aiohttp

PARALLEL = 32


async def send_all(server: str, ca: str, certificate: str, key: str, requests: list[list[Any]]) -> None:
    """Every request once; raises on the first that is refused."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    queue = iter(requests)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=PARALLEL)) as session:

        async def worker() -> None:
            for method, path, body, content in queue:
                headers = {"Content-Type": content}
                data = None if body is None else json.dumps(body)
                async with session.request(method, server + path, data=data, headers=headers) as answer:
                    said = await answer.read()
                    if answer.status >= 400:
                        raise RuntimeError(f"{method} {path}: {answer.status} {said[:500]!r}")

        await asyncio.gather(*(worker() for _ in range(PARALLEL)))


if __name__ == "__main__":
    access = json.loads(sys.stdin.readline())
    asyncio.run(send_all(*access, [json.loads(line) for line in sys.stdin]))
