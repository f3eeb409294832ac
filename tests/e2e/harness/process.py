"""A program in a namespace, its output in a file, gone whatever happens."""

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
"""Even tests that are killed outright leave no program behind."""

_running: set[Process] = set()


class Process:
    """Started at once. stdout and stderr go to `log`, which grows over restarts of the same name."""

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
                # Ctrl-C is for the tests, which then put away what they started in their own order.
                start_new_session=True,
            )
        _running.add(self)

    @property
    def pid(self) -> int:
        """The program's own: `ip netns exec` becomes it."""
        return self.child.pid

    @property
    def alive(self) -> bool:
        """Still running."""
        return self.child.poll() is None

    def text(self) -> str:
        """What this run said so far."""
        with self.log.open("rb") as said:
            said.seek(self._mark)
            return said.read().decode(errors="replace")

    def lines(self, *words: str) -> list[str]:
        """The lines that hold all the words."""
        return [line for line in self.text().splitlines() if all(word in line for word in words)]

    def wait_for(self, *words: str) -> str:
        """The first line that holds all the words; fails at once when the program is gone without it."""

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
        """For complaints."""
        return "\n".join(self.text().splitlines()[-lines:])

    def cpu_seconds(self) -> float:
        """User and system time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code once it has ended of itself."""
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[:2]} still runs after {seconds} s:\n{self.tail()}") from None
        _running.discard(self)
        return code

    def stop(self, number: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int:
        """Signal it and wait; its exit code (negative: the signal that killed it)."""
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
