"""Which changes of the node's own Node object end the process. Pure; the engine decodes the object."""

from __future__ import annotations

from ferrule._engine import OwnNode


def differences(name: str, old: OwnNode, new: OwnNode, *, pod_cidrs: bool) -> list[str]:
    """Returns why the process must end, one sentence each; empty if it need not.

    `pod_cidrs`: whether they matter (detectLocalMode NodeCIDR). Zone, taints and a coming deletion are not a reason.
    """
    reasons = []
    if old.node_ips != new.node_ips:
        reasons.append(f"Node {name}: its IPs changed from {_text(old.node_ips)} to {_text(new.node_ips)}")
    if pod_cidrs and old.pod_cidrs != new.pod_cidrs:
        reasons.append(f"Node {name}: its podCIDRs changed from {_text(old.pod_cidrs)} to {_text(new.pod_cidrs)}")
    return reasons


def _text(values: tuple[str, ...]) -> str:
    return ", ".join(values) or "none"
