"""An HTTP client that returns raw bytes, for tests of the wire format."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from tests.loops import LOOPS


def run_on(loop: str, scenario: Callable[[], Awaitable[None]]) -> None:
    """Runs a scenario to its end on one of the event loops."""

    async def main() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


@dataclass(frozen=True)
class Reply:
    status_line: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])


def parse(raw: bytes) -> Reply:
    if not raw:
        raise ConnectionResetError("the connection ended without a reply")
    head, _, body = raw.replace(b"\r\n\r\n", b"\n\n", 1).partition(b"\n\n")
    first, *rest = head.decode().splitlines()
    return Reply(first, dict(line.split(": ", 1) for line in rest), body)


async def ask(port: int, path: str = "/", *, host: str = "127.0.0.1", method: str = "GET", headers: str = "") -> Reply:
    """Sends one request on a new connection. Raises `ConnectionError`."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n".encode())
        return parse(await reader.read())
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def running(forever: Awaitable[None]) -> AsyncIterator[asyncio.Task[None]]:
    """Runs a permanent task, cancels it at the end, and raises its exception."""
    task = asyncio.ensure_future(forever)
    try:
        yield task  # type: ignore[misc]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
