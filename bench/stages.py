"""Computes the stages of changes from two scrapes of ferrule's own metrics (`Proxy.metrics()`)."""

from __future__ import annotations

import re
from collections.abc import Mapping

STAGES = ("ingest", "wait", "observe", "plan", "restore", "commit")
MIB = 1 << 20

_SERIES = re.compile(r"(\w+)\{(.*)\}")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def between(before: Mapping[str, float], after: Mapping[str, float], ip_family: str = "IPv4") -> dict[str, float]:
    """Returns mean milliseconds of each stage between the scrapes, of the whole latency, and the usage of the
    restore tool."""
    rise = {name: value - before.get(name, 0.0) for name, value in after.items()}
    values: dict[str, float] = {}
    for stage in STAGES:
        labels = {"stage": stage, "ip_family": "" if stage == "ingest" else ip_family}
        _mean(values, f"{stage} ms", rise, "ferrule_stage_duration_seconds", labels)
    _mean(values, "arrival to kernel ms", rise, "ferrule_change_to_kernel_duration_seconds", {"ip_family": ip_family})
    tools = {dict(_LABEL.findall(name)).get("tool", "") for name in after if name.startswith("ferrule_tool_")}
    family = "iptables-" if ip_family == "IPv4" else "ip6tables-"
    for tool in sorted(t for t in tools if t.startswith(family) and t.endswith("-restore")):
        runs = _of(rise, "ferrule_tool_duration_seconds_count", {"tool": tool})
        if runs:
            values["tool CPU ms"] = 1000 * _of(rise, "ferrule_tool_cpu_seconds_total", {"tool": tool}) / runs
            # Absent where the tool needed less than the daemon; the rows' "children" column samples those.
            if peak := _of(after, "ferrule_tool_peak_rss_bytes", {"tool": tool}):
                values["tool peak MiB"] = peak / MIB
    return values


def _mean(values: dict[str, float], key: str, rise: Mapping[str, float], name: str, labels: dict[str, str]) -> None:
    count = _of(rise, f"{name}_count", labels)
    if count:
        values[key] = 1000 * _of(rise, f"{name}_sum", labels) / count


def _of(samples: Mapping[str, float], name: str, labels: dict[str, str]) -> float:
    """Returns a sample by its labels, in any order; 0 if it is missing."""
    for series, value in samples.items():
        found = _SERIES.fullmatch(series)
        if found and found[1] == name and dict(_LABEL.findall(found[2])) == labels:
            return value
    return 0.0
