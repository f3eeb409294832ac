"""Reads and writes nf_tables rules over netlink, in a worker thread. The engine encodes requests and interprets
responses.

A dump requests one chain at a time, thousands of times: each is a send and two receives, about ten microseconds. A
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

from ferrule._engine import NotEncodable, RulesChanged, acknowledgements
from ferrule.dataplane.netlink import NETLINK_NETFILTER, open_channel
from ferrule.errors import DataplaneError, FailureKind

if TYPE_CHECKING:
    from ferrule._engine import RuleReader, Transaction, Transactions

T = TypeVar("T")

ATTEMPTS = 5
"""How often a read is restarted because another process changes rules at the same time."""

RECEIVE_BYTES = 1 << 15
"""The kernel's maximum datagram size for a dump. It fills the available buffer: a smaller one yields more datagrams,
and for each the kernel counts chains from the first again."""

ANSWER_SECONDS = 20.0
"""The kernel responds immediately, unless the machine is overloaded; the tool would take even longer then."""

WRITE_SECONDS = 300.0
"""Ten times what 30,000 Services take: after that the kernel or the machine hangs."""

SO_SNDBUFFORCE = 32
"""Not defined in Python's `socket`. Without it a datagram is limited to some hundred kB."""

REFUSALS = 3
"""The number of consecutive refusals over netlink after which the tool is used until the next start."""

COMMAND = ("nf_tables over netlink",)
"""What errors report instead of a command line."""

_TRY_AGAIN = {errno.EBUSY, errno.ENOBUFS}


def read_in_thread(reader: RuleReader, stop: threading.Event) -> None:
    """Reads the rules of the calling thread's network namespace, until the end or until `stop`.

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
    # A new socket for each attempt: the rest of an aborted response must not be read as the next one.
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
class NetlinkFallback:
    """Decides whether the next write uses netlink or falls back to the tool.

    After a refusal the next write uses the tool: the kernel may accept another encoding of the rules, and if it does
    not, the tool reports why. After `REFUSALS` consecutive refusals the tool is used until the next start.
    """

    refusals: int = 0
    """Number of consecutive refusals."""
    after_refusal: bool = False
    """Whether the latest write was refused and the tool has not succeeded since."""

    @property
    def enabled(self) -> bool:
        """Whether the next write uses netlink."""
        return not self.after_refusal and self.refusals < REFUSALS

    def confirm(self, *, netlink: bool) -> None:
        """Records a successful write."""
        if netlink:
            self.refusals = 0
        self.after_refusal = False

    def refuse(self) -> None:
        """Records a refused write over netlink."""
        self.refusals += 1
        self.after_refusal = True


def write_in_thread(transactions: Iterable[Transaction], stop: threading.Event) -> None:
    """Applies transactions to the calling thread's network namespace in order, until the end or until `stop`. Raises
    `DataplaneError`: transactions before the refused one stay applied."""
    try:
        with open_channel(NETLINK_NETFILTER) as channel:
            channel.settimeout(WRITE_SECONDS)
            for transaction in transactions:
                if stop.is_set():
                    return
                _transact(channel, transaction)
    except NotEncodable as error:
        raise DataplaneError(FailureKind.ENCODING, COMMAND, stderr=str(error)) from None
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
        # The kernel reports every request that it refuses; the first one is reported.
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
    # More refusals than the socket buffer holds. The first ones are in it.
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
