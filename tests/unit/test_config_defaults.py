"""Tests the defaults of empty fields, the feature gates, the logged advice, and the displayed configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ferrule.config.advice import MODE_UNSET, NODE_PORT_ADDRESSES_UNSET, advice
from ferrule.config.defaults import host_port
from ferrule.config.load import parse_config, read_config
from ferrule.config.quantity import parse_quantity
from ferrule.config.schema import Ferrule, Settings, VModule
from ferrule.config.show import as_yaml, configz
from ferrule.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
TESTS = Path(__file__).parents[1]


def parsed(text: str) -> Settings:
    return parse_config((HEAD + text).encode(), "c")[0]


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config((HEAD + text).encode(), "c")
    return caught.value.problems


def test_zero_and_empty_mean_not_given() -> None:
    text = (
        "bindAddress: ''\nhealthzBindAddress: ''\nmetricsBindAddress: ''\ndetectLocalMode: ''\nconfigSyncPeriod: 0s\n"
        "iptables: {syncPeriod: 0s, minSyncPeriod: 0s}\nlogging: {format: '', flushFrequency: 0}\n"
        "clientConnection: {contentType: '', qps: 0, burst: 0}\n"
    )
    assert parsed(text) == Settings()


def test_zero_is_kept_where_it_says_something() -> None:
    s = parsed(
        "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s}\niptables: {masqueradeBit: 0}\noomScoreAdj: 0"
    )
    assert (s.conntrack.max_per_core, s.conntrack.min, s.conntrack.tcp_established_timeout) == (0, 0, 0)
    assert (s.iptables.masquerade_bit, s.oom_score_adj) == (0, 0)


@pytest.mark.parametrize(
    ("text", "healthz", "metrics"),
    [
        ("", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: 192.0.2.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: 2001:db8::1", "[::]:10256", "[::1]:10249"),
        ("bindAddress: '::'\nhealthzBindAddress: 0.0.0.0:10256", "0.0.0.0:10256", "[::1]:10249"),
        ("healthzBindAddress: 192.0.2.1\nmetricsBindAddress: '::1'", "192.0.2.1:10256", "[::1]:10249"),
    ],
)
def test_listeners_follow_the_bind_address(text: str, healthz: str, metrics: str) -> None:
    s = parsed(text)
    assert (s.healthz_bind_address, s.metrics_bind_address) == (healthz, metrics)


def test_a_port_is_only_added_where_none_is() -> None:
    assert [host_port(a, 1) for a in ("1.2.3.4", "::1", "1.2.3.4:5", "[::1]:5", "x")] == [
        "1.2.3.4:1", "[::1]:1", "1.2.3.4:5", "[::1]:5", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("featureGates: {Nope: true}", "c: featureGates: unrecognized feature gate: Nope"),
        ("featureGates: {NFTablesProxyMode: false}", "feature is locked to true"),
        ("featureGates: {GitRepoVolumeDriver: true}", "feature is locked to false"),
        ("featureGates: {AllAlpha: maybe}", "c: featureGates: Invalid value"),
        ("logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}", "only supported for text log format"),
        ("logging: {vmodule: [{filePattern: '', verbosity: 1}]}", "logging.vmodule[0].filePattern: Required value"),
        ("logging: {vmodule: [{filePattern: 'a=b'}]}", "must not contain equal sign or comma"),
        ("logging: {vmodule: [{pattern: a}]}", "unknown field 'logging.vmodule[0].pattern'"),
        ("logging: {vmodule: ['a=1']}", "logging.vmodule: Invalid value"),
        ("logging: {vmodule: a=1}", "must be a list"),
        ("logging: {verbosity: -1}", "must be within the range [0, 2147483647]"),
        ("logging: {flushFrequency: -1s}", 'logging.flushFrequency: Invalid value: "-1s": must be greater than 0'),
        ("logging: {flushFrequency: true}", "logging.flushFrequency"),
        ("logging: {options: {text: {splitStream: true}}}", "logging.options.text.splitStream: Forbidden"),
        ("logging: {options: {json: {infoBufferSize: 4Ki}}}", "logging.options.json.infoBufferSize: Forbidden"),
        ("logging: {options: {json: {infoBufferSize: many}}}", "must be a number with an optional suffix"),
        ("logging: {options: {json: {infoBufferSize: [1]}}}", "must be an amount"),
        ("featureGates: {AllAlpha: true}\nlogging: {options: {text: {infoBufferSize: -1}}}", "greater than or equal"),
        ("oomScoreAdj: 99999999999", "must be within the range [-2147483648, 2147483647]"),
        ("showHiddenMetricsForVersion: newest", "must be a minor version"),
        ("iptables: {syncPeriod: -1s, minSyncPeriod: -2s}", "must be greater than 0"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    found = faults(text)
    assert any(said in fault for fault in found), found


def test_logging_is_read_in_full() -> None:
    s = parsed(
        "featureGates: {LoggingAlphaOptions: true}\n"
        "logging: {flushFrequency: 1000000000, vmodule: [{filePattern: loop, verbosity: 4}],"
        " options: {text: {splitStream: true, infoBufferSize: 4Ki}, json: {infoBufferSize: 512}}}"
    )
    assert s.logging.flush_frequency == 1
    assert s.logging.vmodule == (VModule("loop", 4),)  # type: ignore[arg-type]
    assert (s.logging.options.text.split_stream, s.logging.options.text.info_buffer_size) == (True, "4Ki")
    assert s.logging.options.json.info_buffer_size == "512"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("512", 512),
        ("4Ki", 4096),
        ("1k", 1000),
        ("1.5M", 1_500_000),
        ("1e3", 1000),
        ("100m", 1),
        ("2Gi", 2**31),
    ],
)
def test_quantities(text: str, amount: int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "Ki", "1 k", "1KB", "1_000", "0x10", "\u0661"])
def test_texts_that_are_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number"):
        parse_quantity(text)


def test_repeated_fields_are_named_with_their_path() -> None:
    text = (
        "iptables:\n  syncPeriod: 1s\n  syncPeriod: 2s\n"
        "logging: {vmodule: [{filePattern: a, filePattern: b}]}\n---\nx: 1\n"
    )
    assert faults(text) == [
        "c: duplicate field 'iptables.syncPeriod'",
        "c: duplicate field 'logging.vmodule[0].filePattern'",
    ]


def test_a_file_is_read_strictly_then_leniently(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(HEAD + "fooBar: 1\nmode: iptables\nmode: iptables\n")
    loaded = read_config(path)
    assert loaded.settings == Settings(mode="iptables")
    assert loaded.strict_faults == ("duplicate field 'mode'", "unknown field 'fooBar'")
    assert loaded.content == path.read_bytes()
    path.write_text(HEAD + "fooBar: 1\noomScoreAdj: 2000\n")
    with pytest.raises(ConfigError, match="oomScoreAdj"):
        read_config(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o644, False), (0o600, False), (0o664, True), (0o646, True)])
def test_a_file_that_others_may_write_is_reported_to_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, warned: bool
) -> None:
    path = tmp_path / "config.conf"
    path.write_text(HEAD)
    path.chmod(mode)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    warnings = read_config(path).warnings
    assert bool(warnings) is warned
    assert all(f"mode {mode:04o}" in w for w in warnings)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert read_config(path).warnings == ()


def test_advice() -> None:
    assert list(advice(Settings())) == [MODE_UNSET, NODE_PORT_ADDRESSES_UNSET]
    # As kubeadm writes it: every section present, every field empty.
    quiet = (
        "mode: iptables\nnodePortAddresses: [primary]\nipvs: {excludeCIDRs: null, syncPeriod: 0s}\n"
        "nftables: {masqueradeBit: null}"
    )
    assert list(advice(parsed(quiet))) == []
    loud = parsed(
        "mode: iptables\nnodePortAddresses: [primary]\nipvs: {scheduler: rr}\nnftables: {masqueradeAll: true}\n"
        "winkernel: {networkName: x}\nportRange: 1-2\nwindowsRunAsService: true\nshowHiddenMetricsForVersion: '1.36'\n"
        "featureGates: {NativeHistograms: true, LoggingAlphaOptions: true}"
    )
    about = [sentence.split(":")[0] for sentence in advice(loud)]
    assert about == [
        "ipvs", "nftables", "winkernel", "portRange", "windowsRunAsService", "showHiddenMetricsForVersion",
        "featureGates.NativeHistograms",
    ]  # fmt: skip


def test_configz_is_stocks_byte_for_byte() -> None:
    recorded = (TESTS / "data/stock/http-configz.txt").read_text().split("\n\n", 1)[1].strip()
    s = parsed(
        "mode: iptables\nclusterCIDR: 10.128.0.0/10\nhostnameOverride: node-1\nconntrack: {maxPerCore: 0}\n"
        "clientConnection: {kubeconfig: /kubeconfig.ns}"
    )
    assert configz(s).decode() == recorded


def test_the_default_configuration_is_stocks() -> None:
    shown = yaml.safe_load(as_yaml(Settings()))
    assert set(shown.pop("ferrule")) == {"backend", "nftWrites", "dispatch", "balance", "firstServices"}
    assert shown == yaml.safe_load((TESTS / "unit/data/default-config.yaml").read_text())


def test_what_is_written_is_read_back() -> None:
    s = parsed(
        "mode: iptables\nnodePortAddresses: [primary, 10.0.0.0/8]\nfeatureGates: {AllAlpha: true}\n"
        "iptables: {syncPeriod: 1m30s, minSyncPeriod: 100ms}\nclientConnection: {qps: 2.5}\n"
        "ferrule: {backend: legacy}\n"
        "logging: {vmodule: [{filePattern: loop, verbosity: 4}], options: {text: {splitStream: true}}}"
    )
    again, warnings = parse_config(as_yaml(s).encode(), "c")
    assert (again, warnings) == (s, [])
    plain = replace(s, ferrule=Ferrule())
    assert parse_config(as_yaml(plain).encode(), "c") == (plain, [])
    assert b"ferrule" in configz(s)
    assert b"ferrule" not in configz(plain), "a tool that compares it with kube-proxy's sees no difference"
