"""In-memory files, for programs and libraries that read only files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def memory_file(name: str, data: bytes = b"") -> Iterator[int]:
    """Yields a descriptor at the file's beginning and closes it afterwards. `name` appears in /proc only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        append(descriptor, data)
        rewind(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def append(descriptor: int, data: bytes) -> None:
    """Writes all bytes at the file's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def rewind(descriptor: int) -> None:
    """Moves to the beginning. A child that has the file shares its position."""
    os.lseek(descriptor, 0, os.SEEK_SET)


def reading(descriptor: int) -> IO[bytes]:
    """Opens the file for reading from the beginning. Closing it leaves the descriptor open."""
    rewind(descriptor)
    return open(descriptor, "rb", closefd=False)
