"""Builds `EngineOptions` from settings and probed facts. Pure: the caller does the probing."""

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
    """The facts about this host that rules depend on. The defaults are those of a current kernel."""

    node_name: str
    node_ips: tuple[str, ...] = ()
    """Addresses used while the Node object has none, at most one per family."""
    ordered_blocks: bool = False
    """Whether large writes are split into transactions: required on nft, wrong on legacy."""
    random_fully: bool = True
    nfacct_invalid_dropped: bool = False
    nfacct_localhost_accepted: bool = False
    conntrack_tcp_be_liberal: bool = False
    """The kernel's `nf_conntrack_tcp_be_liberal`, after ferrule's own sysctls."""


def engine_options(
    settings: Settings, facts: HostFacts, *, digest_key: bytes = bytes(16), stages: bool = False
) -> EngineOptions:
    """Builds the options. With `stages` the caller must plan again while a plan reports `more`.

    Raises `_engine.InputError` if a value passed the configuration's checks and is still invalid."""
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
