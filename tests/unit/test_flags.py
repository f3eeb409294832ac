"""Tests the command line of `ferrule run`: kube-proxy's flags, their syntax, their errors, and the resulting
settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ferrule.cli.flags import BESIDE_A_FILE, FLAGS, GROUPS, OWN
from ferrule.cli.help import run_help
from ferrule.cli.pflag import FlagError, Parsed, parse, shown
from ferrule.cli.settings import resolve
from ferrule.config.schema import Settings, VModule
from ferrule.errors import ConfigError

STOCK = json.loads((Path(__file__).parents[1] / "data/stock/flags.json").read_text())
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
DEPRECATED = {"healthz-port", "metrics-port"}


def given(*argv: str) -> dict[str, Any]:
    return parse(argv, FLAGS).values


def settings(*argv: str) -> Settings:
    return resolve(parse(argv, FLAGS)).settings


# ---------------------------------------------------------------------- the table


@pytest.mark.parametrize("stock", STOCK, ids=lambda flag: flag["flag"])
def test_every_flag_of_stock_is_ours(stock: dict[str, str]) -> None:
    name = stock["flag"].removeprefix("--")
    if name == "help":
        assert parse(["-h"], FLAGS).help and parse(["--help"], FLAGS).help
        return
    flag = FLAGS[name]
    assert flag.kind.name == stock["type"]
    assert flag.default == (stock["default"] or "").strip('"')
    assert (f"-{flag.short}" if flag.short else None) == stock["short"]


def test_no_flag_is_neither_stocks_nor_known_to_be_ours() -> None:
    assert FLAGS.keys() - {flag["flag"].removeprefix("--") for flag in STOCK} == OWN | DEPRECATED
    assert sum(len(group) for group in GROUPS.values()) == len(FLAGS), "a name twice"


# A mode left empty becomes ClusterCIDR once everything is known, in the file as on the command line.
@pytest.mark.parametrize("flag", [f for f in FLAGS.values() if f.path and f.name != "detect-local-mode"])
def test_a_flags_default_is_its_fields(flag: Any) -> None:
    value: Any = Settings()
    for name in flag.path.split("."):
        value = getattr(value, name)
    assert flag.default_value == value


def test_help_shows_every_flag_and_fits() -> None:
    text = run_help()
    for flag in FLAGS.values():
        assert f"--{flag.name}" in text
    for group in text.split("\n\n"):
        assert len(group.splitlines()) <= 24, "a group is longer than a screen"
    assert max(map(len, text.splitlines())) <= 120
    marked = {f.name for f in FLAGS.values() if f.help.startswith("*")}
    assert marked == FLAGS.keys() - BESIDE_A_FILE


# ---------------------------------------------------------------------- the syntax


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--cleanup"], {"cleanup": True}),
        (["--cleanup=false"], {"cleanup": False}),
        (["--cleanup=T"], {"cleanup": True}),
        (["--cleanup=0"], {"cleanup": False}),
        (["-v=2"], {"v": 2}),
        (["-v", "2"], {"v": 2}),
        (["-v2"], {"v": 2}),
        (["--v=10"], {"v": 10}),
        (["--v", "3"], {"v": 3}),
        (["--config", "x"], {"config": "x"}),
        (["--config="], {"config": ""}),
        (["--config", "--cleanup"], {"config": "--cleanup"}),
        (["--config=a=b"], {"config": "a=b"}),
        (["--cluster_cidr=10.0.0.0/8"], {"cluster-cidr": "10.0.0.0/8"}),
        (["--iptables-sync-period=1m30s"], {"iptables-sync-period": 90.0}),
        (["--conntrack-min", "0x10"], {"conntrack-min": 16}),
        (["--conntrack-min=010"], {"conntrack-min": 8}),
        (["--conntrack-min=1_000"], {"conntrack-min": 1000}),
        (["--oom-score-adj", "-5"], {"oom-score-adj": -5}),
        (["--oom-score-adj=1", "--oom-score-adj=2"], {"oom-score-adj": 2}),
        (["--kube-api-qps=2.5"], {"kube-api-qps": 2.5}),
        (["--nodeport-addresses=primary,10.0.0.0/8"], {"nodeport-addresses": ("primary", "10.0.0.0/8")}),
        (["--nodeport-addresses=a", "--nodeport-addresses", "b,c"], {"nodeport-addresses": ("a", "b", "c")}),
        (["--nodeport-addresses="], {"nodeport-addresses": ()}),
        (["--feature-gates=A=true, B = false,"], {"feature-gates": {"A": True, "B": False}}),
        (["--feature-gates=A=1", "--feature-gates=B=f"], {"feature-gates": {"A": True, "B": False}}),
        (["--vmodule=a=1,b/*=2"], {"vmodule": (VModule("a", 1), VModule("b/*", 2))}),
        (["--bind-address="], {"bind-address": ""}),
        (["--healthz-bind-address=::1"], {"healthz-bind-address": "::1"}),
        (["--healthz-bind-address=[::1]:1"], {"healthz-bind-address": "[::1]:1"}),
        (["--log-text-info-buffer-size", "4Ki"], {"log-text-info-buffer-size": "4Ki"}),
        (["--version"], {"version": "true"}),
        (["--version=raw"], {"version": "raw"}),
        (["--version=false"], {"version": ""}),
        (["--version=v1.2.3"], {"version": "v1.2.3"}),
        (["--backend=legacy"], {"backend": "legacy"}),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",
)
def test_syntax(argv: list[str], values: dict[str, object]) -> None:
    parsed = parse(argv, FLAGS)
    assert parsed.values == values
    assert parsed.words == []


SHOWN = {
    "cleanup": "true",
    "config-sync-period": "1m30s",
    "feature-gates": "AllAlpha=false,LoggingAlphaOptions=true",
    "kube-api-qps": "2.5",
    "nodeport-addresses": "[primary,10.0.0.0/8]",
    "vmodule": "api*=4",
    "v": "3",
    "bind-address": "0.0.0.0",
    "iptables-min-sync-period": "1s",
    "iptables-localhost-nodeports": "true",
    "master": "",
    "version": "false",
}


def test_flags_are_shown_as_they_are_written() -> None:
    argv = [
        "--cleanup",
        "--config-sync-period=90s",
        "--feature-gates=LoggingAlphaOptions=1,AllAlpha=f",
        "--kube-api-qps=2.50",
        "--nodeport-addresses=primary,10.0.0.0/8",
        "--vmodule=api*=4",
        "-v3",
    ]
    found = shown(parse(argv, FLAGS), FLAGS)
    assert found.keys() == FLAGS.keys()
    assert {name: found[name] for name in SHOWN} == SHOWN


def test_a_switch_never_takes_the_next_word() -> None:
    assert parse(["--cleanup", "false", "-", "--", "-v", "x"], FLAGS) == Parsed(
        {"cleanup": True}, ["false", "-", "-v", "x"]
    )


def test_help_hides_what_follows_but_not_what_came_before() -> None:
    assert parse(["-h", "--nope"], FLAGS).help
    with pytest.raises(FlagError):
        parse(["--nope", "-h"], FLAGS)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--nope=1"], "unknown flag: --nope"),
        (["--clean"], "unknown flag: --clean"),
        (["--no-cleanup"], "unknown flag: --no-cleanup"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-config=x"], "unknown shorthand flag: 'c' in -config=x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---v"], "bad flag syntax: ---v"),
        (["--config"], "flag needs an argument: --config"),
        (["-v"], "flag needs an argument: 'v' in -v"),
        (
            ["--cleanup=yes"],
            'invalid argument "yes" for "--cleanup" flag: strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        (
            ["-v=loud"],
            'invalid argument "loud" for "-v, --v" flag: strconv.ParseUint: parsing "loud": invalid syntax',
        ),
        (["-v=-1"], 'strconv.ParseUint: parsing "-1": invalid syntax'),
        (["-v=2147483648"], "value out of range"),
        (["-v=" + "9" * 5000], "value out of range"),
        (
            ["--conntrack-min=many"],
            'invalid argument "many" for "--conntrack-min" flag: strconv.ParseInt: parsing "many": invalid syntax',
        ),
        (["--conntrack-min=2147483648"], "value out of range"),
        (["--conntrack-min=1.5"], "invalid syntax"),
        (["--conntrack-min= 1"], "invalid syntax"),
        (["--conntrack-min="], "invalid syntax"),
        (["--kube-api-qps=fast"], 'strconv.ParseFloat: parsing "fast": invalid syntax'),
        (["--kube-api-qps=1e39"], "value out of range"),
        (["--kube-api-qps=nan"], "must be a finite number"),
        (
            ["--iptables-sync-period=30"],
            'for "--iptables-sync-period" flag: time: missing unit in duration "30"',
        ),
        (["--iptables-sync-period=30 seconds"], 'time: unknown unit " seconds" in duration "30 seconds"'),
        (["--iptables-sync-period=soon"], 'time: invalid duration "soon"'),
        (["--feature-gates=A"], 'for "--feature-gates" flag: malformed pair, expect string=bool'),
        (["--feature-gates=A=maybe"], "invalid value of A: maybe, err: strconv.ParseBool"),
        (["--bind-address=1.2.3"], '"1.2.3" is not a valid IP address'),
        (["--healthz-bind-address=:10256"], '"" is not a valid IP address'),
        (["--healthz-bind-address=nonsense"], "is not in a valid format (ip or ip:port)"),
        (["--healthz-bind-address=1.2.3.4:x"], '"x" is not a valid number'),
        (["--healthz-bind-address=1.2.3.4:70000"], '"70000" is not a valid number'),
        (["--healthz-bind-address=fe80::zz:1"], "too many colons"),
        (["--vmodule=a"], '"a" does not have the pattern=N format'),
        (["--vmodule=a=b=1"], '"a=b=1" does not have the pattern=N format'),
        (["--vmodule=a=x"], 'parsing verbosity in "a=x"'),
        (['--nodeport-addresses="a'], "parse error on line 1"),
        (["--log-json-info-buffer-size=lots"], "quantities must be a number"),
        (["--version=soon"], 'invalid argument "soon" for "--version" flag'),
        (["--backend=ebpf"], "must be one of nft, legacy"),
        (["--config\x1b[2J=x"], "unknown flag"),
        (["-v=\x1b[2J"], "\\u001b"),
    ],
    ids=lambda case: " ".join(case)[:60] if isinstance(case, list) else "",
)
def test_what_is_refused(argv: list[str], said: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(argv, FLAGS)
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)


# ---------------------------------------------------------------------- flags and file


def test_no_flags_are_the_defaults() -> None:
    assert settings() == Settings()
    assert settings("--bind-address=", "--healthz-bind-address=", "--config=", "--hostname-override=") == Settings()


def test_flags_set_their_fields() -> None:
    s = settings(
        "--cluster-cidr=10.0.0.0/8,fd00::/48", "--proxy-mode=iptables", "--masquerade-all", "--iptables-sync-period=1m",
        "--iptables-min-sync-period=0s", "--kubeconfig=/k", "--hostname-override= Node-1 ",
        "--conntrack-max-per-core=0",
        "--iptables-localhost-nodeports=false", "--nodeport-addresses=primary", "--detect-local-mode=",
        "--profiling", "--feature-gates=LoggingAlphaOptions=true", "--log-text-split-stream",
    )  # fmt: skip
    assert (s.cluster_cidr, s.mode, s.hostname_override) == ("10.0.0.0/8,fd00::/48", "iptables", "node-1")
    assert (s.iptables.masquerade_all, s.iptables.localhost_node_ports) == (True, False)
    # On the command line zero means zero; in a file it would mean the default.
    assert (s.iptables.sync_period, s.iptables.min_sync_period, s.conntrack.max_per_core) == (60, 0, 0)
    assert (s.client_connection.kubeconfig, s.node_port_addresses, s.enable_profiling) == ("/k", ("primary",), True)
    assert s.detect_local_mode == "ClusterCIDR"
    assert s.logging.options.text.split_stream


@pytest.mark.parametrize(
    ("argv", "healthz"),
    [
        ([], "0.0.0.0:10256"),
        (["--healthz-port=1"], "0.0.0.0:10256"),
        (["--healthz-port=0"], ""),
        (["--healthz-bind-address=1.2.3.4"], "1.2.3.4:10256"),
        (["--healthz-bind-address=1.2.3.4", "--healthz-port=1"], "1.2.3.4:1"),
        (["--healthz-bind-address=1.2.3.4:5", "--healthz-port=1"], "1.2.3.4:5"),
        (["--healthz-bind-address=::1", "--healthz-port=1"], "[::1]:1"),
    ],
)
def test_deprecated_ports_are_obeyed_as_stock_does(argv: list[str], healthz: str) -> None:
    resolved = resolve(parse(argv, FLAGS))
    assert resolved.settings.healthz_bind_address == healthz
    warned = any("--healthz-port is deprecated: use --healthz-bind-address" in w for w in resolved.warnings)
    assert warned is any("port=" in word for word in argv)


def test_beside_a_file_most_flags_are_ignored_and_named(tmp_path: Path) -> None:
    file = tmp_path / "config.conf"
    file.write_text(
        HEAD + "hostnameOverride: a\nclusterCIDR: 10.0.0.0/8\n"
        "logging: {verbosity: 1, vmodule: [{filePattern: a, verbosity: 1}]}\n"
    )
    argv = [
        "--config", str(file), "--hostname-override=B", "--cluster-cidr=10.1.0.0/16", "--masquerade-all=false",
        "--kubeconfig=/k", "--master=https://m", "-v=4", "--vmodule=b=2", "--backend=nft",
    ]  # fmt: skip
    resolved = resolve(parse(argv, FLAGS))
    s = resolved.settings
    assert (s.hostname_override, s.cluster_cidr, s.client_connection.kubeconfig) == ("b", "10.0.0.0/8", "")
    assert s.logging.verbosity == 4
    assert s.logging.vmodule == (VModule("b", 2), VModule("a", 1))  # type: ignore[arg-type]
    assert [w for w in resolved.warnings if "--config" in w] == [
        "--config is given: ignored --cluster-cidr, --kubeconfig, --masquerade-all"
    ]
    assert resolved.file is not None and resolved.file.content == file.read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--cleanup", "--init-only"], "--cleanup removes what --init-only prepares for"),
        (["--once"], "--once needs --manifests"),
        (["--manifests=.", "--master=https://m"], "--master names one"),
        (["--manifests=.", "--kubeconfig=/k"], "--kubeconfig names one"),
        (["--hostname-override=  "], "--hostname-override is blank"),
    ],
)
def test_contradictions(argv: list[str], said: str) -> None:
    with pytest.raises(FlagError, match=said):
        settings(*argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--proxy-mode=ipvs"],
            'mode: Invalid value: "ipvs": ferrule implements iptables mode only: set mode: iptables',
        ),
        (["--proxy-mode=nftables"], "ferrule implements iptables mode only"),
        (["--proxy-mode=userspace"], "must be iptables or blank"),
        (["--iptables-masquerade-bit=32"], "iptables.masqueradeBit: Invalid value: 32"),
        (["--iptables-sync-period=0"], 'iptables.syncPeriod: Invalid value: "0s": must be greater than 0'),
        (["--iptables-min-sync-period=1h"], "must be greater than or equal to iptables.minSyncPeriod"),
        (["--config-sync-period=0s"], "configSyncPeriod"),
        (["--oom-score-adj=2000"], "oomScoreAdj"),
        (["--cluster-cidr=10.0.0.0/33"], "clusterCIDR[0]"),
        (["--detect-local-mode=Magic"], "detectLocalMode: Unsupported value"),
        (["--detect-local-mode=BridgeInterface"], "detectLocal.bridgeInterface"),
        (["--nodeport-addresses=primary,primary"], "nodePortAddresses[1]: Duplicate value"),
        (["--feature-gates=Nope=true"], "unrecognized feature gate: Nope"),
        (["--logging-format=xml"], 'logging.format: Invalid value: "xml"'),
        (["--logging-format=json", "--vmodule=a=1"], "only supported for text log format"),
        (["--log-flush-frequency=0"], "logging.flushFrequency"),
        (["--log-text-split-stream"], "needs featureGates.LoggingAlphaOptions: true"),
        (["--log-json-info-buffer-size=1k"], "needs featureGates.LoggingAlphaOptions: true"),
        (["--kube-api-burst=-1"], "clientConnection.burst"),
        (["--conntrack-min=-1"], "conntrack.min"),
        (["--conntrack-udp-timeout=-1s"], "conntrack.udpTimeout"),
        (["--healthz-bind-address=1.2.3.4:0"], "healthzBindAddress"),
        (["--show-hidden-metrics-for-version=all"], "showHiddenMetricsForVersion"),
        (["--config=/nonexistent/config.conf"], "cannot read the configuration /nonexistent/config.conf"),
        (["--config=/"], "cannot read the configuration /"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",
)
def test_values_that_cannot_be(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*argv)
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("--proxy-mode=ipvs", "--oom-score-adj=2000", "--cluster-cidr=x", "--feature-gates=Nope=true")
    assert len(caught.value.problems) == 4
