"""`ferrule run` as a process in a namespace, with its log at hand."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ferrule.testing.netns import NetNs

PATIENCE = 20.0
"""Seconds until something that must happen counts as not happening. Nothing asserts that it happens faster."""


class Ferrule:
    """A running daemon. Lines of its log arrive in `log`."""

    def __init__(self, netns: NetNs, manifests: Path, *extra: str) -> None:
        self.netns = netns
        self.argv = (
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
        self.child = netns.popen(self.argv, stderr=subprocess.PIPE)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log.append(line.rstrip())

    def wait_for(self, *words: str, after: int = 0) -> str:
        """The first log line from index `after` on that holds all the words."""

        def found() -> str | None:
            return next((line for line in self.log[after:] if all(w in line for w in words)), None)

        line = eventually(found, lambda: f"no {words} in:\n" + "\n".join(self.log))
        assert line is not None
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; gives the exit code."""
        self.child.send_signal(number)
        code = self.child.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """End it if it still runs."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.child.stderr is not None:
            self.child.stderr.close()


@contextlib.contextmanager
def running(netns: NetNs, manifests: Path, *extra: str) -> Iterator[Ferrule]:
    daemon = Ferrule(netns, manifests, *extra)
    try:
        yield daemon
    finally:
        daemon.kill()


def eventually(probe: Callable[[], Any], complaint: Callable[[], str] = lambda: "did not happen") -> Any:
    """What `probe` gives once it is truthy."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(complaint())


def write(folder: Path, name: str, objects: Sequence[dict[str, Any]]) -> Path:
    """Put a file of manifests into the folder in one step."""
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}.new"
    fresh.write_text("\n---\n".join(json.dumps(o) for o in objects))
    return fresh.rename(folder / name)


def once(netns: NetNs, manifests: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """`ferrule run --once`."""
    argv = (
        sys.executable,
        "-m",
        "ferrule",
        "run",
        "--manifests",
        str(manifests),
        "--hostname-override",
        "node-1",
        "--once",
        *extra,
    )
    return netns.run(*argv, check=False)


def rules(netns: NetNs, backend: str, family: str = "iptables") -> str:
    """What the kernel holds."""
    return netns.run(f"{family}-{backend}-save").stdout
