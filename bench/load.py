"""Sends requests to an API server, many at a time or at a steady rate; runs inside the control plane's namespace.

python -m bench.load < FILE     first line: [server, CA, certificate, key, requests a second or null]; then one JSON
                                request a line: [method, path, body, content type]. Prints the seconds it took.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from typing import Any

import aiohttp

PARALLEL = 32
BEHIND = 5.0
"""Seconds. A steady rate that the server does not keep is no steady rate."""


async def send_all(
    server: str, ca: str, certificate: str, key: str, rate: float | None, requests: list[list[Any]]
) -> float:
    """Every request once, in order of their starts; raises on the first that is refused. The seconds it took."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    queue = iter(enumerate(requests))
    begun = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=PARALLEL)) as session:

        async def worker() -> None:
            for number, (method, path, body, content) in queue:
                if rate is not None:
                    early = begun + number / rate - time.monotonic()
                    if early < -BEHIND:
                        raise RuntimeError(f"the API server does not keep {rate:.1f} requests a second")
                    await asyncio.sleep(max(0.0, early))
                headers = {"Content-Type": content}
                data = None if body is None else json.dumps(body)
                async with session.request(method, server + path, data=data, headers=headers) as answer:
                    said = await answer.read()
                    if answer.status >= 400:
                        raise RuntimeError(f"{method} {path}: {answer.status} {said[:500]!r}")

        await asyncio.gather(*(worker() for _ in range(PARALLEL if rate is None else 4)))
    return time.monotonic() - begun


if __name__ == "__main__":
    url, ca_file, cert_file, key_file, pace = json.loads(sys.stdin.readline())
    lines = [json.loads(line) for line in sys.stdin]
    print(asyncio.run(send_all(url, ca_file, cert_file, key_file, pace, lines)))
