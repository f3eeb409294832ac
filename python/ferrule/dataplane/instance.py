"""One ferrule a network namespace: two would undo each other's rules.

The lock is a listening socket in the abstract namespace, which is exactly as wide as the rules (one per network
namespace), needs no file, and is gone with its process however that ends.
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
    """Returns `ferrule (process 123)` where a process holds the lock, without the number where it cannot be told; None
    where none does. Takes nothing: a daemon that starts meanwhile is not kept from it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except BlockingIOError:
            return "ferrule"  # the queue is full of earlier callers
        except OSError:
            return None
    return f"ferrule (process {pid})" if pid > 0 else "ferrule"
