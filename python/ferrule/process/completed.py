"""The result of a process that ended. Data only, so that evaluating it needs no process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that ended by itself."""

    argv: tuple[str, ...]
    exit_code: int
    """Negative if a signal killed the process."""
    stdout: bytes
    stderr: str
