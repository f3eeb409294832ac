"""Tests KubeProxyConfiguration: ferrule accepts and rejects what kube-proxy does, and reports all faults together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.config.duration import format_duration, parse_duration
from ferrule.config.load import load_config, parse_config
from ferrule.config.schema import Settings
from ferrule.errors import ConfigError

DATA = Path(__file__).parent / "data"
VERDICTS = json.loads((DATA / "config-verdicts.json").read_text())
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

WE_REFUSE_WITH_A_REASON = {"bridge-name-too-long", "qps-negative"}
"""kube-proxy starts with these and then fails permanently."""

NOT_THIS_MODULES_BUSINESS = {"kubeconfig-missing"}
"""Credentials are validated where they are used."""


def faults(text: str, *, strict: bool = True) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config((HEAD + text).encode(), "c", strict=strict)
    return caught.value.problems


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda v: v["name"])
def test_stocks_verdict_is_ours(verdict: dict[str, object]) -> None:
    name = str(verdict["name"])
    expected = bool(verdict["starts"]) and name not in WE_REFUSE_WITH_A_REASON
    if name in NOT_THIS_MODULES_BUSINESS:
        expected = True
    try:
        parse_config(str(verdict["config"]).encode(), "c", strict=False)
        accepted = True
    except ConfigError as error:
        accepted = False
        assert all(problem.startswith("c: ") for problem in error.problems)
    assert accepted is expected


def test_stocks_defaults_are_ours() -> None:
    settings, warnings = parse_config((DATA / "default-config.yaml").read_bytes(), "c", strict=True)
    assert warnings == []
    assert settings == Settings(mode="iptables")


def test_strict_names_the_path_of_an_unknown_field() -> None:
    assert faults("iptables: {masqBit: 3}\nfooBar: 1\n") == [
        "c: unknown field 'iptables.masqBit'",
        "c: unknown field 'fooBar'",
    ]
    settings, warnings = parse_config((HEAD + "iptables: {masqBit: 3}\n").encode(), "c", strict=False)
    assert settings == Settings()
    assert warnings == ["unknown field 'iptables.masqBit'"]


def test_strict_names_a_repeated_field() -> None:
    assert faults("mode: iptables\nmode: iptables\n") == ["c: duplicate field 'mode'"]


def test_all_faults_at_once() -> None:
    found = faults(
        "iptables: {masqueradeBit: 32, syncPeriod: soon, masqueradeAll: 'yes'}\nclusterCIDR: 10.0.0.0/33\n"
        "nodePortAddresses: [primary, primary, 10.0.0.1]\nmode: ipvs\noomScoreAdj: 2000\n"
    )
    for words in (
        "iptables.masqueradeBit: Invalid value: 32",
        'iptables.syncPeriod: Invalid value: "soon"',
        'iptables.masqueradeAll: Invalid value: "yes"',
        'clusterCIDR[0]: Invalid value: "10.0.0.0/33"',
        'nodePortAddresses[1]: Duplicate value: "primary"',
        'nodePortAddresses[2]: Invalid value: "10.0.0.1"',
        'mode: Invalid value: "ipvs": ferrule implements iptables mode only: set mode: iptables',
        "oomScoreAdj: Invalid value: 2000",
    ):
        assert sum(words in problem for problem in found) == 1, (words, found)
    assert len(found) == 8


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "kind: [", "{}", "\xff\xfe"])
def test_files_that_are_not_a_configuration(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text.encode("latin-1"), "c", strict=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_our_own_section() -> None:
    settings, _ = parse_config((HEAD + "ferrule: {backend: legacy}\n").encode(), "c", strict=True)
    assert settings.ferrule.backend == "legacy"
    assert "ferrule.backend" in faults("ferrule: {backend: ebpf}\n")[0]
    assert (settings.ferrule.dispatch, settings.ferrule.balance) == ("auto", "auto")
    settings, _ = parse_config((HEAD + "ferrule: {dispatch: tree}\n").encode(), "c", strict=True)
    assert settings.ferrule.dispatch == "tree"
    assert "ferrule.dispatch" in faults("ferrule: {dispatch: hash}\n")[0]
    settings, _ = parse_config((HEAD + "ferrule: {balance: flat}\n").encode(), "c", strict=True)
    assert settings.ferrule.balance == "flat"
    assert "ferrule.balance" in faults("ferrule: {balance: even}\n")[0]


def test_ways_to_write_on_nft() -> None:
    settings, _ = parse_config((HEAD + "ferrule: {nftWrites: tool}\n").encode(), "c", strict=True)
    assert settings.ferrule.nft_writes == "tool"
    (fault,) = faults("ferrule: {nftWrites: maybe}\n")
    assert fault.endswith('ferrule.nftWrites: Invalid value: "maybe": must be one of netlink, tool')


def test_first_services_are_checked_one_by_one() -> None:
    settings, _ = parse_config((HEAD + "ferrule: {firstServices: [dns/dns]}\n").encode(), "c", strict=True)
    assert settings.ferrule.first_services == ("dns/dns",)
    settings, _ = parse_config((HEAD + "ferrule: {firstServices: []}\n").encode(), "c", strict=True)
    assert settings.ferrule.first_services == ()
    for wrong in ("kube-dns", "a/b/c", "/x", "A/b", "a/"):
        (fault,) = faults(f'ferrule: {{firstServices: [default/kubernetes, "{wrong}"]}}\n')
        assert f'ferrule.firstServices[1]: Invalid value: "{wrong}": must be namespace/name' in fault


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1m30s", 90),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        ("-1s", -1),
        ("+2h", 7200),
        ("1h0m0s", 3600),
        (".5s", 0.5),
        ("10us", 1e-5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-", "s", "1", "1x", "1s2", "one", "1 s", "1.2.3s", "--1s"])
def test_texts_that_are_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(-(10**15), 10**15))
def test_durations_round_trip(nanos: int) -> None:
    assert parse_duration(format_duration(nanos / 10**9)) == pytest.approx(nanos / 10**9, abs=2e-9, rel=1e-12)


def test_durations_are_printed_as_go_does() -> None:
    assert [format_duration(s) for s in (0, 1, 90, 3600, 86400, 0.3, 1.5, -60, 0.00001)] == [
        "0s", "1s", "1m30s", "1h0m0s", "24h0m0s", "300ms", "1.5s", "-1m0s", "10µs",
    ]  # fmt: skip
