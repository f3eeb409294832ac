"""The daemon's endpoints besides rules: HTTP ports, health check ports of Services, and the clean-up of stale flows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from ferrule._engine import build_info
from ferrule.config import gates
from ferrule.config.schema import Settings
from ferrule.config.show import configz
from ferrule.dataplane.conntrack import Cleaned, ConntrackCleaner
from ferrule.host import descriptors
from ferrule.host.probe import Host
from ferrule.observe.health import Subsystem
from ferrule.observe.status import Status
from ferrule.serve import admin, health
from ferrule.serve.http import Handler, Limits
from ferrule.serve.listener import Endpoint, Listener
from ferrule.serve.service_health import LIMITS as SERVICE_LIMITS
from ferrule.serve.service_health import ServiceHealthServers, listen_addresses
from ferrule.sync.report import SyncReport


class Endpoints:
    """HTTP ports and conntrack clean-up of the daemon. One instance per daemon."""

    def __init__(
        self,
        settings: Settings,
        status: Status,
        host: Host,
        *,
        flags: Mapping[str, str],
        on_failure: Callable[[str, str], None] = lambda *_: None,
        on_port_failure: Callable[[str, str, int, str], None] = lambda *_: None,
    ) -> None:
        """`on_failure(reason, message)` is called if one of the daemon's two ports does not listen;
        `on_port_failure(namespace, name, port, reason)` if a Service's port does not."""
        self._on_failure = on_failure
        self._settings = settings
        self._host = host
        self._metrics = metrics = status.metrics
        self._readiness = status.readiness
        self._conntrack = ConntrackCleaner(on_cleaned=self._cleaned)
        self._services = ServiceHealthServers(
            lambda: status.health.healthy,
            on_failure=on_port_failure,
            on_counts=lambda listening, failed: metrics.service_health_ports(listening=listening, failed=failed),
            limits=replace(SERVICE_LIMITS, connections=descriptors.client_share(1 / 2, SERVICE_LIMITS.connections)),
        )
        self.set_addresses(host.addresses)
        profiling: Handler | None = None
        if settings.enable_profiling:
            from ferrule.serve.profiling import profiling_handler  # noqa: PLC0415 - rarely enabled

            profiling = profiling_handler()
        given = settings.feature_gates
        health_at = Endpoint.parse(settings.healthz_bind_address, health.DEFAULT_PORT)
        admin_at = Endpoint.parse(settings.metrics_bind_address, admin.DEFAULT_PORT)
        self._listeners = [
            *self._listener(
                "health",
                health_at,
                health.health_handler(status.health, status.readiness, metrics, in_full=_only_local(health_at)),
                Subsystem.HEALTHZ_SERVER,
                "FailedToStartProxierHealthcheck",
            ),
            *self._listener(
                "metrics",
                admin_at,
                admin.admin_handler(
                    metrics,
                    status.readiness,
                    in_full=_only_local(admin_at),
                    configz=lambda: configz(settings),
                    profiling=profiling,
                    build=build_info() if gates.page("ComponentStatusz", given) else None,
                    flags=flags if gates.page("ComponentFlagz", given) else None,
                ),
                Subsystem.METRICS_SERVER,
                "FailedToStartMetricServer",
            ),
        ]

    def _listener(
        self, name: str, endpoint: Endpoint | None, handler: Handler, subsystem: Subsystem, event: str
    ) -> list[tuple[str, Listener]]:
        if endpoint is None:
            return []

        def on_state(why_not: str | None) -> None:
            self._readiness.report(subsystem, why_not)
            if why_not is not None:
                self._on_failure(event, why_not)

        hard_fail = self._settings.bind_address_hard_fail
        limits = Limits(connections=descriptors.client_share(1 / 8, Limits().connections))
        listener = Listener(name, endpoint, handler, limits=limits, hard_fail=hard_fail, on_state=on_state)
        return [(f"{name} port", listener)]

    def tasks(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Returns the permanent tasks by name."""
        return {
            **{name: listener.run for name, listener in self._listeners},
            "service health ports": self._services.run,
            "conntrack": self._conntrack.run,
        }

    def set_addresses(self, addresses: list[str]) -> None:
        """Sets the host's own addresses."""
        primary = tuple(ip for ip in addresses if ip in self._host.node_ips)
        self._services.set_addresses(listen_addresses(self._settings.node_port_addresses, addresses, primary))

    def after_sync(self, report: SyncReport) -> None:
        """Deletes flows that the rules in the kernel no longer allow, and updates the health check node ports."""
        families = self._host.families
        self._services.sync([check for check in report.health_checks if check.family in families])
        for family, view in report.views.items():
            self._conntrack.after_sync(family, view)

    def _cleaned(self, done: Cleaned) -> None:
        self._metrics.conntrack_cleaned(done.family, done.seconds, done.deleted)


def _only_local(endpoint: Endpoint | None) -> bool:
    return endpoint is not None and endpoint.is_loopback
