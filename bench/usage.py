"""Resource usage of a process and its children, from /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds, user and system."""

    own: float
    children: float
    """CPU seconds of children that have ended."""

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.own - other.own, self.children - other.children)

    @property
    def all(self) -> float:
        """Both."""
        return self.own + self.children


def cpu(pid: int) -> Cpu:
    """Returns the CPU time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Cpu(own / _TICK, children / _TICK)


def rss_mib(pid: int) -> float:
    """Returns the resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MIB


def peak_mib(pid: int) -> float:
    """Returns VmHWM, the peak of resident memory."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def children_mib(pid: int) -> float:
    """Returns the resident memory of all descendants, which may start and end during the measurement.

    A child before its exec shares its parent's memory and is not counted.
    """
    total = 0.0
    for child in _children(pid):
        try:
            if Path(f"/proc/{child}/exe").readlink() == Path(f"/proc/{pid}/exe").readlink():
                continue
            total += rss_mib(child)
        except OSError:
            continue
        total += children_mib(child)
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return found
