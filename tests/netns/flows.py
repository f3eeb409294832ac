"""The kernel's flow table for tests: entries put in and listed over netlink, by tuples that a reader can compare."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ferrule._engine import acknowledgements
from ferrule.dataplane.netlink import NETLINK_NETFILTER, open_channel
from ferrule.types import Family
from tests.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    attribute,
    attributes,
    message,
    nested,
    request,
)

CT_NEW = 0x100
CT_GET = 0x101
BATCH = 200
NUMBERS = {"udp": 17, "tcp": 6}
AF: dict[Family, int] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """One entry: who asked, whom, and where the answers come from."""

    source: tuple[str, int]
    destination: tuple[str, int]
    replies_from: tuple[str, int]
    protocol: str = "udp"
    zone: int = 0

    @property
    def family(self) -> Family:
        return "ipv6" if ":" in self.source[0] else "ipv4"


def _tuple(kind: int, source: tuple[str, int], destination: tuple[str, int], protocol: str) -> bytes:
    six = ":" in source[0]
    family = socket.AF_INET6 if six else socket.AF_INET
    ips = attribute(1 + 2 * six, socket.inet_pton(family, source[0]))
    ips += attribute(2 + 2 * six, socket.inet_pton(family, destination[0]))
    ports = attribute(1, bytes([NUMBERS[protocol]]))
    ports += attribute(2, struct.pack(">H", source[1])) + attribute(3, struct.pack(">H", destination[1]))
    return nested(kind, nested(1, ips) + nested(2, ports))


def _entry(flow: Flow) -> bytes:
    body = struct.pack("=BBH", AF[flow.family], 0, 0)
    body += _tuple(1, flow.source, flow.destination, flow.protocol)
    body += _tuple(2, flow.replies_from, flow.source, flow.protocol)
    body += attribute(7, struct.pack(">I", 3600))
    if flow.protocol == "tcp":
        body += nested(4, nested(1, attribute(1, bytes([3]))))  # established
    if flow.zone:
        body += attribute(18, struct.pack(">H", flow.zone))
    return body


def insert(flows: Iterable[Flow]) -> None:
    """Put entries into the calling thread's namespace, many a datagram. Raises `OSError` with the kernel's errno."""
    bodies = [_entry(flow) for flow in flows]
    with open_channel(NETLINK_NETFILTER) as channel:
        for start in range(0, len(bodies), BATCH):
            batch = bodies[start : start + BATCH]
            flags = [NLM_F_CREATE | NLM_F_EXCL] * (len(batch) - 1) + [NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK]
            channel.send(
                b"".join(message(CT_NEW, f, i + 1, b) for i, (f, b) in enumerate(zip(flags, batch, strict=True)))
            )
            last = 0
            while last != len(batch):
                for last, code in acknowledgements(channel.recv(1 << 16)):
                    if code:
                        raise OSError(code, f"entry {last} of a batch was refused")


def table(family: Family = "ipv4") -> set[Flow]:
    """Every TCP and UDP entry of the calling thread's namespace."""
    found = set()
    names = {number: name for name, number in NUMBERS.items()}
    for _, answer in request(NETLINK_NETFILTER, CT_GET, NLM_F_DUMP, struct.pack("=BBH", AF[family], 0, 0)):
        values = dict(attributes(answer[4:]))
        (source, destination, number), (replies_from, _, _) = _read(values[1]), _read(values[2])
        if number in names:
            (zone,) = struct.unpack(">H", values.get(18, b"\0\0"))
            found.add(Flow(source, destination, replies_from, names[number], zone))
    return found


def _read(raw: bytes) -> tuple[tuple[str, int], tuple[str, int], int]:
    parts = dict(attributes(raw))
    ips, proto = dict(attributes(parts[1])), dict(attributes(parts[2]))
    six = 3 in ips
    family = socket.AF_INET6 if six else socket.AF_INET
    host = [socket.inet_ntop(family, ips[k + 2 * six]) for k in (1, 2)]
    port = [struct.unpack(">H", proto.get(k, b"\0\0"))[0] for k in (2, 3)]
    return (host[0], port[0]), (host[1], port[1]), proto[1][0]
