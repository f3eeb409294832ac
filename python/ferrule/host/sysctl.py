"""Kernel settings under /proc/sys. A value that is good enough already is never written, so a read-only /proc/sys
(a container without full rights) is no fault as long as somebody set it before."""

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
    """`root` is a parameter for tests."""

    root: Path = Path("/proc/sys")

    def read(self, name: str) -> int | None:
        """None: no such setting in this kernel (module not loaded), or not readable."""
        return read_number(self.root / name)

    def ensure(self, name: str, value: int) -> str | None:
        """Set it unless it has that value. None: it has it now; else one sentence saying what is wrong."""
        current = self.read(name)
        if current == value:
            return None
        return write_number(self.root / name, f"sysctl {name.replace('/', '.')}", current, value)


def read_number(path: Path) -> int | None:
    """What a one-number file of the kernel says. None: it is not there, not readable, or no number."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def write_number(path: Path, name: str, current: int | None, value: int) -> str | None:
    """None: written; else one sentence with the setting's `name`, what it is, what it should be, and why it stays."""
    try:
        # Without O_CREAT: asked to create a setting that is not there, /proc answers "permission denied".
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d\n" % value)
        finally:
            os.close(descriptor)
    except OSError as error:
        shown = "unknown" if current is None else current
        return f"{name} is {shown}, should be {value}, and cannot be set: {error.strerror}"
    return None
