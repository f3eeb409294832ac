"""Tests the host set-up: required settings, writes, and refusals of the host."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ferrule.config.schema import Conntrack, IPTables, Seconds, Settings
from ferrule.host import kernel_settings

NETFILTER = "proc/sys/net/netfilter/nf_conntrack_"
MAX = NETFILTER + "max"
ESTABLISHED = NETFILTER + "tcp_timeout_established"
CLOSE_WAIT = NETFILTER + "tcp_timeout_close_wait"
LIBERAL = NETFILTER + "tcp_be_liberal"
UDP = NETFILTER + "udp_timeout"
UDP_STREAM = NETFILTER + "udp_timeout_stream"
ROUTE_LOCALNET = "proc/sys/net/ipv4/conf/all/route_localnet"
SCORE = "proc/self/oom_score_adj"

FRESH = {
    kernel_settings.ONLINE_CPUS: "0-3",
    kernel_settings.HASHSIZE: "16384",
    MAX: "65536",
    ESTABLISHED: "432000",
    CLOSE_WAIT: "60",
    LIBERAL: "0",
    UDP: "30",
    UDP_STREAM: "120",
    ROUTE_LOCALNET: "0",
    SCORE: "0",
}
"""The kernel's defaults on a node with four cores."""


def make(root: Path, values: dict[str, str]) -> Path:
    for name, value in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value + "\n")
    return root


def values(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in FRESH if (root / name).is_file()}


@pytest.mark.parametrize(
    ("per_core", "least", "cores", "expected"),
    [
        (32768, 131072, 2, 131072),  # the floor
        (32768, 131072, 4, 131072),
        (32768, 131072, 5, 163840),  # cores count
        (32768, 131072, 32, 1048576),
        (32768, 131072, 33, 1048576),  # the limit
        (32768, 131072, 256, 1048576),
        (0, 131072, 8, 0),  # off, with its floor
        (1, 0, 3, 3),
        (32768, 2_000_000, 4, 2_000_000),  # a configured minimum is not multiplied
        (32768, 2_000_000, 64, 1048576),  # as kube-proxy: the limit first
    ],
)
def test_size_of_the_conntrack_table(per_core: int, least: int, cores: int, expected: int) -> None:
    assert kernel_settings.conntrack_max(Conntrack(max_per_core=per_core, min=least), cores) == expected


def test_a_fresh_node_gets_kube_proxys_values(tmp_path: Path) -> None:
    root = make(tmp_path, FRESH)
    report = kernel_settings.prepare(Settings(), root)
    assert values(root) == FRESH | {
        MAX: "131072",
        kernel_settings.HASHSIZE: "32768",
        ESTABLISHED: "86400",
        CLOSE_WAIT: "3600",
        SCORE: "-999",
    }
    assert report.faults == report.notes == ()
    assert [str(change) for change in report.changed] == [
        "sysctl net.netfilter.nf_conntrack_max: 65536 -> 131072",
        "/sys/module/nf_conntrack/parameters/hashsize: 16384 -> 32768",
        "sysctl net.netfilter.nf_conntrack_tcp_timeout_established: 432000 -> 86400",
        "sysctl net.netfilter.nf_conntrack_tcp_timeout_close_wait: 60 -> 3600",
    ]


def test_the_second_time_nothing_is_written(tmp_path: Path) -> None:
    root = make(tmp_path, FRESH)
    kernel_settings.prepare(Settings(), root)
    before = {name: (root / name).stat().st_mtime_ns for name in FRESH}
    assert kernel_settings.prepare(Settings(), root) == kernel_settings.HostReport()
    assert {name: (root / name).stat().st_mtime_ns for name in FRESH} == before


def test_what_is_larger_stays(tmp_path: Path) -> None:
    """Size and buckets are global to the host: larger values are another program's setting."""
    larger = FRESH | {MAX: "5000000", kernel_settings.HASHSIZE: "400000"}
    root = make(tmp_path, larger)
    kernel_settings.prepare(Settings(), root)
    assert (values(root)[MAX], values(root)[kernel_settings.HASHSIZE]) == ("5000000", "400000")


def test_time_outs_are_exact_and_zero_leaves_them(tmp_path: Path) -> None:
    settings = Settings(
        conntrack=Conntrack(
            max_per_core=0,
            tcp_established_timeout=Seconds(0),
            tcp_close_wait_timeout=Seconds(7200),
            udp_timeout=Seconds(0.25),
            udp_stream_timeout=Seconds(90.9),
            tcp_be_liberal=True,
        )
    )
    root = make(tmp_path, FRESH)
    kernel_settings.prepare(settings, root)
    assert values(root) == FRESH | {CLOSE_WAIT: "7200", UDP: "1", UDP_STREAM: "90", LIBERAL: "1", SCORE: "-999"}


