"""What a process and its children use, from /proc."""

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
    """Seconds, user and system."""

    own: float
    children: float
    """Of those that have ended."""

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.own - other.own, self.children - other.children)

    @property
    def all(self) -> float:
        """Both."""
        return self.own + self.children


def cpu(pid: int) -> Cpu:
    """So far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Cpu(own / _TICK, children / _TICK)


def rss_mib(pid: int) -> float:
    """Resident now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MIB


def peak_mib(pid: int) -> float:
    """VmHWM: the most that was ever resident."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def children_mib(pid: int) -> float:
    """Resident now in all descendants together; they come and go while we look.

    One that is not its own program yet shares its parent's memory, and is not counted.
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
