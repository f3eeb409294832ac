"""Applies kube-proxy's defaults to empty fields. Pure.

In a file, zero and "" mean "not set" for most fields. On the command line they are values, so this is applied to files
only; `host_port` to both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ferrule.config.schema import Settings

HEALTHZ_PORT = 10256
METRICS_PORT = 10249


def complete(settings: Settings, document: Mapping[str, Any]) -> Settings:
    """Returns the settings with defaults. `document` is the decoded file, which shows whether an address was set."""
    default = Settings()
    iptables, client, logging = settings.iptables, settings.client_connection, settings.logging
    bind_address = settings.bind_address or default.bind_address
    every, local = ("[::]", "[::1]") if is_ipv6(bind_address) else ("0.0.0.0", "127.0.0.1")  # noqa: S104 - stock's
    healthz = settings.healthz_bind_address if document.get("healthzBindAddress") else f"{every}:{HEALTHZ_PORT}"
    metrics = settings.metrics_bind_address if document.get("metricsBindAddress") else f"{local}:{METRICS_PORT}"
    return replace(
        settings,
        bind_address=bind_address,
        healthz_bind_address=host_port(healthz, HEALTHZ_PORT),
        metrics_bind_address=host_port(metrics, METRICS_PORT),
        detect_local_mode=settings.detect_local_mode or default.detect_local_mode,
        config_sync_period=settings.config_sync_period or default.config_sync_period,
        client_connection=replace(
            client,
            content_type=client.content_type or default.client_connection.content_type,
            qps=client.qps or default.client_connection.qps,
            burst=client.burst or default.client_connection.burst,
        ),
        logging=replace(
            logging,
            format=logging.format or default.logging.format,
            flush_frequency=logging.flush_frequency or default.logging.flush_frequency,
        ),
        iptables=replace(
            iptables,
            sync_period=iptables.sync_period or default.iptables.sync_period,
            min_sync_period=iptables.min_sync_period or default.iptables.min_sync_period,
        ),
    )


def host_port(address: str, port: int) -> str:
    """Adds the port to a bare IP; other text is returned unchanged, for validation."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return f"[{address}]:{port}" if ip.version == 6 else f"{address}:{port}"


def is_ipv6(address: str) -> bool:
    """Returns whether the text is an IPv6 address."""
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False
