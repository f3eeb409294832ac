"""What a process that ended left behind. Data only, so that judging it needs no process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that ended by itself."""

    argv: tuple[str, ...]
    exit_code: int
    """Negative: killed by that signal."""
    stdout: bytes
    stderr: str
