"""Freed memory back to the host. glibc keeps what threads freed in arenas of theirs; after a storm of changes that is
megabytes that nobody will need before the next storm."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None  # musl gives memory back by itself
    return trim


_TRIM = _find()


def give_back() -> bool:
    """Takes some milliseconds without the GIL: call it from a thread. True if anything went back."""
    return _TRIM is not None and _TRIM(0) == 1
