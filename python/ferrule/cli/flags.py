"""All flags of `ferrule run`: kube-proxy 1.37.2's, with the same types and defaults, and a few additional ones. Data
only.

The order is that of `--help`. A flag without a path does not set a configuration field; run.py handles it.
"""

from __future__ import annotations

from ferrule.cli import values as v
from ferrule.cli.pflag import Flag

GROUPS: dict[str, tuple[Flag, ...]] = {
    "Actions": (
        Flag("config", v.STRING, "", "configuration file; all flags marked * are then ignored"),
        Flag("cleanup", v.BOOL, "", "remove all rules of ferrule, both backends and families, and end"),
        Flag("init-only", v.BOOL, "", "do what needs full root, then end"),
        Flag("write-config-to", v.STRING, "", "write the configuration with all defaults to this file and end"),
        Flag("version", v.VERSION, "", "print the version and end; =raw for the whole build"),
    ),
    "Additional flags": (
        Flag("manifests", v.STRING, "", "follow this folder (or file) instead of the API"),
        Flag("once", v.BOOL, "", "with --manifests: one sync; exit 0 when all is in the kernel"),
        Flag("backend", v.choice("nft", "legacy"), "", "iptables backend (the one kubelet uses, else nft)"),
    ),
    "API server": (
        Flag("kubeconfig", v.STRING, "", "* file with address and credentials", "client_connection.kubeconfig"),
        Flag("master", v.STRING, "", "address of the API server; overrides the kubeconfig's"),
        Flag(
            "kube-api-content-type",
            v.STRING,
            "application/vnd.kubernetes.protobuf",
            "* ferrule always uses JSON",
            "client_connection.content_type",
        ),
        Flag("kube-api-qps", v.FLOAT32, "5", "* requests a second to the API server", "client_connection.qps"),
        Flag("kube-api-burst", v.INT32, "10", "* and how many at once", "client_connection.burst"),
        Flag("config-sync-period", v.DURATION, "15m0s", "* how often lists are refreshed", "config_sync_period"),
    ),
    "Node": (
        Flag("hostname-override", v.STRING, "", "this node's name (the host's)"),
        Flag("bind-address", v.IP, "0.0.0.0", "* this node's primary address", "bind_address"),  # noqa: S104 - stock's
        Flag("oom-score-adj", v.INT32, "-999", "* of this process; [-1000, 1000]", "oom_score_adj"),
        Flag("feature-gates", v.STRING_BOOLS, "", "* A=true,B=false; kube-proxy's names", "feature_gates"),
    ),
    "Rules": (
        Flag("proxy-mode", v.PROXY_MODE, "", "* iptables, or empty, which means iptables", "mode"),
        Flag("cluster-cidr", v.STRING, "", "* the Pods' network, or one of each family", "cluster_cidr"),
        Flag(
            "detect-local-mode",
            v.LOCAL_MODE,
            "",
            "* ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
            "detect_local_mode",
        ),
        Flag("pod-bridge-interface", v.STRING, "", "* for BridgeInterface", "detect_local.bridge_interface"),
        Flag(
            "pod-interface-name-prefix", v.STRING, "", "* for InterfaceNamePrefix", "detect_local.interface_name_prefix"
        ),
        Flag("nodeport-addresses", v.STRINGS, "", "* CIDRs, primary, localhost, all", "node_port_addresses"),
        Flag("masquerade-all", v.BOOL, "", "* SNAT everything sent to cluster IPs", "iptables.masquerade_all"),
        Flag("iptables-masquerade-bit", v.INT32, "14", "* of the packet mark; [0, 31]", "iptables.masquerade_bit"),
        Flag(
            "iptables-localhost-nodeports",
            v.BOOL,
            "true",
            "* NodePorts on 127.0.0.1 (IPv4 only)",
            "iptables.localhost_node_ports",
        ),
        Flag("iptables-sync-period", v.DURATION, "30s", "* how often rules are checked", "iptables.sync_period"),
        Flag("iptables-min-sync-period", v.DURATION, "1s", "* between two syncs", "iptables.min_sync_period"),
    ),
    "Conntrack (0 leaves the kernel's value)": (
        Flag("conntrack-max-per-core", v.INT32, "32768", "* tracked connections a core", "conntrack.max_per_core"),
        Flag("conntrack-min", v.INT32, "131072", "* and at least as many in all", "conntrack.min"),
        Flag(
            "conntrack-tcp-timeout-established",
            v.DURATION,
            "24h0m0s",
            "* idle TCP connections",
            "conntrack.tcp_established_timeout",
        ),
        Flag(
            "conntrack-tcp-timeout-close-wait",
            v.DURATION,
            "1h0m0s",
            "* TCP in CLOSE_WAIT",
            "conntrack.tcp_close_wait_timeout",
        ),
        Flag(
            "conntrack-tcp-be-liberal", v.BOOL, "", "* let packets out of the window pass", "conntrack.tcp_be_liberal"
        ),
        Flag("conntrack-udp-timeout", v.DURATION, "", "* UDP without a reply", "conntrack.udp_timeout"),
        Flag("conntrack-udp-timeout-stream", v.DURATION, "", "* UDP with replies", "conntrack.udp_stream_timeout"),
    ),
    "Health and metrics": (
        Flag(
            "healthz-bind-address",
            v.IP_PORT,
            "0.0.0.0:10256",
            "* /healthz, /livez, /readyz",
            "healthz_bind_address",
        ),
        Flag("metrics-bind-address", v.IP_PORT, "127.0.0.1:10249", "* /metrics, /configz", "metrics_bind_address"),
        Flag("bind-address-hard-fail", v.BOOL, "", "* end when a port is taken", "bind_address_hard_fail"),
        Flag("profiling", v.BOOL, "", "* profiling endpoints on the metrics port", "enable_profiling"),
        Flag(
            "show-hidden-metrics-for-version",
            v.STRING,
            "",
            "* accepted; ferrule hides no metrics",
            "show_hidden_metrics_for_version",
        ),
        Flag(
            "healthz-port",
            v.INT32,
            "10256",
            "* deprecated: for an address without a port; 0: no listener",
            deprecated="use --healthz-bind-address",
        ),
        Flag(
            "metrics-port",
            v.INT32,
            "10249",
            "* deprecated: for an address without a port; 0: no listener",
            deprecated="use --metrics-bind-address",
        ),
    ),
    "Log": (
        Flag("v", v.LEVEL, "", "verbosity; 2 names every chain written", "logging.verbosity", short="v"),
        Flag("vmodule", v.VMODULE, "", "verbosity of single files: loop=4,dataplane/*=5", "logging.vmodule"),
        Flag("logging-format", v.STRING, "text", "text or json", "logging.format"),
        Flag("log-flush-frequency", v.DURATION, "5s", "how long lines may be buffered", "logging.flush_frequency"),
        Flag(
            "log-text-split-stream",
            v.BOOL,
            "",
            "information to stdout, all else to stderr",
            "logging.options.text.split_stream",
        ),
        Flag(
            "log-text-info-buffer-size",
            v.QUANTITY,
            "",
            "bytes that may be buffered (4Ki)",
            "logging.options.text.info_buffer_size",
        ),
        Flag("log-json-split-stream", v.BOOL, "", "the same for json", "logging.options.json.split_stream"),
        Flag("log-json-info-buffer-size", v.QUANTITY, "", "the same for json", "logging.options.json.info_buffer_size"),
    ),
    "Accepted for compatibility with kube-proxy, without effect": (
        Flag("ipvs-scheduler", v.STRING, "", "*", "ipvs.scheduler"),
        Flag("ipvs-sync-period", v.DURATION, "30s", "*"),
        Flag("ipvs-min-sync-period", v.DURATION, "1s", "*"),
        Flag("ipvs-exclude-cidrs", v.STRINGS, "", "*", "ipvs.exclude_cidrs"),
        Flag("ipvs-strict-arp", v.BOOL, "", "*", "ipvs.strict_arp"),
        Flag("ipvs-tcp-timeout", v.DURATION, "", "*", "ipvs.tcp_timeout"),
        Flag("ipvs-tcpfin-timeout", v.DURATION, "", "*", "ipvs.tcp_fin_timeout"),
        Flag("ipvs-udp-timeout", v.DURATION, "", "*", "ipvs.udp_timeout"),
    ),
}

FLAGS = {flag.name: flag for group in GROUPS.values() for flag in group}

LOGGING = frozenset(flag.name for flag in GROUPS["Log"])
OWN = frozenset(flag.name for flag in GROUPS["Additional flags"])

BESIDE_A_FILE = LOGGING | OWN | {"hostname-override", "master"} | {flag.name for flag in GROUPS["Actions"]}
"""Flags that count although --config is given; `*` marks the others."""
