"""A reverse proxy between nodes and the API server, which forwards and counts requests, and injects faults.

It runs in a thread of the tests with its sockets in the control plane's namespace: nodes reach it over the fabric.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from tests.e2e.harness.cluster import LOCALHOST, PORT, Cluster
from tests.e2e.harness.faults import Fault, abort

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "date", "server"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    at: float
    """`time.monotonic()` of its arrival."""
    method: str
    path: str
    query: dict[str, str]
    fault: bool
    """Whether a fault handled it."""

    @property
    def watch(self) -> bool:
        """Whether it is a watch, not a list or get."""
        return self.query.get("watch") in ("1", "true")


@dataclass(slots=True)
class _Injection:
    fault: Fault
    path: str
    watch: bool | None
    left: int | None
    """How many more times; None for the lifetime of the fault."""

    def take(self, path: str, watch: bool) -> bool:
        if self.path not in path or self.watch not in (None, watch) or self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        return True


class FaultyProxy:
    """Listens on the API server's fabric address, another port, with the same certificate. Use as a context manager."""

    def __init__(self, cluster: Cluster, port: int = 7443) -> None:
        self._cluster, self._netns, self.port = cluster, cluster.host.netns, port
        self.seen: list[Seen] = []
        self._injections: list[_Injection] = []
        self._open = asyncio.Event()
        self._open.set()
        self._crumbs: tuple[int, float] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)
        self._session: ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """The URL for a node's kubeconfig."""
        return f"https://{self._cluster.address}:{self.port}"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        try:
            self._do(self._connect())
            self._do(self._listen())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ what a test does

    @contextmanager
    def inject(
        self, fault: Fault, path: str = "", *, watch: bool | None = None, times: int | None = None
    ) -> Iterator[None]:
        """Injects a fault into requests whose path contains `path` (and are watches, or are not), at most `times`
        times.

        Running streams continue: `break_streams` ends them.
        """
        injection = _Injection(fault, path, watch, times)
        self._injections.append(injection)
        try:
            yield
        finally:
            self._injections.remove(injection)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Closes the listener and all connections inside: new ones are refused."""
        self._do(self._unlisten())
        try:
            yield
        finally:
            self._do(self._listen())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Accepts and keeps connections without sending a byte of a response: a black hole without a firewall."""
        self._loop.call_soon_threadsafe(self._open.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._open.set)

    @contextmanager
    def dripping(self, size: int = 512, pause: float = 0.01) -> Iterator[None]:
        """Sends real responses, at most `size` bytes at a time with `pause` seconds between, so that no line arrives
        whole."""
        self._crumbs = size, pause
        try:
            yield
        finally:
            self._crumbs = None

    def break_streams(self) -> None:
        """Breaks every connection of a client; the next request is served as before."""
        with self.refusing():
            pass

    def count(self, path: str = "", *, watch: bool | None = None, since: float = 0.0) -> int:
        """Returns the number of requests whose path contains `path`, from monotonic time `since` on."""
        return sum(path in s.path and watch in (None, s.watch) and s.at >= since for s in list(self.seen))

    # ------------------------------------------------------------ inside

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _socket(self, address: Any) -> socket.socket:
        """Creates a socket in the API server's namespace, in which it stays."""
        family, kind, protocol = address[:3]
        return self._netns.call(lambda: socket.socket(family, kind, protocol))

    async def _connect(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._cluster.ca))
        connector = TCPConnector(ssl=tls, limit=0, force_close=True, socket_factory=self._socket)
        headers = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
        self._session = ClientSession(
            connector=connector, auto_decompress=False, skip_auto_headers=headers, timeout=ClientTimeout(total=None)
        )

    async def _listen(self) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self._cluster.server_cert.cert, self._cluster.server_cert.key)
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        where = (self._cluster.address, self.port)
        listener = self._netns.call(lambda: socket.create_server(where))
        await web.SockSite(self._runner, listener, ssl_context=tls).start()

    async def _unlisten(self) -> None:
        if self._runner is not None:
            server = self._runner.server
            for connection in server.connections if server is not None else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _close(self) -> None:
        await self._unlisten()
        if self._session is not None:
            await self._session.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close in later turns of the loop

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        query = dict(request.query)
        watch = query.get("watch") in ("1", "true")
        injection = next((i for i in self._injections if i.take(request.path, watch)), None)
        self.seen.append(Seen(time.monotonic(), request.method, request.path, query, injection is not None))
        await self._open.wait()
        if injection is not None:
            return await injection.fault(request, self._forward)
        return await self._forward(request)

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._session is not None
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP]
        url = f"https://{LOCALHOST}:{PORT}{request.path_qs}"
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
            ) as real:
                kept = [(k, v) for k, v in real.headers.items() if k.lower() not in HOP_BY_HOP]
                response = web.StreamResponse(status=real.status, headers=kept)
                if "Content-Length" not in real.headers:
                    response.enable_chunked_encoding()
                await response.prepare(request)
                async for chunk in real.content.iter_any():
                    for crumb in self._pieces(chunk):
                        await self._open.wait()
                        await response.write(crumb)
                        await asyncio.sleep(self._crumbs[1] if self._crumbs else 0.0)
                await response.write_eof()
                return response
        except (ClientError, OSError):
            # The server is unreachable, or either side closed the connection: close the other, too.
            abort(request)
            return response or web.Response()

    def _pieces(self, chunk: bytes) -> list[bytes]:
        size = self._crumbs[0] if self._crumbs else len(chunk)
        return [chunk[at : at + size] for at in range(0, len(chunk), size)]
