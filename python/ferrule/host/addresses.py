"""The host's own addresses and notifications of their changes, over rtnetlink."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

from ferrule._engine import AddressDump
from ferrule.dataplane.netlink import NETLINK_ROUTE, RECEIVE_BYTES, open_channel

RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100


def local_addresses() -> list[str]:
    """Returns every address of every interface in the calling thread's network namespace, both families, sorted.

    IPv6 link-local addresses are included, without a zone. Raises `OSError`.
    """
    dump = AddressDump()
    with open_channel(NETLINK_ROUTE) as channel:
        channel.send(dump.request())
        while not dump.feed(channel.recv(RECEIVE_BYTES)):
            pass
    return dump.addresses()


async def address_changes() -> AsyncIterator[None]:
    """Yields once when subscribed, then whenever the kernel announces an added or removed address.

    Addresses read after the first item cannot be out of date without a further item. A burst may come as one item.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as channel:
        channel.setblocking(False)
        channel.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        yield
        while True:
            try:
                await loop.sock_recv(channel, 1 << 16)
            except OSError:
                # ENOBUFS: notifications were lost. The listener only needs to know that something changed.
                await asyncio.sleep(0.1)
            yield


async def follow_addresses(known: list[str], on_change: Callable[[list[str]], None]) -> None:
    """Calls `on_change` with the host's addresses each time they differ from `known` or the last call. Never returns.

    `known` may be older than the subscription: a change in between is reported immediately. Raises `OSError`.
    """
    async for _ in address_changes():
        found = await asyncio.to_thread(local_addresses)
        if found != known:
            known = found
            on_change(found)
