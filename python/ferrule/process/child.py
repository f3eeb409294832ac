"""One child process: its output, its end, and what it used.

The loops' own subprocesses reap a child without asking what it used. Here a pidfd tells of its end and `wait4` reaps
it: its processor time is exact. Its peak of memory is not simply there: what `wait4` gives is at least our own peak,
because between fork and exec a child has our memory (the kernel carries that over). So the child's own high-water mark
is looked at while it runs, and `wait4`'s figure is taken where it is above ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

LOOK_FIRST, LOOK_LAST = 0.002, 0.05
"""Seconds between two looks at the child's memory: twice as long each time, up to the second one. A tool's peak is
before its last act, so what grows after the last look is little."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a child took from its start to its end."""

    seconds: float
    cpu_seconds: float
    """User and system; of children that it waited for, too."""
    max_rss: int
    """Bytes. Exact above our own peak; below, the highest that was seen, a twentieth of a second before its end at the
    latest. 0: it was gone before it could be looked at."""


class Child:
    """A started process. `stderr` must be read, or it may block on it."""

    def __init__(self, process: subprocess.Popen[bytes], begun: float) -> None:
        self.pid = process.pid
        self.usage: Usage | None = None
        """Once it has ended."""
        self._process = process
        self._begun = begun
        self._own_peak = high_water()
        self._peak = 0
        self._pipe: asyncio.ReadTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._descriptor = _pidfd(self.pid)
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._reap)
        self._pause = LOOK_FIRST
        self._look()

    @classmethod
    async def start(
        cls, program: str, arguments: Sequence[str], *, stdin: int, stdout: int, env: Mapping[str, str]
    ) -> Child:
        """Start it as the leader of a session and process group; `stdin` and `stdout` are open files. Raises `OSError`
        where it cannot be started."""
        begun = time.monotonic()
        # The fork is a vfork: nothing of our memory is copied, and we go on once the program runs.
        process = subprocess.Popen(  # noqa: ASYNC220 - a thread would cost more than the millisecond it takes
            (program, *arguments),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        child = cls(process, begun)
        try:
            child.stderr = await child._stream(process.stderr)
        except BaseException:
            child.kill()
            child.close()
            raise
        return child

    stderr: asyncio.StreamReader

    async def _stream(self, pipe: IO[bytes] | None) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._pipe = transport
        return reader

    def close(self) -> None:
        """Nothing more is read."""
        if self._pipe is not None:
            self._pipe.close()

    async def wait(self) -> int:
        """Its exit code; negative: killed by that signal."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """SIGKILL to its whole group. It is reaped by and by."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _look(self) -> None:
        if self._ended.done():
            return
        self._peak = max(self._peak, high_water(self.pid))
        if self._descriptor is None:
            self._reap()
        self._loop.call_later(self._pause, self._look)
        self._pause = min(2 * self._pause, LOOK_LAST)

    def _reap(self) -> None:
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        # Popen must not look for it any more: the number may be another process's by now.
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        reported = used.ru_maxrss * 1024
        self.usage = Usage(
            seconds=time.monotonic() - self._begun,
            cpu_seconds=used.ru_utime + used.ru_stime,
            max_rss=reported if reported > self._own_peak else self._peak,
        )
        self._ended.set_result(code)


def high_water(pid: int | str = "self") -> int:
    """The most resident memory that a process's present program had, in bytes; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - some ten microseconds, on the event loop
            text = status.read()
    except OSError:
        return 0
    at = text.find(b"VmHWM:")
    return int(text[at + 6 :].split(maxsplit=1)[0]) * 1024 if at >= 0 else 0


def _pidfd(pid: int) -> int | None:
    """None where the kernel (before 5.3) or a seccomp filter has none; then the looks ask for its end, too."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
