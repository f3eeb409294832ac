"""Relays the API server to a namespace's own loopback, for nodes with identical addresses, which cannot share a
network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from ferrule.testing.netns import NetNs
from tests.e2e.harness.cluster import LOCALHOST, PORT, Cluster

CHUNK = 1 << 16


class Relay:
    """Relays bytes between 127.0.0.1:6443 of a namespace and the API server. Use as a context manager."""

    def __init__(self, cluster: Cluster, netns: NetNs) -> None:
        self._cluster, self._netns = cluster, netns
        self._loop = asyncio.new_event_loop()
        # Sockets of the event loop belong to its thread's namespace: the API server's.
        self._thread = threading.Thread(
            target=lambda: cluster.host.netns.call(self._loop.run_forever), name="relay", daemon=True
        )
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The URL for a kubeconfig used inside; the API server's certificate is valid for it."""
        return f"https://{LOCALHOST}:{PORT}"

    def __enter__(self) -> Relay:
        listening = self._netns.call(lambda: socket.create_server((LOCALHOST, PORT)))
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(listening), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._carry, sock=listening)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            # The node's client sees a missing API server as a closed connection.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                server_reader, server_writer = await asyncio.open_connection(LOCALHOST, PORT)
                try:
                    await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))
                finally:
                    server_writer.close()
        finally:
            writer.close()
            self._open.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
