"""Bytes as a file that never touches a disk: for programs and libraries that read nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def memory_file(name: str, data: bytes) -> Iterator[int]:
    """A descriptor at the file's beginning; closed at the end of the `with`. `name` shows up in /proc only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
