"""Errors, split by who is at fault: the input, the dataplane, or ferrule itself.

A caller decides by class, never by text: an `InputError` is shown to the user and costs nobody else anything,
a `DataplaneError` is retried with back-off, a `BugError` ends the daemon with its reason.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class FerruleError(Exception):
    """Base of everything ferrule raises on purpose."""


class InputError(FerruleError):
    """A manifest, a configuration field or an argument is wrong; the message names object, field and value."""


class ConfigError(InputError):
    """The configuration cannot be used. `problems` holds every fault found, one sentence each, never only the first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BugError(FerruleError):
    """Ferrule broke one of its own rules. Nothing to retry: the daemon ends and names the reason."""


class FailureKind(enum.Enum):
    """What went wrong with an external tool, decided once in `dataplane.outcome`; callers never read stderr."""

    SYNTAX = "syntax"  # the tool refused our text: retrying the same bytes cannot help
    KERNEL = "kernel"  # the kernel refused the change (busy chain, missing module, no memory)
    LOCK = "lock"  # the xtables lock stayed with someone else for the whole wait
    PERMISSION = "permission"  # no CAP_NET_ADMIN in this network namespace
    MISSING = "missing"  # the program is not installed
    KILLED = "killed"  # ended by a signal that we did not send
    HUNG = "hung"  # over its time limit: killed by us
    UNKNOWN = "unknown"  # a non-zero exit that says nothing we recognise


@dataclass
class DataplaneError(FerruleError):
    """An external tool did not do what it was asked to. The kernel's state is unknown until it is read again."""

    kind: FailureKind
    command: tuple[str, ...]
    exit_code: int | None = None
    stderr: str = ""
    offending: list[str] = field(default_factory=list)
    """Lines of our own input that the tool complained about, as `line N: text`, with their neighbours."""

    def __str__(self) -> str:
        what = " ".join(self.command)
        parts = [f"{what}: {self.kind.value} failure"]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.stderr.strip():
            parts.append(self.stderr.strip())
        text = ", ".join(parts)
        return "\n  ".join([text, *self.offending])
