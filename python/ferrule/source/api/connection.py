"""Connections to the API server: sockets, proxies, and no request that is sent twice.

Proxies are used when the kubeconfig names one, never because of environment variables set for another program.
"""

from __future__ import annotations

import socket

import aiohttp

CONNECTIONS = 16
"""At most: three watches, the lists that replace them, Events."""

KEEPALIVE_SECONDS = 60
"""An idle connection is used again within this time."""


def open_session() -> aiohttp.ClientSession:
    """Returns a session, to be closed by the caller."""
    connector = aiohttp.TCPConnector(
        socket_factory=_keepalive_socket, limit=CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS
    )
    return aiohttp.ClientSession(
        connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), middlewares=(_send_once,)
    )


class _Broke(aiohttp.ClientError):
    """A connection ended before a response."""


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Prevents repeated requests: aiohttp repeats a GET when its connection breaks before a response, which rate
    limiter, back-off and metrics would not count, at a server that is already in trouble. It does so only for its
    own error types."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # no request was sent; aiohttp does not repeat these
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broke(str(error)) from error


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Returns a socket with keep-alive: aiohttp's client sets none, and a vanished peer would be noticed only by the
    idle time-out, minutes later. 30 s of silence, then three probes 10 s apart."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # The same for unacknowledged data, in milliseconds.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    return sock
