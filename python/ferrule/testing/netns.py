"""Private network namespaces: created, entered, and always removed."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, get_errno
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ferrule.testing.waiting import PATIENCE

PREFIX = "ferrule"
NAMES = Path("/run/netns")
CLONE_NEWNET = 0x40000000

T = TypeVar("T")

_count = 0
_alive: set[str] = set()


def ip(*arguments: str) -> str:
    """Runs `ip`; raises `CalledProcessError` with its message."""
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def why_no_namespaces() -> str | None:
    """Returns None if namespaces and both iptables backends are available; otherwise the reason for skipping."""
    for tool in ("ip", "iptables-nft", "iptables-legacy"):
        if shutil.which(tool, path=f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}") is None:
            return f"{tool} is not installed"
    try:
        with NetNs("probe"):
            return None
    except RuntimeError as error:
        return f"no network namespaces here: {error}"


def small_transactions_only(backend: str) -> str | None:
    """Returns why a large restore cannot work here, as a reason for skipping; None if it can.

    The nft tool sends a transaction as one message and raises its socket's buffer for it, which only real root may do.
    """
    mapped = Path("/proc/self/uid_map").read_text().split()
    if backend == "nft" and mapped != ["0", "0", "4294967295"]:
        return "unprivileged user namespace: the nft tool may not raise its socket buffer for a large transaction"
    return None


def sweep() -> None:
    """Removes namespaces whose creator is dead (for example killed with -9)."""
    if not NAMES.is_dir():
        return
    for entry in NAMES.iterdir():
        made_by = re.fullmatch(rf"{PREFIX}-(\d+)-.*", entry.name)
        if made_by and not Path(f"/proc/{made_by[1]}").exists():
            with contextlib.suppress(RuntimeError):
                ip("netns", "del", entry.name)


class NetNs:
    """A namespace with loopback up. As a context manager, or `make` and `remove`."""

    def __init__(self, label: str) -> None:
        global _count  # noqa: PLW0603 - names must differ within a process
        _count += 1
        self.name = f"{PREFIX}-{os.getpid()}-{_count}-{label}"

    def make(self) -> NetNs:
        """Creates it; removed at exit at the latest."""
        ip("netns", "add", self.name)
        _alive.add(self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def remove(self) -> None:
        """Idempotent."""
        if self.name in _alive:
            _alive.discard(self.name)
            with contextlib.suppress(RuntimeError):
                ip("netns", "del", self.name)

    def __enter__(self) -> NetNs:
        return self.make()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def prefix(self) -> tuple[str, ...]:
        """The prefix of a command line that runs inside."""
        return ("ip", "netns", "exec", self.name)

    def ip(self, *arguments: str) -> str:
        """`ip -n NAME …`."""
        return ip("-n", self.name, *arguments)

    def run(
        self,
        *argv: str,
        stdin: str = "",
        check: bool = True,
        timeout: float = 2 * PATIENCE,  # time: the deadline at which a test fails
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program inside to its end."""
        # time: the parameter
        done = subprocess.run(
            (*self.prefix, *argv), input=stdin, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def sysctl(self, **settings: int) -> None:
        """Sets `net.*` values inside: `ipv4__ip_forward=1`. (The sysctl tool is not installed on every machine.)"""
        lines = [f"echo {value} > /proc/sys/net/{name.replace('__', '/')}" for name, value in settings.items()]
        self.run("sh", "-ec", "\n".join(lines))

    def popen(self, argv: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """Starts a program inside."""
        return subprocess.Popen((*self.prefix, *argv), text=True, **options)  # type: ignore[call-overload,no-any-return]

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function inside, in a separate thread (setns is per thread)."""

        def inside() -> T:
            with (NAMES / self.name).open("rb") as handle:
                if CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                    raise OSError(get_errno(), f"cannot enter {self.name}")
            return function()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result()


@atexit.register
def _remove_all() -> None:
    for name in list(_alive):
        _alive.discard(name)
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", name)
