"""Reads the kernel's nf_tables rules over netlink, in a worker thread. What to ask and what it means, the engine knows.

A dump asks for one chain at a time, thousands of times: each is a send and two receives, some ten microseconds.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import TYPE_CHECKING

from ferrule._engine import RulesChanged
from ferrule.dataplane.netlink import open_channel

if TYPE_CHECKING:
    from ferrule._engine import RuleReader

NETLINK_NETFILTER = 12

ATTEMPTS = 5
"""How often a read is begun again because somebody else changes rules all the time."""

RECEIVE_BYTES = 1 << 15
"""The kernel makes no larger datagrams for a dump, and as large ones as there is room for: of small ones it makes many,
and for each it counts chains from the first again."""

ANSWER_SECONDS = 20.0
"""The kernel answers at once, unless the machine is overloaded; the tool would take even longer there."""

_TRY_AGAIN = {errno.EBUSY, errno.ENOBUFS}


def read_in_thread(reader: RuleReader, stop: threading.Event) -> None:
    """Read the rules of the calling thread's network namespace, until the end or until `stop`.

    Raises `OSError`, `NotUnderstood`, or `RulesChanged` after `ATTEMPTS`.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            _converse(reader, stop)
        except RulesChanged:
            if not left:
                raise
        except OSError as error:
            if not left or error.errno not in _TRY_AGAIN:
                raise
        else:
            return


def _converse(reader: RuleReader, stop: threading.Event) -> None:
    # A channel for each attempt: what is left of an answer that was broken off must not be read as the next one.
    with open_channel(NETLINK_NETFILTER) as channel:
        channel.settimeout(ANSWER_SECONDS)
        request: bytes | None = reader.begin()
        while request != b"" and not stop.is_set():
            if request is not None:
                channel.send(request)
            request = reader.feed(channel.recv(RECEIVE_BYTES))


async def read(reader: RuleReader) -> None:
    """`read_in_thread` in a worker thread, which ends soon after a cancellation."""
    stop = threading.Event()
    try:
        await asyncio.to_thread(read_in_thread, reader, stop)
    finally:
        stop.set()
