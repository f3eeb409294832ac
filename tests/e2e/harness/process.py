"""Runs a program in a namespace, with its output in a file, and always ends it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ferrule.testing.netns import NetNs
from tests.e2e.harness.waiting import eventually

STOP_SECONDS = 30.0
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Kills programs even if the tests are killed."""

_running: set[Process] = set()


class Process:
    """A process, started immediately. stdout and stderr are appended to `log`, over restarts of the same name."""

    def __init__(
        self, netns: NetNs, argv: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.argv = tuple(argv)
        with log.open("ab") as out:
            self._mark = out.tell()
            self.child = netns.popen(
                (*WITH_US, *argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(environment or {}),
                # Ctrl-C is handled by the tests, which then end their programs in order.
                start_new_session=True,
            )
        _running.add(self)

    @property
    def pid(self) -> int:
        """The program's PID: `ip netns exec` executes it."""
        return self.child.pid

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self.child.poll() is None

    def text(self) -> str:
        """Returns the output of this run so far."""
        with self.log.open("rb") as said:
            said.seek(self._mark)
            return said.read().decode(errors="replace")

    def lines(self, *words: str) -> list[str]:
        """Returns the lines that contain all words."""
        return [line for line in self.text().splitlines() if all(word in line for word in words)]

    def wait_for(self, *words: str) -> str:
        """Waits for the first line that contains all words; fails as soon as the program ends without it."""

        def found() -> str | None:
            over = not self.alive
            lines = self.lines(*words)
            if lines:
                return lines[0]
            if over:
                raise RuntimeError(f"{self.argv[:2]} ended ({self.child.returncode}) without {words}:\n{self.tail()}")
            return None

        return eventually(found, lambda: f"no {words} in:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        """Returns the last lines, for messages."""
        return "\n".join(self.text().splitlines()[-lines:])

    def cpu_seconds(self) -> float:
        """Returns user and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Returns the resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits for the end. Returns the exit code."""
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[:2]} still runs after {seconds} s:\n{self.tail()}") from None
        _running.discard(self)
        return code

    def stop(self, number: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int:
        """Sends a signal and waits. Returns the exit code (negative if a signal killed it)."""
        if self.alive:
            self.child.send_signal(number)
        return self.wait(seconds)

    def kill(self) -> None:
        """Idempotent."""
        if self.alive:
            self.child.kill()
        self.child.wait()
        _running.discard(self)


@atexit.register
def _kill_all() -> None:
    for process in list(_running):
        with contextlib.suppress(OSError):
            process.kill()
