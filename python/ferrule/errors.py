"""Errors, by their cause: the input, the data plane, or ferrule itself.

Callers decide by class, never by text: an `InputError` is shown to the user and affects no other object, a
`DataplaneError` is retried with back-off, a `BugError` ends the daemon with its reason.

The engine's exceptions (`_engine.pyi`) follow the same split. `_engine.InputError` is bad input. `UnusableRules` (what
the kernel or its tools showed) and `NotEncodable` (ferrule's own rule) become a `DataplaneError` in `dataplane` and
`sync`. `Misuse` is ferrule's own fault: it reaches the top as a `BugError`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class FerruleError(Exception):
    """The base class of ferrule's errors."""


class InputError(FerruleError):
    """A manifest, a configuration field or an argument is invalid; the message names object, field and value."""


class ConfigError(InputError):
    """The configuration is invalid. `problems` holds all faults, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BugError(FerruleError):
    """A bug of ferrule. It is not retried: the daemon ends with the reason."""


class FailureKind(enum.Enum):
    """The kind of a tool's failure, classified in `dataplane.outcome`; callers never read stderr."""

    SYNTAX = "syntax"  # the tool rejected the text: retrying the same bytes cannot help
    KERNEL = "kernel"  # the kernel refused the change (busy chain, missing module, no memory)
    LOCK = "lock"  # another process held the xtables lock for the whole wait
    PERMISSION = "permission"  # no CAP_NET_ADMIN in this network namespace
    MISSING = "missing"  # the program is not installed
    KILLED = "killed"  # ended by a signal that ferrule did not send
    HUNG = "hung"  # over its time limit: killed by ferrule
    CONTENT = "content"  # what a tool printed is cut short: read it again
    ENCODING = "encoding"  # ferrule cannot encode its own rule for netlink: the tool may take its text
    UNKNOWN = "unknown"  # a non-zero exit with an unknown message


@dataclass
class DataplaneError(FerruleError):
    """A tool or a netlink transaction failed. The kernel's state is unknown until it is read again."""

    kind: FailureKind
    command: tuple[str, ...]
    exit_code: int | None = None
    stderr: str = ""
    offending: list[str] = field(default_factory=list)
    """Lines of the input that the tool rejected, as `line N: text`, with adjacent lines."""

    def __str__(self) -> str:
        what = " ".join(self.command)
        parts = [f"{what}: {self.kind.value} failure"]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.stderr.strip():
            parts.append(self.stderr.strip())
        text = ", ".join(parts)
        return "\n  ".join([text, *self.offending])
