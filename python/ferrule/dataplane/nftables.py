"""The kernel's nf_tables rules over netlink, in a worker thread. What is asked or ordered and what it means, the engine
knows.

A dump asks for one chain at a time, thousands of times: each is a send and two receives, some ten microseconds. A
transaction is one send, during which the kernel does all of its work, and one receive.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ferrule._engine import NotUnderstood, RulesChanged, acknowledgements
from ferrule.dataplane.netlink import NETLINK_NETFILTER, open_channel
from ferrule.errors import DataplaneError, FailureKind

if TYPE_CHECKING:
    from ferrule._engine import RuleReader, Transaction, Transactions

T = TypeVar("T")

ATTEMPTS = 5
"""How often a read is begun again because somebody else changes rules all the time."""

RECEIVE_BYTES = 1 << 15
"""The kernel makes no larger datagrams for a dump, and as large ones as there is room for: of small ones it makes many,
and for each it counts chains from the first again."""

ANSWER_SECONDS = 20.0
"""The kernel answers at once, unless the machine is overloaded; the tool would take even longer there."""

WRITE_SECONDS = 300.0
"""Ten times what 30,000 Services take in all: the kernel hangs, or the machine stands still."""

SO_SNDBUFFORCE = 32
"""Not in Python's `socket`. Without it a datagram may have some hundred kB."""

REFUSALS = 3
"""So many refusals in a row over netlink, and the tool has the work for good."""

COMMAND = ("nf_tables over netlink",)
"""What errors name instead of a command line."""

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
    await _until_cancelled(read_in_thread, reader)


@dataclass(slots=True)
class Trust:
    """Whether rules are written over netlink.

    What the kernel refused there the tool tries next: a rule that this kernel wants in another form may pass, and a
    refusal that remains has the tool's own words. Where that happens time and again, the tool stays.
    """

    refusals: int = 0
    """In a row."""
    doubted: bool = False
    """The latest write was refused, and the tool has not worked since."""

    @property
    def given(self) -> bool:
        """The next write goes over netlink."""
        return not self.doubted and self.refusals < REFUSALS

    def confirm(self, *, netlink: bool) -> None:
        """A write worked."""
        if netlink:
            self.refusals = 0
        self.doubted = False

    def refuse(self) -> None:
        """A write over netlink did not."""
        self.refusals += 1
        self.doubted = True


def write_in_thread(transactions: Iterable[Transaction], stop: threading.Event) -> None:
    """Change the rules of the calling thread's network namespace, one transaction after the other, until the end or
    until `stop`. Raises `DataplaneError`: what came before the refused transaction stands."""
    try:
        with open_channel(NETLINK_NETFILTER) as channel:
            channel.settimeout(WRITE_SECONDS)
            for transaction in transactions:
                if stop.is_set():
                    return
                _transact(channel, transaction)
    except NotUnderstood as error:
        raise DataplaneError(FailureKind.SYNTAX, COMMAND, stderr=str(error)) from None
    except TimeoutError:
        raise DataplaneError(FailureKind.HUNG, COMMAND, stderr=f"no answer in {WRITE_SECONDS:.0f} s") from None
    except OSError as error:
        raise DataplaneError(_kind(error.errno), COMMAND, stderr=str(error)) from None


def _transact(channel: socket.socket, transaction: Transaction) -> None:
    payload = transaction.payload()
    try:
        channel.send(payload)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        channel.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(payload))
        channel.send(payload)
    while True:
        # The kernel tells of every request that it refuses; the first is the one to know.
        for sequence, code in acknowledgements(_receive(channel)):
            if code:
                told = transaction.describe(sequence)
                raise DataplaneError(
                    _kind(code), COMMAND, stderr=os.strerror(code), offending=[f"> {told}"] if told else []
                )
            if sequence == transaction.last:
                return


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(RECEIVE_BYTES)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
    # More refusals than the socket holds. Those that came first are there.
    return channel.recv(RECEIVE_BYTES)


def _kind(code: int | None) -> FailureKind:
    return FailureKind.PERMISSION if code in (errno.EPERM, errno.EACCES) else FailureKind.KERNEL


async def write(transactions: Transactions) -> None:
    """`write_in_thread` in a worker thread, which ends after the running transaction when cancelled."""
    await _until_cancelled(write_in_thread, transactions)


async def _until_cancelled(work: Callable[[T, threading.Event], None], subject: T) -> None:
    stop = threading.Event()
    try:
        await asyncio.to_thread(work, subject, stop)
    finally:
        stop.set()
