"""Ends the process within a second of SIGTERM or SIGINT, whatever it is doing.

A tool may run for minutes, a worker thread may be in a system call (the interpreter joins threads at its exit), and the
main thread may be blocked in a write to a full pipe. None of them is waited for: the process groups of all children are
killed, and `os._exit` ends the process. The kernel takes over a table or a transaction whole or not at all, and rules
are valid after every transaction of a plan, so a kill at any moment leaves a valid ruleset.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ORDERLY_SECONDS = 0.5
"""Seconds that tasks may take to end after a signal."""

ENFORCED_SECONDS = 0.8
"""Seconds after which the process ends even if its main thread is blocked. The documented limit is one second."""

_children: set[int] = set()


def started(pid: int) -> None:
    """Registers a child that leads its own process group."""
    _children.add(pid)


def reaped(pid: int) -> None:
    """Removes a child: its number may belong to another process from now on."""
    _children.discard(pid)


def leave(code: int) -> NoReturn:
    """Ends the process: kills its children, writes out what is buffered, joins no thread."""
    kill_children()
    for flush in (*(handler.flush for handler in logging.getLogger().handlers), sys.stdout.flush, sys.stderr.flush):
        # A closed reader does not affect the end, nor does a write that this call interrupted.
        with contextlib.suppress(Exception):
            flush()
    os._exit(code)


def kill_children() -> None:
    """Sends SIGKILL to every child and its process group, if it leads one."""
    for pid in {*_children, *_listed_children()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)


def _listed_children() -> Iterator[int]:
    """Yields children listed in /proc, if the kernel has the list: a library starts a credential plugin's process."""
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, listed.read_text().split())


class Shutdown:
    """A context manager that handles SIGTERM and SIGINT. For the main thread.

    A signal ends the process immediately, except inside `announced`: there the callback is called, and the process ends
    after `ENFORCED_SECONDS` at the latest.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        """The process's exit code after a signal. None for 128 and the signal's number, if the work is incomplete."""
        self._number = 0
        self._announce: Callable[[], object] | None = None

    def __enter__(self) -> Shutdown:
        # The thread exists before any signal: a handler may interrupt code that holds the locks of `threading`.
        reading, self._writing = os.pipe()
        threading.Thread(target=self._enforce, args=(reading,), name="shutdown", daemon=True).start()
        self._before = {number: signal.signal(number, self._signalled) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(self._writing)

    @property
    def code(self) -> int:
        """The exit code after the signal."""
        return 128 + self._number if self.exit_code is None else self.exit_code

    @property
    def signal_name(self) -> str:
        """For example `SIGTERM`; empty before a signal."""
        return signal.Signals(self._number).name if self._number else ""

    @contextlib.contextmanager
    def announced(self, announce: Callable[[], object]) -> Iterator[None]:
        """Makes a signal in the block call `announce`, from the main thread and between any two of its instructions."""
        self._announce = announce
        try:
            yield
        finally:
            self._announce = None

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if not self._number:
            self._number = number
            os.write(self._writing, b"\0")
        if self._announce is None:
            leave(self.code)
        self._announce()

    def _enforce(self, reading: int) -> None:
        signalled = os.read(reading, 1)
        os.close(reading)
        if signalled:
            time.sleep(ENFORCED_SECONDS)
            # Nothing is flushed, because the main thread may be blocked in a write.
            kill_children()
            os._exit(self.code)
