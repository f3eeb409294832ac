"""The fields of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) with kube-proxy 1.37's defaults.

Field names are the file's, in snake case; `API_NAMES` holds those that do not follow the rule. Durations are seconds.
Data only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

Seconds = NewType("Seconds", float)
"""Written as a Go duration in the file."""

FlushSeconds = NewType("FlushSeconds", float)
"""A Go duration or a whole number of nanoseconds: one old field accepts both."""

UInt = NewType("UInt", int)
"""A whole number that cannot be negative."""

Quantity = NewType("Quantity", str)
"""A quantity in Kubernetes' format (`4Mi`, `1k`, `0`), kept as text."""

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

API_NAMES = {
    "cluster_cidr": "clusterCIDR",
    "exclude_cidrs": "excludeCIDRs",
    "strict_arp": "strictARP",
    "enable_dsr": "enableDSR",
    "tcp_close_wait_timeout": "tcpCloseWaitTimeout",
}


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """The connection to the API server."""

    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: int = 10


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Output streams of one log format. Needs feature gate LoggingAlphaOptions, as in kube-proxy."""

    split_stream: bool = False
    """Errors to stderr, all else to stdout."""
    info_buffer_size: Quantity = Quantity("0")
    """Bytes that may be buffered before they are written to stdout."""


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """Options per log format."""

    text: OutputOptions = field(default_factory=OutputOptions)
    json: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class VModule:
    """A verbosity for files whose names match a pattern."""

    file_pattern: str = ""
    verbosity: UInt = UInt(0)


@dataclass(frozen=True, slots=True)
class Logging:
    """Logging options."""

    format: str = "text"
    flush_frequency: FlushSeconds = FlushSeconds(5.0)
    verbosity: UInt = UInt(0)
    vmodule: tuple[VModule, ...] = ()
    options: LoggingOptions = field(default_factory=LoggingOptions)


@dataclass(frozen=True, slots=True)
class IPTables:
    """The iptables mode, which ferrule implements."""

    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: Seconds = Seconds(30.0)
    min_sync_period: Seconds = Seconds(1.0)


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Conntrack settings of the kernel; 0 leaves a value unchanged."""

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: Seconds = Seconds(86400.0)
    tcp_close_wait_timeout: Seconds = Seconds(3600.0)
    tcp_be_liberal: bool = False
    udp_timeout: Seconds = Seconds(0.0)
    udp_stream_timeout: Seconds = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class DetectLocal:
    """Interface names for the two interface modes of detectLocalMode."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


@dataclass(frozen=True, slots=True)
class IPVS:
    """The section of another mode: accepted and ignored."""

    sync_period: Seconds = Seconds(0.0)
    min_sync_period: Seconds = Seconds(0.0)
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = ()
    strict_arp: bool = False
    tcp_timeout: Seconds = Seconds(0.0)
    tcp_fin_timeout: Seconds = Seconds(0.0)
    udp_timeout: Seconds = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class NFTables:
    """The section of another mode: accepted and ignored."""

    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: Seconds = Seconds(0.0)
    min_sync_period: Seconds = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class Winkernel:
    """The section of another operating system: accepted and ignored."""

    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = False
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


@dataclass(frozen=True, slots=True)
class Ferrule:
    """Ferrule's own section. Every field has a default, so a stock file needs none of it."""

    backend: str = "auto"
    """auto, nft or legacy. auto follows kubelet's hint."""
    nft_writes: str = "netlink"
    """netlink or tool. How rules are written on the nft backend: as netlink transactions, or as text for
    iptables-nft-restore, which takes several times as long. Legacy always uses the tool."""
    dispatch: str = "auto"
    """auto, flat or tree. The layout of dispatch chains: the long chains that kube-proxy writes, or trees of short
    ones. auto uses trees above 1,000 rules and flat chains below 750."""
    balance: str = "auto"
    """auto, flat or tree. The layout of balancing chains: the long chain that kube-proxy writes, or a tree of short
    ones. auto uses a tree for more than 100 endpoints, tree for more than 16."""
    first_services: tuple[str, ...] = ("default/kubernetes", "kube-system/kube-dns")
    """namespace/name. A large start over an empty kernel writes these Services, and those labelled k8s-app=kube-dns,
    first. Empty disables the first stage."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file."""

    feature_gates: dict[str, bool] = field(default_factory=dict)
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"  # noqa: S104 - kube-proxy's default; only a hint of the node's own address
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    detect_local_mode: str = "ClusterCIDR"
    cluster_cidr: str = ""
    node_port_addresses: tuple[str, ...] = ()
    oom_score_adj: int = -999
    config_sync_period: Seconds = Seconds(900.0)
    port_range: str = ""
    windows_run_as_service: bool = False
    client_connection: ClientConnection = field(default_factory=ClientConnection)
    logging: Logging = field(default_factory=Logging)
    iptables: IPTables = field(default_factory=IPTables)
    conntrack: Conntrack = field(default_factory=Conntrack)
    detect_local: DetectLocal = field(default_factory=DetectLocal)
    ipvs: IPVS = field(default_factory=IPVS)
    nftables: NFTables = field(default_factory=NFTables)
    winkernel: Winkernel = field(default_factory=Winkernel)
    ferrule: Ferrule = field(default_factory=Ferrule)


SYNC_PERIOD_DEFAULT = Seconds(30.0)
"""The value of syncPeriod 0, as in kube-proxy."""
