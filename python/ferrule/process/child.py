"""One child process: its output, its end, and its resource usage.

asyncio's subprocesses reap a child without its resource usage. Here a pidfd reports its end and `wait4` reaps it, so
its processor time is exact. Its peak of memory is known only if it is above that of this process: between fork and exec
a child shares this process's memory, and the kernel includes that peak in the result of `wait4`
(`setmax_mm_hiwater_rss` in fs/exec.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ferrule.process import shutdown


def peak_margin(processors: int) -> int:
    """Returns by how many bytes this process's peak may have been above the value that `high_water` reads immediately
    afterwards: one batch of each of the kernel's four counters of resident pages (lib/percpu_counter.c). 4 MiB with 128
    processors."""
    return 4 * max(32, 2 * processors) * os.sysconf("SC_PAGE_SIZE")


PEAK_MARGIN = peak_margin(os.cpu_count() or 1)

REAP_POLL_SECONDS = 0.02
"""Seconds between polls for the end of a child, on a kernel without pidfd."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a child used."""

    seconds: float
    cpu_seconds: float
    """User and system time, including children that it waited for."""
    max_rss: int | None
    """Bytes. None if it was not above this process's peak: the kernel's figure may then be that one."""


class Child:
    """A started process. `stderr` must be read, or the process may block on it."""

    def __init__(self, process: subprocess.Popen[bytes], begun: float) -> None:
        self.pid = process.pid
        shutdown.started(self.pid)
        self.usage: Usage | None = None
        """Available after the end."""
        self._process = process
        self._begun = begun
        # Read after the exec, so that later growth of this process is not attributed to the child.
        self._own_peak = high_water() + PEAK_MARGIN
        self._pipe: asyncio.ReadTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._descriptor = _pidfd(self.pid)
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._reap)
        else:
            self._poll()

    @classmethod
    async def start(
        cls, program: str, arguments: Sequence[str], *, stdin: int, stdout: int, env: Mapping[str, str]
    ) -> Child:
        """Starts a process as the leader of a session and process group; `stdin` and `stdout` are open files. Raises
        `OSError` if it cannot be started."""
        begun = time.monotonic()
        # The fork is a vfork: no memory is copied, and this process continues once the program runs.
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
        """Stops reading."""
        if self._pipe is not None:
            self._pipe.close()

    async def wait(self) -> int:
        """Waits for the end. Returns the exit code, negative if a signal killed the process."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """Sends SIGKILL to the whole group. Reaped asynchronously."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _poll(self) -> None:
        self._reap()
        if not self._ended.done():
            self._loop.call_later(REAP_POLL_SECONDS, self._poll)

    def _reap(self) -> None:
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return
        shutdown.reaped(self.pid)
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        # Popen must not wait for it any more: the PID may belong to another process.
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        reported = used.ru_maxrss * 1024
        self.usage = Usage(
            seconds=time.monotonic() - self._begun,
            cpu_seconds=used.ru_utime + used.ru_stime,
            max_rss=reported if reported > self._own_peak else None,
        )
        self._ended.set_result(code)


def high_water() -> int:
    """Returns the most resident memory that this process ever had, in bytes.

    The kernel makes this figure the way in which it makes the one that a child inherits, approximations included; /proc
    may show less. It is at least the peak of what started this process, which only hides more of the tools' figures.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pidfd(pid: int) -> int | None:
    """Returns None where the kernel (before 5.3) or a seccomp filter has none; then its end is polled for."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
