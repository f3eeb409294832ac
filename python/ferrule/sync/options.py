"""Settings and probed facts to `EngineOptions`. Pure: whoever calls has probed already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ferrule._engine import EngineOptions
from ferrule.config import gates
from ferrule.config.schema import Settings

DetectorMode = Literal["None", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]

_MODES: dict[str, DetectorMode] = {
    "": "ClusterCIDR",
    "ClusterCIDR": "ClusterCIDR",
    "NodeCIDR": "NodeCIDR",
    "BridgeInterface": "BridgeInterface",
    "InterfaceNamePrefix": "InterfaceNamePrefix",
}

_FORMS: dict[str, Literal["auto", "flat", "tree"]] = {"auto": "auto", "flat": "flat", "tree": "tree"}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What this host can do and is called, as far as rules depend on it. The defaults are a current kernel's."""

    node_name: str
    node_ips: tuple[str, ...] = ()
    """Stand-ins for a Node object without addresses, at most one a family."""
    ordered_blocks: bool = False
    """Cut large writes into transactions: what the nft backend needs and legacy must not have."""
    random_fully: bool = True
    nfacct_invalid_dropped: bool = False
    nfacct_localhost_accepted: bool = False
    conntrack_tcp_be_liberal: bool = False
    """`nf_conntrack_tcp_be_liberal` as the kernel has it, after our own sysctls."""


def engine_options(
    settings: Settings, facts: HostFacts, *, digest_key: bytes = bytes(16), stages: bool = False
) -> EngineOptions:
    """`stages`: whoever plans goes on planning while a plan says that there is more.

    Raises `_engine.InputError` where a value passed the configuration's own checks and still cannot work."""
    local = settings.detect_local
    mode = _MODES[settings.detect_local_mode]
    interface = local.bridge_interface if mode == "BridgeInterface" else local.interface_name_prefix
    return EngineOptions(
        node_name=facts.node_name,
        node_ips=facts.node_ips,
        masquerade_all=settings.iptables.masquerade_all,
        masquerade_bit=settings.iptables.masquerade_bit,
        masquerade_random_fully=facts.random_fully,
        localhost_node_ports=settings.iptables.localhost_node_ports,
        conntrack_tcp_be_liberal=facts.conntrack_tcp_be_liberal,
        nfacct_invalid_dropped=facts.nfacct_invalid_dropped,
        nfacct_localhost_accepted=facts.nfacct_localhost_accepted,
        node_port_addresses=settings.node_port_addresses,
        local_detector=mode,
        cluster_cidrs=_cidrs(settings.cluster_cidr),
        local_interface=interface,
        external_ips=gates.external_ips(settings.feature_gates),
        ordered_blocks=facts.ordered_blocks,
        dispatch=_FORMS[settings.ferrule.dispatch],
        balance=_FORMS[settings.ferrule.balance],
        first_services=settings.ferrule.first_services if stages else (),
        digest_key=digest_key,
    )


def _cidrs(pair: str) -> Sequence[str]:
    return tuple(part.strip() for part in pair.split(",") if part.strip())
