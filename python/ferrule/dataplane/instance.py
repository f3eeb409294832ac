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


class InstanceLock:
    """A context manager; entering raises `InputError` when another process holds it."""

    def __init__(self, name: bytes = NAME) -> None:
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> InstanceLock:
        try:
            self._socket.bind(self._name)
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise InputError(
                f"another ferrule{_holder(self._name)} already programs this network namespace; two would undo each "
                "other's rules, so this one ends"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def _holder(name: bytes) -> str:
    """` (process 123)`, or nothing where that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(name)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return ""
    return f" (process {pid})" if pid > 0 else ""
