"""Parses and formats Go's durations (`1h30m`, `1.5s`, `300ms`, `-1s`), which the configuration and the flags use."""

from __future__ import annotations

import json
import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([^\d.]*)", re.ASCII)


def quote(text: str) -> str:
    """Quotes text without control characters, similar to Go's %q."""
    return json.dumps(text)


def parse_duration(text: str) -> float:
    """Returns seconds. Raises `ValueError` with Go's message."""
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    sign = -1 if text.startswith("-") else 1
    if rest == "0":
        return 0.0
    total = 0.0
    at = 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            raise ValueError(f"invalid duration {quote(text)}")
        number, unit = part.groups()
        if unit == "":
            raise ValueError(f"missing unit in duration {quote(text)}")
        if unit not in _UNITS:
            raise ValueError(f"unknown unit {quote(unit)} in duration {quote(text)}")
        total += float(number) * _UNITS[unit]
        at = part.end()
    if not rest:
        raise ValueError(f"invalid duration {quote(text)}")
    return sign * total / 10**9


def format_duration(seconds: float) -> str:
    """Formats a duration as Go does: `1h0m0s`, `1.5s`, `300ms`, `0s`."""
    nanos = round(abs(seconds) * 10**9)
    sign = "-" if seconds < 0 and nanos else ""
    if nanos == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanos < size * 1000:
            return f"{sign}{_decimal(nanos / size)}{unit}"
    minutes, rest = divmod(nanos, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest / 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")
