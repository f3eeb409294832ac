"""Netlink helpers for tests that create kernel state or responses. Linux UAPI only.

Independent of the engine's code, which it checks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from ferrule.dataplane.netlink import RECEIVE_BYTES, open_channel

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLA_F_NESTED = 0x8000

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields `(type, value)` of each struct nlattr; the two flag bits of the type are masked out."""
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Returns one struct nlattr, padded."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Returns a nested attribute."""
    return attribute(kind | NLA_F_NESTED, value)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Returns one request to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields `(type, sequence, body)` of each message in a datagram."""
    at = 0
    while at < len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
        yield kind, sequence, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def request(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Sends one message. Yields `(type, body)` of each response until the kernel is done. Raises `OSError`."""
    with open_channel(protocol) as channel:
        channel.send(message(kind, flags, 1, body))
        while True:
            for found, _, answer in messages(channel.recv(RECEIVE_BYTES)):
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", answer)
                    raise OSError(-code, os.strerror(-code))
                yield found, answer
            if not flags & NLM_F_DUMP:
                return
