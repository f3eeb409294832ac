"""Ensures that one ferrule runs per network namespace: two would undo each other's rules.

Two locks are taken. The first is a listening socket in the abstract namespace, which has the same scope as the rules
(one network namespace), needs no file, and names its holder. Any process may bind it, so a holder that is not a ferrule
is logged and ignored. The second is a byte of a file that only root may open: it excludes another ferrule in that case.
The byte's offset is the inode of the network namespace, and its lock is independent of the one that iptables takes on
the same file (flock).

Both disappear with their process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ferrule.errors import InputError
from ferrule.observe.logs import kv

NAME = b"\0ferrule/rules"

BACKLOG = 128
"""How many callers of `running` learn the process number: their connections are never accepted."""

NAMES = frozenset({"ferrule", "kube-proxy"})
"""The names under which ferrule is installed; images have the second one, too."""

LOCK_FILES = (Path("/run/xtables.lock"), Path("/run/ferrule.lock"))
"""The first that can be used is. The former is mounted into every container that runs iptables."""

FLOCK = "hhqqi0q"
"""`struct flock`: l_type, l_whence, l_start, l_len, l_pid."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on the socket."""

    pid: int
    """0 if it is in a PID namespace that is not visible from here, or unknown."""
    uid: int
    """-1 if unknown."""
    argv: tuple[str, ...]
    """The command line, empty if it cannot be read."""

    @property
    def is_ferrule(self) -> bool:
        """Whether it may be a ferrule: a process of root or of our own user that does not run another program."""
        named = {Path(argument).name for argument in self.argv[:3]}  # python -m ferrule, python …/bin/ferrule
        return self.uid in (0, os.geteuid()) and (not self.argv or not NAMES.isdisjoint(named))

    def __str__(self) -> str:
        return f"ferrule (process {self.pid})" if self.pid > 0 else "ferrule"


class InstanceLock:
    """A context manager. Entering raises `InputError` when another ferrule holds it."""

    def __init__(self, name: bytes = NAME, files: tuple[Path, ...] = LOCK_FILES) -> None:
        self._name = name
        self._files = files
        self._held = contextlib.ExitStack()

    def __enter__(self) -> InstanceLock:
        with contextlib.ExitStack() as stack:
            self._take_socket(stack)
            self._take_file(stack)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _take_socket(self, stack: contextlib.ExitStack) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        stack.enter_context(listener)
        try:
            listener.bind(self._name)
            listener.listen(BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found = holder(self._name)
            if found is not None and found.is_ferrule:
                raise taken(str(found)) from error
            if found is not None:
                log.warning(
                    "Instance lock held by a process that is not ferrule, using the lock file alone",
                    extra=kv(pid=found.pid, uid=found.uid, command=" ".join(found.argv), socket="@ferrule/rules"),
                )

    def _take_file(self, stack: contextlib.ExitStack) -> None:
        handle = stack.enter_context(lock_file(self._files, create=True))
        if handle is None:
            return
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, our_byte())
        except BlockingIOError as error:
            raise taken("ferrule") from error
        except OSError as error:
            files = [str(path) for path in self._files]
            log.warning("Lock file not used", extra=kv(files=files, reason=error.strerror))


def taken(by: str) -> InputError:
    """Returns the error for a namespace that another ferrule programs."""
    return InputError(
        f"another {by} already programs this network namespace; two would undo each other's rules, so this one ends"
    )


def holder(name: bytes = NAME) -> Holder | None:
    """Returns the process that listens on the socket, None if there is none. Does not take the lock, so a daemon that
    starts at the same time is not blocked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
            pid, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except BlockingIOError:
            return Holder(0, -1, ())  # the queue is full of earlier callers
        except OSError:
            return None
    argv: list[str] = []
    with contextlib.suppress(OSError):
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return Holder(pid, uid, tuple(argv))


def running(name: bytes = NAME, files: tuple[Path, ...] = LOCK_FILES) -> str | None:
    """Returns `ferrule (process 123)` if a ferrule holds the lock, otherwise None. The number may be missing."""
    found = holder(name)
    if found is not None and found.is_ferrule:
        return str(found)
    with lock_file(files, create=False) as handle, contextlib.suppress(OSError):
        if handle is not None:
            kind, *_ = struct.unpack(FLOCK, fcntl.fcntl(handle, fcntl.F_OFD_GETLK, our_byte()))
            return None if kind == fcntl.F_UNLCK else "ferrule"
    return None


@contextlib.contextmanager
def lock_file(files: tuple[Path, ...], *, create: bool) -> Iterator[int | None]:
    """Yields a descriptor of the first file that can be used, None if there is none. Closing it releases the lock."""
    opened = (open_private(path, create=create) for path in files)
    handle = next((handle for handle in opened if handle is not None), None)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def our_byte() -> bytes:
    """Returns a request for the byte of the calling thread's network namespace, whose inode is its offset."""
    inode = Path("/proc/thread-self/ns/net").stat().st_ino
    return struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, inode, 1, 0)


def open_private(path: Path, *, create: bool) -> int | None:
    """Returns a descriptor of a file that only root or our own user may open, None where there cannot be one."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        handle = os.open(path, flags, 0o600)
    except OSError:
        return None
    status = os.fstat(handle)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
        os.close(handle)
        return None
    return handle
