"""Determines whether a file is open for writing, so that a half-written file is not read as a finished one.

The kernel grants a read lease only on a file that no process has open for writing, writable mappings included. Taking
and releasing one is therefore a check that does not depend on how long a writer pauses. inotify's close-after-write
event reaches only processes that watched when the writer began. Source: fcntl(2), F_SETLEASE.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal


def open_for_writing(descriptor: int) -> bool | None:
    """Returns whether any process has the file open for writing; None if the kernel cannot tell.

    `descriptor` must be open for reading only. The result is unknown on file systems without leases (NFS, FUSE) and for
    files of another user without CAP_LEASE.
    """
    try:
        # A writer that opens the file while the lease is held causes a signal. One that is ignored by default is chosen
        # instead of SIGIO, whose default ends the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def read_with_writers(path: str | os.PathLike[str]) -> tuple[os.stat_result, bytes, bool | None]:
    """Returns a regular file's status and content, and whether it was open for writing just after it was read.

    Raises `OSError`, also if it is not a regular file.
    """
    # Not blocking: a FIFO in a folder of manifests must not stop the reader.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor, not a path
        status = os.fstat(descriptor)
        content = file.read()
        writing = open_for_writing(descriptor)
        after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        writing = True
    return status, content, writing
