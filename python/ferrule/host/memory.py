"""What glibc keeps of freed memory, given back to the host: it has its reasons, but not a daemon's whose large buffers
live for seconds, once at a start and once a storm."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

LARGE = 1 << 20
"""Bytes. A plan's text and a transaction are larger, nothing that is made often is."""

_M_MMAP_THRESHOLD = -3
"""malloc.h"""


def _find(name: str) -> Callable[..., Any] | None:
    try:
        function: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None  # musl, which gives memory back by itself
    return function


_TRIM, _MALLOPT = _find("malloc_trim"), _find("mallopt")


def keep_large_apart() -> bool:
    """From now on what is freed of `LARGE` and more goes back at once. By itself glibc raises that line to the largest
    buffer freed so far (up to 32 MiB) and carves the next ones out of its heap, which then stays: 20 MiB of 145 at
    30,000 Services. True if it listened."""
    return _MALLOPT is not None and _MALLOPT(_M_MMAP_THRESHOLD, LARGE) == 1


def give_back() -> bool:
    """What threads freed in arenas of theirs. Takes some milliseconds without the GIL: call it from a thread. True if
    anything went back."""
    return _TRIM is not None and _TRIM(0) == 1
