"""A listening port with retries: binds, or retries every five seconds and logs each reason once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ferrule.errors import FerruleError
from ferrule.observe.logs import kv
from ferrule.serve.http import Handler, HttpServer, Limits

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""kube-proxy's."""

BACKLOG = 128


class ListenError(FerruleError):
    """A port cannot be opened, and the configuration makes this fatal (bindAddressHardFail)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on."""

    host: str
    """An IP address."""
    port: int
    dual: bool = False
    """Whether it is a wildcard (`0.0.0.0` or `::`) for every address of both families, as in Go's configurations."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Returns whether only this host can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def parse(cls, text: str, default_port: int) -> Endpoint | None:
        """Parses `127.0.0.1:10249`, `[::]:10256`, `:10256`, or a bare IP, which uses the default port. Returns None
        for an empty text, which disables the listener. Raises `ValueError` with the text."""
        if not text:
            return None
        with contextlib.suppress(ValueError):
            return cls._of(text, default_port)
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if colon and port.isascii() and port.isdigit() and int(port) < 1 << 16:
            with contextlib.suppress(ValueError):
                return cls._of(bare or "::", int(port))
        raise ValueError(f"{text!r} is not an IP address with a port, such as 127.0.0.1:{default_port}")

    @classmethod
    def _of(cls, host: str, port: int) -> Endpoint:
        address = ipaddress.ip_address(host)
        return cls(str(address), port, dual=address.is_unspecified)


def open_socket(endpoint: Endpoint, limits: Limits) -> socket.socket:
    """Returns a bound socket that does not listen yet; a dual one accepts both families if the host supports both.
    Raises `OSError`."""
    address = ipaddress.ip_address(endpoint.host)
    if endpoint.dual:
        try:
            return _bound(socket.AF_INET6, "::", endpoint.port, limits, dual=True)
        except OSError as error:
            # The host does not support IPv6. Other errors (the port is in use) also occur without it.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bound(socket.AF_INET, "0.0.0.0", endpoint.port, limits)  # noqa: S104 - asked for
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return _bound(family, endpoint.host, endpoint.port, limits)


def _bound(family: socket.AddressFamily, host: str, port: int, limits: Limits, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # A restart must not wait for connections of the previous process.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        # Inherited by accepted sockets: data that a peer does not acknowledge for this time ends the connection, even
        # after ferrule closed it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.response_seconds * 1000))
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def reason(error: OSError) -> str:
    """Returns the kernel's message without numbers and addresses, which are logged separately."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


class Service:
    """Servers for one handler on several addresses of one port: all of them, or none."""

    def __init__(self, handler: Handler, http: HttpServer) -> None:
        self._handler = handler
        self._http = http
        self._listening: list[asyncio.Server] = []
        self._transports: set[asyncio.Transport] = set()

    async def open(self, endpoints: Sequence[Endpoint]) -> None:
        """Starts to listen. Raises `OSError`; then no address listens."""
        loop = asyncio.get_running_loop()
        await self._http.start()
        try:
            for endpoint in endpoints:
                sock = open_socket(endpoint, self._http.limits)
                try:
                    self._listening.append(await loop.create_server(self._protocol, sock=sock, backlog=BACKLOG))
                except BaseException:
                    sock.close()
                    raise
        except BaseException:
            self.close()
            raise

    def _protocol(self) -> asyncio.Protocol:
        return self._http.protocol(self._handler, self._transports)

    def close(self) -> None:
        """Stops listening and closes open connections immediately, because no client needs to finish."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        for transport in list(self._transports):
            transport.abort()

    @property
    def ports(self) -> list[int]:
        """The ports in use, for tests that requested port 0."""
        return [sock.getsockname()[1] for server in self._listening for sock in server.sockets]


class Listener:
    """A `Service` on one configured address, for the life of the daemon."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        handler: Handler,
        *,
        limits: Limits | None = None,
        hard_fail: bool = False,
        on_state: Callable[[str | None], None] = lambda _: None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`name` is used in logs. `on_state` receives the reason why the port does not listen, None once it does."""
        self._name = name
        self._endpoint = endpoint
        self._hard_fail = hard_fail
        self._on_state = on_state
        self._retry_seconds = retry_seconds
        self._http = HttpServer(limits or Limits())
        self._service = Service(handler, self._http)

    @property
    def ports(self) -> list[int]:
        """The port that it listens on; empty while it does not listen."""
        return self._service.ports

    async def run(self) -> None:
        """Listens for ever; cancellation closes everything. Raises `ListenError` with `hard_fail`."""
        try:
            await self._open()
            await asyncio.Event().wait()
        finally:
            self._service.close()
            await self._http.stop()

    async def _open(self) -> None:
        said = None
        while True:
            try:
                await self._service.open([self._endpoint])
            except OSError as error:
                why = f"cannot listen on {self._endpoint}: {reason(error)}"
                if self._hard_fail:
                    raise ListenError(f"{self._name}: {why}") from error
                if why != said:
                    said = why
                    log.error(
                        "Cannot listen",
                        extra=kv(
                            server=self._name,
                            address=str(self._endpoint),
                            reason=reason(error),
                            retryEvery=f"{self._retry_seconds:g}s",
                        ),
                    )
                    self._on_state(why)
                await asyncio.sleep(self._retry_seconds)
            else:
                break
        log.info("Listening", extra=kv(server=self._name, address=str(self._endpoint)))
        self._on_state(None)
