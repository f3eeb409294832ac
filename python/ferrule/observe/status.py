"""The status of the daemon: one object for all parts that report to metrics, health and readiness."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.observe.health import ProxyHealth, Readiness
from ferrule.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Status:
    """Collects the reports of the daemon's parts, for the HTTP endpoints. One per daemon."""

    metrics: Metrics
    health: ProxyHealth
    """/healthz and /livez: are changes written in time?"""
    readiness: Readiness
    """/readyz: is everything programmed, and why not?"""
