"""Validates a configuration, with messages like kube-proxy's. Pure; finds all faults."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from ferrule.config import gates
from ferrule.config.duration import format_duration
from ferrule.config.quantity import parse_quantity
from ferrule.config.schema import OutputOptions, Seconds, Settings

MODES = ("", "iptables")
DETECT_LOCAL_MODES = ("", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
NODE_PORT_WORDS = ("primary", "localhost", "all")
BACKENDS = ("auto", "nft", "legacy")
NFT_WRITES = ("netlink", "tool")
FORMS = ("auto", "flat", "tree")
INTERFACE_LIMIT = 15
"""IFNAMSIZ without its NUL. kube-proxy starts with a longer name and then fails permanently."""


def validate(s: Settings) -> list[str]:
    """Returns one sentence per fault: path, value, allowed values."""
    return [
        *_mode(s),
        *_periods(s),
        *_numbers(s),
        *_detect_local(s),
        *_node_port_addresses(s.node_port_addresses),
        *_addresses(s),
        *_logging(s),
        *_rest(s),
    ]


def invalid(path: str, value: object, allowed: str) -> str:
    """Returns the common form of a fault."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return f"{path}: Invalid value: {shown}: {allowed}"


def _mode(s: Settings) -> Iterator[str]:
    if s.mode in ("ipvs", "nftables"):
        yield invalid(
            "mode",
            s.mode,
            "ferrule implements iptables mode only: set mode: iptables (or keep kube-proxy for this one)",
        )
    elif s.mode not in MODES:
        yield invalid("mode", s.mode, "must be iptables or blank (blank means iptables)")
    if s.ferrule.backend not in BACKENDS:
        yield invalid("ferrule.backend", s.ferrule.backend, f"must be one of {', '.join(BACKENDS)}")
    if s.ferrule.nft_writes not in NFT_WRITES:
        yield invalid("ferrule.nftWrites", s.ferrule.nft_writes, f"must be one of {', '.join(NFT_WRITES)}")
    for key, form in (("dispatch", s.ferrule.dispatch), ("balance", s.ferrule.balance)):
        if form not in FORMS:
            yield invalid(f"ferrule.{key}", form, f"must be one of {', '.join(FORMS)}")
    for i, name in enumerate(s.ferrule.first_services):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z]([-a-z0-9]*[a-z0-9])?", name):
            yield invalid(f"ferrule.firstServices[{i}]", name, "must be namespace/name of a Service")


def _periods(s: Settings) -> Iterator[str]:
    sync = s.iptables.sync_period
    least = s.iptables.min_sync_period
    if sync <= 0:
        yield invalid("iptables.syncPeriod", format_duration(sync), "must be greater than 0")
    if least < 0:
        yield invalid("iptables.minSyncPeriod", format_duration(least), "must be greater than or equal to 0")
    if least > sync:
        yield invalid(
            "iptables.syncPeriod", format_duration(sync), "must be greater than or equal to iptables.minSyncPeriod"
        )
    if s.config_sync_period <= 0:
        yield invalid("configSyncPeriod", format_duration(s.config_sync_period), "must be greater than 0")
    c = s.conntrack
    timeouts: tuple[tuple[str, Seconds], ...] = (
        ("tcpEstablishedTimeout", c.tcp_established_timeout),
        ("tcpCloseWaitTimeout", c.tcp_close_wait_timeout),
        ("udpTimeout", c.udp_timeout),
        ("udpStreamTimeout", c.udp_stream_timeout),
    )
    for name, value in timeouts:
        if value < 0:
            yield invalid(f"conntrack.{name}", format_duration(value), "must be greater than or equal to 0")


def _numbers(s: Settings) -> Iterator[str]:
    for section, bit in (("iptables", s.iptables.masquerade_bit), ("nftables", s.nftables.masquerade_bit)):
        if not 0 <= bit <= 31:
            yield invalid(f"{section}.masqueradeBit", bit, "must be within the range [0, 31]")
    if not -1000 <= s.oom_score_adj <= 1000:
        yield invalid("oomScoreAdj", s.oom_score_adj, "must be within the range [-1000, 1000]")
    for name, value in (("maxPerCore", s.conntrack.max_per_core), ("min", s.conntrack.min)):
        if value < 0:
            yield invalid(f"conntrack.{name}", value, "must be greater than or equal to 0")
    if s.client_connection.burst < 0:
        yield invalid("clientConnection.burst", s.client_connection.burst, "must be greater than or equal to 0")
    if s.client_connection.qps < 0:
        yield invalid("clientConnection.qps", s.client_connection.qps, "must be greater than or equal to 0")


def _is_cidr(text: str) -> bool:
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,3}", length):
        return False
    try:
        return int(length) <= ipaddress.ip_address(address).max_prefixlen
    except ValueError:
        return False


