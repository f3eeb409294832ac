"""One listening port that comes up when it can: bind, else try again every five seconds and say why, once a reason."""

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
from ferrule.serve.http import Connections, Handler, HttpServer, Limits

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""kube-proxy's."""

BACKLOG = 128


class ListenError(FerruleError):
    """A port cannot be opened and the configuration says that this is fatal (bindAddressHardFail)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on."""

    host: str
    """An IP address."""
    port: int
    dual: bool = False
    """A wildcard (`0.0.0.0` or `::`) that means every address of both families, as in Go's configurations."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def parse(cls, text: str, default_port: int) -> Endpoint | None:
        """`127.0.0.1:10249`, `[::]:10256`, `:10256`, or a bare IP, which gets the default port. None: empty, which
        means no listener. Raises `ValueError` naming the text."""
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
    """A bound socket that does not listen yet; a dual one takes both families where the host has both. Raises
    `OSError`."""
    address = ipaddress.ip_address(endpoint.host)
    if endpoint.dual:
        try:
            return _bound(socket.AF_INET6, "::", endpoint.port, limits, dual=True)
        except OSError as error:
            # No IPv6 on this host at all. Any other trouble (the port is taken) is the same without it.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bound(socket.AF_INET, "0.0.0.0", endpoint.port, limits)  # noqa: S104 - asked for
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return _bound(family, endpoint.host, endpoint.port, limits)


def _bound(family: socket.AddressFamily, host: str, port: int, limits: Limits, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # A restart must not wait for connections of the one before.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        # Inherited by what is accepted: data that a peer does not take for so long ends the connection, even when we
        # have closed it and only the kernel still holds our answer.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.response_seconds * 1000))
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def reason(error: OSError) -> str:
    """The kernel's words without numbers and addresses, which are said elsewhere."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


class Service:
    """Servers for one handler on some addresses of one port: all of them, or none."""

    def __init__(self, handler: Handler, limits: Limits, connections: Connections) -> None:
        self._handler = handler
        self._limits = limits
        self._connections = connections
        self._listening: list[asyncio.Server] = []
        self._http: HttpServer | None = None

    async def open(self, endpoints: Sequence[Endpoint]) -> None:
        """Listen. Raises `OSError`; then nothing listens."""
        loop = asyncio.get_running_loop()
        self._http = HttpServer(self._handler, self._limits, self._connections)
        try:
            for endpoint in endpoints:
                sock = open_socket(endpoint, self._limits)
                try:
                    self._listening.append(await loop.create_server(self._http, sock=sock, backlog=BACKLOG))
                except BaseException:
                    sock.close()
                    raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more, and end what is open. At once: nobody has anything to wait for."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        if self._http is not None:
            self._http.cut()
            self._http = None

    @property
    def ports(self) -> list[int]:
        """The ports in use, for tests that asked for port 0."""
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
        """`name`: as the log calls it. `on_state` gets the reason why it does not listen, None once it does."""
        limits = limits or Limits()
        self._name = name
        self._endpoint = endpoint
        self._hard_fail = hard_fail
        self._on_state = on_state
        self._retry_seconds = retry_seconds
        self._service = Service(handler, limits, Connections(limits.connections))

    @property
    def ports(self) -> list[int]:
        """The port it listens on; empty while it does not."""
        return self._service.ports

    async def run(self) -> None:
        """For ever; cancelling it closes everything. Raises `ListenError` with `hard_fail`."""
        try:
            await self._open()
            await asyncio.Event().wait()
        finally:
            self._service.close()

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
