"""Classifies failures by exit code and stderr of an iptables tool. The only module that parses their messages.

Exit codes are not sufficient (measured with 1.8.9): a chain that cannot be deleted is 4 with nft and 1 with legacy, a
held lock is 4 with legacy, a missing COMMIT is 1 with both, a syntax error 2 with both. Matching text is safe: every
process runs with LC_ALL=C, and an unknown text only costs precision (UNKNOWN is retried like KERNEL).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import IO

from ferrule.errors import DataplaneError, FailureKind
from ferrule.process.completed import Completed

CONTEXT_LINES = 2
"""Number of lines quoted before and after an offending line."""

OFFENDING_LIMIT = 5
"""Maximum number of offending lines quoted; nft reports every rule of a refused block."""

_LINE_NUMBER = re.compile(r"(?:Error occurred at line: |[Ll]ine )(\d+)(?= failed|:|$|\s)", re.M)

_PATTERNS: tuple[tuple[re.Pattern[str], FailureKind], ...] = (
    (re.compile(r"holding the xtables lock|Resource temporarily unavailable"), FailureKind.LOCK),
    (re.compile(r"you must be root|Permission denied|Operation not permitted"), FailureKind.PERMISSION),
    (
        re.compile(
            r"Couldn't load (?:match|target)|unknown option|Bad argument|Unknown arg|Chain '.*' does not exist"
            r"|host/network .* not found|invalid port/service|COMMIT expected|chain name .* too long|Invalid chain name"
            r"|table name .* invalid|No chain/target/match by that name|invalid mask|requires an argument"
        ),
        FailureKind.SYNTAX,
    ),
    (
        re.compile(
            r"(?:CHAIN|RULE|TABLE)_\w+ failed|line \d+ failed|[Uu]nable to initialize table|can't initialize"
            r"|Cannot allocate memory|Invalid argument|Device or resource busy"
        ),
        FailureKind.KERNEL,
    ),
)


def classify(done: Completed) -> FailureKind | None:
    """Returns the kind of failure; None on success."""
    # iptables-legacy-save prints this on stdout and exits 0. Treating it as an empty table would rewrite everything.
    if b"is incompatible, use 'nft' tool" in done.stdout[:4096]:
        return FailureKind.UNKNOWN
    # nft tools print this and exit 0 as well.
    if "Could not fetch rule set generation id" in done.stderr:
        return FailureKind.PERMISSION
    if done.exit_code == 0:
        return None
    if done.exit_code < 0:
        return FailureKind.KILLED
    for pattern, kind in _PATTERNS:
        if pattern.search(done.stderr):
            return kind
    return FailureKind.UNKNOWN


def says_missing(done: Completed) -> bool:
    """Returns whether the chain listed with -S is missing. (nft reports a missing chain as an incompatible one.)"""
    words = ("No chain/target/match by that name", "is incompatible, use 'nft' tool", "does not exist")
    return done.exit_code == 1 and any(text in done.stderr for text in words)


def check(done: Completed, payload: IO[bytes] | None = None) -> Completed:
    """Returns a successful result; otherwise raises `DataplaneError`, with the lines of `payload` that the tool
    rejected."""
    kind = classify(done)
    if kind is None:
        return done
    numbers = dict.fromkeys(int(n) for n in _LINE_NUMBER.findall(done.stderr))
    quoted = [] if payload is None else quote(payload, list(numbers)[:OFFENDING_LIMIT])
    raise DataplaneError(kind, done.argv, done.exit_code, done.stderr.strip(), quoted)


def quote(payload: Iterable[bytes], numbers: list[int]) -> list[str]:
    """Returns lines of the input with adjacent ones, `line N: text`; the offending ones are marked `>`. Reads no
    further than necessary, because the text may have tens of megabytes."""
    offending = set(numbers)
    wanted = {near for n in numbers for near in range(n - CONTEXT_LINES, n + CONTEXT_LINES + 1)}
    quoted = []
    for number, line in enumerate(itertools.islice(payload, max(wanted, default=0)), start=1):
        text = line.decode(errors="replace").rstrip("\n")
        if number in wanted and text:
            quoted.append(f"{'>' if number in offending else ' '} line {number}: {text}")
    return quoted
