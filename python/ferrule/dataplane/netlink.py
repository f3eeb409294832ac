"""The little of netlink that more than one module needs: a request, its answers, attributes. Linux UAPI only."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLA_F_NESTED = 0x8000
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""

_ERRNO = struct.Struct("=i")

RECEIVE_BYTES = 1 << 17
ANSWER_SECONDS = 2.0
"""The kernel answers at once or not at all."""


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """`(type, value)` of each struct nlattr; the two flag bits of the type are masked out."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One struct nlattr, padded."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def nested(kind: int, value: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, value)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One request to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def open_channel(protocol: int) -> socket.socket:
    """A socket to the kernel's half of `protocol`, in the calling thread's network namespace. Raises `OSError`.

    Answers to failed requests carry the request's header only, so that many fit into its buffer.
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


def acknowledgements(data: bytes) -> Iterator[tuple[int, int]]:
    """`(sequence, errno)` of each answer to a request in a datagram; errno 0: it worked."""
    for kind, sequence, body in messages(data):
        if kind == NLMSG_ERROR and len(body) >= _ERRNO.size:
            (code,) = _ERRNO.unpack_from(body)
            yield sequence, -code


def request(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one message; yield `(type, body)` of each answer until the kernel is done.

    Raises `OSError` with the kernel's errno, or `TimeoutError` when it stays silent.
    """
    with open_channel(protocol) as channel:
        channel.send(message(kind, flags, 1, body))
        while True:
            for found, _, answer in messages(channel.recv(RECEIVE_BYTES)):
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    (code,) = _ERRNO.unpack_from(answer)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield found, answer
            if not flags & (NLM_F_DUMP | NLM_F_ACK):
                return


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """`(type, sequence, body)` of each message in a datagram."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield kind, sequence, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3
