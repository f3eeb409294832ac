"""Kernel settings under /proc/sys. A value that is good enough already is never written, so a read-only /proc/sys
(a container without full rights) is no fault as long as somebody set it before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"


@dataclass(frozen=True, slots=True)
class Sysctls:
    """`root` is a parameter for tests."""

    root: Path = Path("/proc/sys")

    def read(self, name: str) -> int | None:
        """None: no such setting in this kernel (module not loaded), or not readable."""
        try:
            return int((self.root / name).read_text())
        except (OSError, ValueError):
            return None

    def ensure(self, name: str, value: int) -> str | None:
        """Set it unless it has that value. None: it has it now; else one sentence saying what is wrong."""
        current = self.read(name)
        if current == value:
            return None
        try:
            (self.root / name).write_text(f"{value}\n")
        except OSError as error:
            return (
                f"sysctl {name.replace('/', '.')} is {current}, should be {value}, and cannot be set: {error.strerror}"
            )
        return None
