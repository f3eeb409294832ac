"""`/statusz` and `/flagz`: a summary of this process and its command line, for people. Pure.

kube-proxy serves both by default. Their format is not stable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

_WARNING = "For people: content and format may change with any version."


def statusz(build: Mapping[str, str], paths: Sequence[str], *, started_at: float, now: float) -> bytes:
    """`paths`: the other paths of the port. Times are Unix seconds."""
    minutes, seconds = divmod(max(0, int(now - started_at)), 60)
    hours, minutes = divmod(minutes, 60)
    started = datetime.fromtimestamp(started_at, UTC)
    lines = (
        f"Started:  {started:%a %b} {started.day:2} {started:%H:%M:%S UTC %Y}",
        f"Up:  {hours} hr {minutes:02} min {seconds:02} sec",
        f"Build:  {build.get('profile', '')}, {build.get('target', '')}, {build.get('rustc', '')}",
        f"Binary version:  {build.get('version', '')}",
        f"Paths:  {' '.join(paths)}",
    )
    return _page("ferrule statusz", "", *lines)


def flagz(flags: Mapping[str, str]) -> bytes:
    """Returns every flag with its value or its default."""
    return _page("ferrule flagz", *(f"{name} {flags[name]}" for name in sorted(flags)))


def _page(title: str, *lines: str) -> bytes:
    return "\n".join(("", title, _WARNING, *lines, "")).encode()
