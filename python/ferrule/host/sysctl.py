"""Reads and writes kernel settings under /proc/sys. A sufficient value is never written, so a read-only /proc/sys (a
container without full rights) is not a fault if the value was set before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
CONNTRACK_MAX = "net/netfilter/nf_conntrack_max"
TCP_ESTABLISHED = "net/netfilter/nf_conntrack_tcp_timeout_established"
TCP_CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
UDP_TIMEOUT = "net/netfilter/nf_conntrack_udp_timeout"
UDP_STREAM = "net/netfilter/nf_conntrack_udp_timeout_stream"


@dataclass(frozen=True, slots=True)
class Sysctls:
    """Kernel settings below `root`, which is a parameter for tests."""

    root: Path = Path("/proc/sys")

    def read(self, name: str) -> int | None:
        """Returns the value; None if the setting is unknown to the kernel (module not loaded) or unreadable."""
        return read_number(self.root / name)

    def ensure(self, name: str, value: int) -> str | None:
        """Writes the value unless it is already set. Returns None on success; otherwise one sentence with the
        reason."""
        current = self.read(name)
        if current == value:
            return None
        return write_number(self.root / name, f"sysctl {name.replace('/', '.')}", current, value)


def read_number(path: Path) -> int | None:
    """Returns the number in a file of the kernel; None if the file is missing, unreadable, or not a number."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def write_number(path: Path, name: str, current: int | None, value: int) -> str | None:
    """Writes a number. Returns None on success; otherwise one sentence with the setting's `name`, current value,
    required value, and reason."""
    try:
        # Without O_CREAT: for the creation of an unknown setting, /proc reports "permission denied".
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d\n" % value)
        finally:
            os.close(descriptor)
    except OSError as error:
        shown = "unknown" if current is None else current
        return f"{name} is {shown}, should be {value}, and cannot be set: {error.strerror}"
    return None
