"""Waits for expected conditions with one deadline. No test asserts that they hold sooner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ferrule.testing.waiting import PATIENCE

T = TypeVar("T")


def eventually(
    probe: Callable[[], T | None], complaint: Callable[[], str] | str, *, seconds: float = PATIENCE, every: float = 0.05
) -> T:
    """Returns the first truthy value of `probe`. Raises `AssertionError` with the complaint and the last assertion."""
    end = time.monotonic() + seconds
    last = ""
    while True:
        try:
            value = probe()
            if value:
                return value
        except AssertionError as error:
            last = f"\nlast seen: {error}"
        if time.monotonic() > end:
            raise AssertionError((complaint if isinstance(complaint, str) else complaint()) + last)
        time.sleep(every)


def steadily(probe: Callable[[], object], complaint: str, *, seconds: float, every: float = 0.1) -> None:
    """Checks that `probe` holds for the whole time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not probe():
            raise AssertionError(complaint)
        time.sleep(every)
