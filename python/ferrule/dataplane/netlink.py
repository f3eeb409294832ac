"""Netlink sockets. The engine encodes requests and decodes responses."""

from __future__ import annotations

import os
import socket

from ferrule._engine import acknowledgements

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10

RECEIVE_BYTES = 1 << 17
ANSWER_SECONDS = 2.0
"""Seconds. The kernel responds immediately or not at all."""


def open_channel(protocol: int) -> socket.socket:
    """Opens a netlink socket of `protocol` in the calling thread's network namespace. Raises `OSError`.

    Responses to failed requests contain only the request's header, so that many fit into the socket's buffer.
    """
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        channel.settimeout(ANSWER_SECONDS)
        channel.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        channel.bind((0, 0))
    except BaseException:
        channel.close()
        raise
    return channel


def answer(protocol: int, request: bytes) -> bytes:
    """Sends one request. Returns the first datagram of the response. Raises `OSError`."""
    with open_channel(protocol) as channel:
        channel.send(request)
        return channel.recv(RECEIVE_BYTES)


def carry_out(protocol: int, request: bytes) -> None:
    """Sends one request that asks for an acknowledgement. Raises `OSError` with the kernel's errno if it failed, or
    `TimeoutError` without a response."""
    with open_channel(protocol) as channel:
        channel.send(request)
        answered: list[tuple[int, int]] = []
        while not answered:
            answered = acknowledgements(channel.recv(RECEIVE_BYTES))
    _, code = answered[0]
    if code:
        raise OSError(code, os.strerror(code))
