"""Ensures that one ferrule runs per network namespace: two would undo each other's rules.

The lock is a listening socket in the abstract namespace, which has the same scope as the rules (one network namespace),
needs no file, and disappears with its process.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType

from ferrule.errors import InputError

NAME = b"\0ferrule/rules"

BACKLOG = 128
"""How many callers of `running` learn the process number: their connections are never accepted."""


class InstanceLock:
    """A context manager; entering raises `InputError` when another process holds it."""

    def __init__(self, name: bytes = NAME) -> None:
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> InstanceLock:
        try:
            self._socket.bind(self._name)
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            holder = running(self._name) or "ferrule"
            raise InputError(
                f"another {holder} already programs this network namespace; two would undo each other's rules, so this "
                "one ends"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def running(name: bytes = NAME) -> str | None:
    """Returns `ferrule (process 123)` if a process holds the lock, without the number if it is unknown; otherwise None.
    Does not take the lock, so a daemon that starts at the same time is not blocked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except BlockingIOError:
            return "ferrule"  # the queue is full of earlier callers
        except OSError:
            return None
    return f"ferrule (process {pid})" if pid > 0 else "ferrule"
