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
"""The same, or a whole number of nanoseconds: one old field can be either."""

UInt = NewType("UInt", int)
"""A whole number that cannot be negative."""

Quantity = NewType("Quantity", str)
"""An amount as Kubernetes writes it (`4Mi`, `1k`, `0`), kept as written."""

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
    """How to talk to the API server."""

    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: int = 10


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where lines of one format go. Needs feature gate LoggingAlphaOptions, as in kube-proxy."""

    split_stream: bool = False
    """Errors to stderr, the rest to stdout."""
    info_buffer_size: Quantity = Quantity("0")
    """Bytes that may wait before they are written to stdout."""


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """Per format."""

    text: OutputOptions = field(default_factory=OutputOptions)
    json: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class VModule:
    """Another verbosity for the files whose name matches a pattern."""

    file_pattern: str = ""
    verbosity: UInt = UInt(0)


@dataclass(frozen=True, slots=True)
class Logging:
    """What the log looks like."""

    format: str = "text"
    flush_frequency: FlushSeconds = FlushSeconds(5.0)
    verbosity: UInt = UInt(0)
    vmodule: tuple[VModule, ...] = ()
    options: LoggingOptions = field(default_factory=LoggingOptions)


@dataclass(frozen=True, slots=True)
class IPTables:
    """The mode we implement."""

    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: Seconds = Seconds(30.0)
    min_sync_period: Seconds = Seconds(1.0)


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Kernel settings; 0 leaves one as it is."""

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: Seconds = Seconds(86400.0)
    tcp_close_wait_timeout: Seconds = Seconds(3600.0)
    tcp_be_liberal: bool = False
    udp_timeout: Seconds = Seconds(0.0)
    udp_stream_timeout: Seconds = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class DetectLocal:
    """Names for the two interface modes of detectLocalMode."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


@dataclass(frozen=True, slots=True)
class IPVS:
    """Another mode's section: accepted, never used."""

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
    """Another mode's section: accepted, never used."""

    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: Seconds = Seconds(0.0)
    min_sync_period: Seconds = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class Winkernel:
    """Another operating system's section: accepted, never used."""

    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = False
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


@dataclass(frozen=True, slots=True)
class Ferrule:
    """Our own section. Everything has a default, so a stock file needs none of it."""

    backend: str = "auto"
    """auto, nft or legacy. auto follows kubelet's hint."""
    nft_writes: str = "netlink"
    """netlink or tool. How rules get into the kernel on the nft backend: as transactions of our own, or as text for
    iptables-nft-restore, which takes several times as long. On legacy it is always the tool."""
    dispatch: str = "auto"
    """auto, flat or tree. How packets find their Service: by the long chains that kube-proxy writes, or by trees of
    short ones. auto turns to trees above 1,000 rules and back below 750."""
    balance: str = "auto"
    """auto, flat or tree. How one of a Service's endpoints is chosen: by the long chain that kube-proxy writes, or by a
    tree of short ones. auto makes trees of more than 100 endpoints, tree of more than 16."""
    first_services: tuple[str, ...] = ("default/kubernetes", "kube-system/kube-dns")
    """namespace/name. A large start over an empty kernel writes these, and those labelled k8s-app=kube-dns, before all
    others. Empty: all at once."""


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
"""syncPeriod 0 means this, as in kube-proxy."""
