"""How the daemon fares, as others are told: one object for whoever reports to metrics, health and readiness."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.observe.health import ProxyHealth, Readiness
from ferrule.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Status:
    """What parts of the daemon report to, and HTTP endpoints answer from. One a daemon."""

    metrics: Metrics
    health: ProxyHealth
    """/healthz and /livez: are changes written in time?"""
    readiness: Readiness
    """/readyz: is everything programmed, and why not?"""
