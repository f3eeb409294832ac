"""Helpers that wait for expected conditions, and show that something does not happen. No test sleeps and then asserts.

- Expected conditions are polled by `eventually` (or `until`, on an event loop) with one generous deadline. Success
  returns immediately, so a busy machine needs no other value.
- The absence of an effect is shown by a cause: do something observable after it, wait for that, and check that nothing
  else happened. If nothing can follow, `in_virtual_time` runs a coroutine with a clock that advances only while
  everything waits: an hour takes no time there, and cannot be too short. `Limits` makes a time limit of the product
  expire at a cause.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pytest

PATIENCE = 60.0
"""Seconds after which an expected condition counts as failed. No test asserts that it holds sooner."""

PAUSE = 0.005
"""Seconds between two polls of conditions without events."""

T = TypeVar("T")
Complaint = str | Callable[[], str]


def eventually(probe: Callable[[], T | None], complaint: Complaint = "did not happen") -> T:
    """Returns what `probe` returns once that is truthy."""
    end = time.monotonic() + PATIENCE
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:  # time: the one deadline, at which a test fails
            raise AssertionError(_words(complaint))
        time.sleep(PAUSE)  # time: between two looks


async def until(probe: Callable[[], T | Awaitable[T | None] | None], complaint: Complaint = "did not happen") -> T:
    """Like `eventually`, on the event loop and with its clock; `probe` may be a coroutine function."""
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while True:
        found = probe()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if clock() > end:  # time: the one deadline, at which a test fails
            raise AssertionError(_words(complaint))
        await asyncio.sleep(PAUSE)  # time: between two looks


def ended(child: subprocess.Popen[Any], complaint: Complaint = "the process goes on") -> int:
    """Waits for the end of a process; returns its exit code."""
    try:
        return child.wait(PATIENCE)  # time: the one deadline, at which a test fails
    except subprocess.TimeoutExpired:
        raise AssertionError(_words(complaint)) from None


def happened(event: threading.Event, complaint: Complaint = "did not happen") -> None:
    """Waits for another thread's event."""
    if not event.wait(PATIENCE):  # time: the one deadline, at which a test fails
        raise AssertionError(_words(complaint))


async def soon(awaitable: Awaitable[T], complaint: Complaint = "did not happen") -> T:
    """Awaits an expected result."""
    try:
        return await asyncio.wait_for(awaitable, PATIENCE)  # time: the one deadline, at which a test fails
    except TimeoutError:
        raise AssertionError(_words(complaint)) from None


def _words(complaint: Complaint) -> str:
    return complaint if isinstance(complaint, str) else complaint()


def in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end on a `VirtualLoop`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def let_pass(seconds: float) -> None:
    """Advances virtual time; everything that is due within it happens."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop), "in real time this is a guess"
    await asyncio.sleep(seconds)  # time: virtual


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock that starts at 0: when all tasks wait, the clock advances to the next timer.

    Threads of `run_in_executor` and local sockets count as running; other processes and the network do not.
    """

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """The virtual time."""
        return self._skipping.now

    def busy(self, seconds: float) -> None:
        """Advances the clock, as if the running code took this time."""
        self._skipping.now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Like the base class; the clock stands still until the thread is done."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._skipping.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._skipping.threads -= 1


class _Skipping(selectors.DefaultSelector):
    """Moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None or self.threads:
            return super().select()
        self.now += timeout
        return []


class Limits:
    """Replaces `asyncio.timeout` for calls with exactly `seconds`: it expires when `expire` is called."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: float) -> None:
        self._seconds = seconds
        self._real = asyncio.timeout
        self.running: list[asyncio.Timeout] = []
        patch.setattr(asyncio, "timeout", self._timeout)

    def _timeout(self, seconds: float | None) -> AbstractAsyncContextManager[asyncio.Timeout]:
        return self._until_told() if seconds == self._seconds else self._real(seconds)

    @asynccontextmanager
    async def _until_told(self) -> AsyncIterator[asyncio.Timeout]:
        async with self._real(None) as limit:
            self.running.append(limit)
            try:
                yield limit
            finally:
                self.running.remove(limit)

    async def expire(self) -> None:
        """Expires all running time limits; waits for one."""
        await until(lambda: self.running, f"nothing is limited to {self._seconds:g} s")
        for limit in self.running:
            limit.reschedule(asyncio.get_running_loop().time())