def _detect_local(s: Settings) -> Iterator[str]:
    if s.detect_local_mode not in DETECT_LOCAL_MODES:
        supported = ", ".join(f'"{mode}"' for mode in DETECT_LOCAL_MODES if mode)
        yield f'detectLocalMode: Unsupported value: "{s.detect_local_mode}": supported values: {supported}'
    cidrs = s.cluster_cidr.split(",") if s.cluster_cidr else []
    bad = [(i, cidr) for i, cidr in enumerate(cidrs) if not _is_cidr(cidr.strip())]
    for i, cidr in bad:
        yield invalid(
            f"clusterCIDR[{i}]", cidr, "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
        )
    versions = [":" in cidr for cidr in cidrs]
    if not bad and len(set(versions)) != len(versions):
        yield invalid(
            "clusterCIDR", s.cluster_cidr, "must be one CIDR, or one of each family with a comma between them"
        )
    for mode, name, value in (
        ("BridgeInterface", "bridgeInterface", s.detect_local.bridge_interface),
        ("InterfaceNamePrefix", "interfaceNamePrefix", s.detect_local.interface_name_prefix),
    ):
        if s.detect_local_mode != mode:
            continue
        # A prefix is written with a trailing wildcard, which is one of the fifteen characters.
        limit = INTERFACE_LIMIT - (mode == "InterfaceNamePrefix")
        if not value:
            yield invalid(f"detectLocal.{name}", value, f"must not be empty with detectLocalMode {mode}")
        elif not re.fullmatch(rf"[A-Za-z0-9_.:@][A-Za-z0-9_.:@-]{{0,{limit - 1}}}", value):
            yield invalid(f"detectLocal.{name}", value, f"must be an interface name of at most {limit} characters")


def _node_port_addresses(entries: tuple[str, ...]) -> Iterator[str]:
    for i, entry in enumerate(entries):
        path = f"nodePortAddresses[{i}]"
        if entry in NODE_PORT_WORDS:
            if entry in entries[:i]:
                yield f'{path}: Duplicate value: "{entry}"'
        elif not _is_cidr(entry):
            yield invalid(path, entry, "must be a valid CIDR or one of the keywords 'primary', 'localhost', 'all'")


def _addresses(s: Settings) -> Iterator[str]:
    if not _is_ip(s.bind_address):
        yield invalid("bindAddress", s.bind_address, "not a valid textual representation of an IP address")
    for path, text, default in (
        ("healthzBindAddress", s.healthz_bind_address, 10256),
        ("metricsBindAddress", s.metrics_bind_address, 10249),
    ):
        if text:
            yield from _endpoint(path, text, default)


def _endpoint(path: str, text: str, default_port: int) -> Iterator[str]:
    if _is_ip(text):
        return  # a bare address uses the default port
    host, colon, port = text.rpartition(":")
    if not colon:
        yield invalid(path, text, f"must be IP:port (or an IP alone, for port {default_port})")
        return
    if not _is_ip(host.removeprefix("[").removesuffix("]")):
        yield invalid(path, host, "must be a valid IP")
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        yield invalid(path, port, "must be a valid port")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _logging(s: Settings) -> Iterator[str]:
    log = s.logging
    if log.format not in ("text", "json"):
        yield invalid("logging.format", log.format, "must be text or json")
    if log.flush_frequency <= 0:
        yield invalid("logging.flushFrequency", format_duration(log.flush_frequency), "must be greater than 0")
    if log.vmodule and log.format == "json":
        yield "logging.vmodule: Forbidden: only supported for text log format"
    for i, item in enumerate(log.vmodule):
        path = f"logging.vmodule[{i}].filePattern"
        if not item.file_pattern:
            yield f"{path}: Required value: must not be empty"
        elif set(item.file_pattern) & set("=,"):
            yield invalid(path, item.file_pattern, "must not contain equal sign or comma")
    for name, options in (("text", log.options.text), ("json", log.options.json)):
        yield from _output(s, f"logging.options.{name}", options)


def _output(s: Settings, path: str, options: OutputOptions) -> Iterator[str]:
    size = parse_quantity(options.info_buffer_size)
    if size < 0:
        yield invalid(f"{path}.infoBufferSize", options.info_buffer_size, "must be greater than or equal to 0")
    if gates.logging_alpha(s.feature_gates):
        return
    for name, given in (("splitStream", options.split_stream), ("infoBufferSize", size != 0)):
        if given:
            yield f"{path}.{name}: Forbidden: needs featureGates.LoggingAlphaOptions: true"


def _rest(s: Settings) -> Iterator[str]:
    for fault in gates.faults(s.feature_gates):
        yield f"featureGates: {fault}"
    shown = s.show_hidden_metrics_for_version
    if shown and not re.fullmatch(r"[0-9]+\.[0-9]+", shown):
        yield invalid("showHiddenMetricsForVersion", shown, "must be a minor version such as 1.36")
    if s.hostname_override and not s.hostname_override.strip():
        yield invalid("hostnameOverride", s.hostname_override, "must not be blank")