def test_liberal_tracking_is_never_reset(tmp_path: Path) -> None:
    root = make(tmp_path, FRESH | {LIBERAL: "1"})
    kernel_settings.prepare(Settings(), root)
    assert values(root)[LIBERAL] == "1"


@pytest.mark.parametrize(
    ("enabled", "addresses", "expected"),
    [
        (True, (), True),
        (True, ("0.0.0.0/0",), True),
        (True, ("127.5.0.0/16",), True),
        (True, ("10.0.0.0/8", "127.0.0.1/32"), True),
        (True, ("10.0.0.0/8",), False),
        (True, ("primary",), False),
        (True, ("primary", "localhost"), True),
        (True, ("all",), True),
        (True, ("::/0",), True),  # says nothing about IPv4
        (True, ("::1/128", "192.168.0.0/16"), False),
        (False, (), False),
    ],
)
def test_route_localnet_is_set_where_node_ports_answer_on_loopback(
    enabled: bool, addresses: tuple[str, ...], expected: bool, tmp_path: Path
) -> None:
    settings = Settings(iptables=IPTables(localhost_node_ports=enabled), node_port_addresses=addresses)
    root = make(tmp_path, FRESH)
    kernel_settings.prepare(settings, root, route_localnet=True)
    assert values(root)[ROUTE_LOCALNET] == str(int(expected))


def test_a_normal_start_does_not_set_route_localnet(tmp_path: Path) -> None:
    root = make(tmp_path, FRESH)
    kernel_settings.prepare(Settings(), root)
    assert values(root)[ROUTE_LOCALNET] == "0"


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates /proc/sys and /sys of a container, because root may write any file regardless of its mode."""
    real = os.open

    def refuse(path: Path, flags: int, *rest: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)


def test_a_sufficient_value_on_read_only_proc_is_not_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path, FRESH)
    kernel_settings.prepare(Settings(), root, route_localnet=True)
    read_only(monkeypatch)
    assert kernel_settings.prepare(Settings(), root, route_localnet=True) == kernel_settings.HostReport()


def test_read_only_and_not_good_enough_names_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path, FRESH)
    read_only(monkeypatch)
    report = kernel_settings.prepare(Settings(), root)
    refused = "and cannot be set: Read-only file system"
    assert report.changed == ()
    assert report.faults == (
        f"sysctl net.netfilter.nf_conntrack_max is 65536, should be 131072, {refused}",
        f"/sys/module/nf_conntrack/parameters/hashsize is 16384, should be 32768, {refused}",
        f"sysctl net.netfilter.nf_conntrack_tcp_timeout_established is 432000, should be 86400, {refused}",
        f"sysctl net.netfilter.nf_conntrack_tcp_timeout_close_wait is 60, should be 3600, {refused}",
    )
    assert report.notes == (f"oom_score_adj of this process is 0, should be -999, {refused}",)
    assert values(root) == FRESH


def test_one_refusal_does_not_keep_the_rest_from_being_set(tmp_path: Path) -> None:
    root = make(tmp_path, {name: value for name, value in FRESH.items() if name != MAX})
    report = kernel_settings.prepare(Settings(), root)
    assert report.faults == (
        "sysctl net.netfilter.nf_conntrack_max is unknown, should be 131072, and cannot be set: "
        "No such file or directory",
    )
    assert not (root / MAX).exists(), "a setting that is not there is not made up"
    assert values(root)[CLOSE_WAIT] == "3600"


def test_a_host_without_conntrack_or_cores_raises_nothing(tmp_path: Path) -> None:
    settings = replace(Settings(), oom_score_adj=0)
    assert len(kernel_settings.prepare(settings, make(tmp_path, {SCORE: "0"})).faults) == 4


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 1), ("0-3", 4), ("0-3,8,10-11\n", 7), ("0,0-1", 2), ("0-1023", 1024)]
)
def test_cpu_lists(text: str, expected: int) -> None:
    assert kernel_settings.parse_cpu_list(text) == expected


def test_cores_are_the_nodes_not_the_processs(tmp_path: Path) -> None:
    assert kernel_settings.cores(make(tmp_path, {kernel_settings.ONLINE_CPUS: "0-95"})) == 96


@pytest.mark.parametrize("text", ["", "many", "3-1"])
def test_where_the_kernel_does_not_tell_the_process_counts(text: str, tmp_path: Path) -> None:
    assert kernel_settings.cores(make(tmp_path, {kernel_settings.ONLINE_CPUS: text})) == len(os.sched_getaffinity(0))
