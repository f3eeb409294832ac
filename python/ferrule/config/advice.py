"""Warnings about valid configurations. Pure; one sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from ferrule.config import gates
from ferrule.config.schema import IPVS, NFTables, Settings, Winkernel

NODE_PORT_ADDRESSES_UNSET = (
    "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. "
    "Consider using `--nodeport-addresses primary`"
)

MODE_UNSET = (
    "No mode specified: defaulting to 'iptables'. In Kubernetes 1.40 kube-proxy's own default becomes 'nftables': "
    "set 'mode: iptables' in the configuration, or --proxy-mode=iptables, to be safe from that"
)


def advice(settings: Settings) -> Iterator[str]:
    """Yields warnings for the start, after validation."""
    if not settings.mode:
        yield MODE_UNSET
    if not settings.node_port_addresses:
        yield NODE_PORT_ADDRESSES_UNSET
    for name, given, default in (
        ("ipvs", settings.ipvs, IPVS()),
        ("nftables", settings.nftables, NFTables()),
        ("winkernel", settings.winkernel, Winkernel()),
    ):
        if given != default:
            yield f"{name}: is set, but ferrule implements iptables mode only: the section is ignored"
    for name, is_set in (("portRange", settings.port_range), ("windowsRunAsService", settings.windows_run_as_service)):
        if is_set:
            yield f"{name}: is set, but has no effect"
    if settings.show_hidden_metrics_for_version:
        yield "showHiddenMetricsForVersion: is set, but ferrule hides no metrics"
    for gate in sorted(settings.feature_gates.keys() - gates.EFFECTIVE):
        yield f"featureGates.{gate}: is accepted, but changes nothing in ferrule"
