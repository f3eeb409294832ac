"""Runs `ferrule run` as a process in a namespace and collects its log. For tests and the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import PATIENCE, ended, eventually


def command(manifests: Path, *extra: str) -> tuple[str, ...]:
    """Returns the command line for the node of the lab and of the recordings."""
    return (
        sys.executable,
        "-m",
        "ferrule",
        "run",
        "--manifests",
        str(manifests),
        "--hostname-override",
        "node-1",
        *extra,
    )


class Ferrule:
    """A running daemon, whose log lines are in `log`. As a context manager it is killed at the end."""

    def __init__(
        self,
        netns: NetNs,
        manifests: Path,
        *extra: str,
        environment: Mapping[str, str] | None = None,
        under: tuple[str, ...] = (),
    ) -> None:
        """`under` precedes the command line, for example `prlimit`."""
        self.child = netns.popen(
            (*under, *command(manifests, *extra)), stderr=subprocess.PIPE, env=os.environ | dict(environment or {})
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Ferrule:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log.append(line.rstrip())

    def wait_for(self, *words: str, after: int = 0) -> str:
        """Waits for a log line from index `after` on that contains all words, and returns it. Raises if the daemon
        ends."""

        def found() -> str | None:
            line = next((line for line in self.log[after:] if all(word in line for word in words)), None)
            if line is None and self.child.poll() is not None and not self._reader.is_alive():
                raise AssertionError(f"ferrule ended without saying {words}:\n" + "\n".join(self.log))
            return line

        return eventually(found, lambda: f"no {words} in:\n" + "\n".join(self.log))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end. Returns the exit code."""
        self.child.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait until it ends of itself; returns the exit code."""
        code = ended(self.child, lambda: "ferrule goes on:\n" + "\n".join(self.log))
        self._join()
        return code

    def kill(self) -> None:
        """Kills it if it still runs."""
        if self.child.poll() is None:
            self.child.kill()
            ended(self.child)
        self._join()
        if self.child.stderr is not None:
            self.child.stderr.close()

    def _join(self) -> None:
        self._reader.join(PATIENCE)  # time: whatever it started may hold its stderr open
