"""Bytes as a file that never touches a disk: for programs and libraries that read nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def memory_file(name: str, data: bytes = b"") -> Iterator[int]:
    """A descriptor at the file's beginning; closed at the end of the `with`. `name` shows up in /proc only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        append(descriptor, data)
        rewind(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def append(descriptor: int, data: bytes) -> None:
    """Write all of it at the file's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def rewind(descriptor: int) -> None:
    """Back to the beginning. A child that has the file shares its position."""
    os.lseek(descriptor, 0, os.SEEK_SET)


def reading(descriptor: int) -> IO[bytes]:
    """Its lines from the beginning. Closing this leaves the descriptor open."""
    rewind(descriptor)
    return open(descriptor, "rb", closefd=False)
