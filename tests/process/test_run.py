"""Tests `ferrule run`: live edits, invalid files, signals, a second instance, a crash during a write."""

from __future__ import annotations

import fcntl
import signal
import sys
from pathlib import Path

import pytest

from ferrule.testing.daemon import Ferrule, command
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import ended, eventually
from tests.objects import NODE, NODE_PORT, V4, endpoint, endpoint_slice, service
from tests.process.ferrule import once, rules, strip, write

pytestmark = pytest.mark.netns


def pod(last: int, **state: bool) -> dict[str, object]:
    return endpoint(f"10.128.1.{last}", **state)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "manifests", "web.yaml", [NODE, service(), endpoint_slice([pod(10), pod(11)])])
    return tmp_path / "manifests"


def targets(netns: NetNs, backend: str) -> set[str]:
    return {line.rsplit(" ", 1)[1] for line in rules(netns, backend).splitlines() if "--to-destination" in line}


def test_edits_reach_the_kernel_live(netns: NetNs, folder: Path, backend: str) -> None:
    with Ferrule(netns, folder, "--backend", backend) as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        assert targets(netns, backend) == {"10.128.1.10:8080", "10.128.1.11:8080"}
        mark = len(daemon.log)
        write(folder, "web.yaml", [NODE, service(), endpoint_slice([pod(10), pod(12), pod(13, ready=False)])])
        line = daemon.wait_for('"Synced"', "ipv4", after=mark)
        assert targets(netns, backend) == {"10.128.1.10:8080", "10.128.1.12:8080"}
        # One endpoint replaced: its chain, the old one's deletion, the balancing chain; nothing else.
        assert "chainsWritten=2 chainsDeleted=1" in line
        assert "msSinceChange=" in line
        mark = len(daemon.log)
        (folder / "web.yaml").unlink()
        daemon.wait_for('"Synced"', "ipv4", after=mark)
        assert targets(netns, backend) == set()
        assert V4 not in rules(netns, backend)


def test_a_manifest_path_that_does_not_exist_changes_nothing(netns: NetNs, folder: Path) -> None:
    setting = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"
    before = netns.run("cat", setting).stdout
    done = once(netns, folder / "nowhere", "--conntrack-tcp-timeout-close-wait=77s")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ferrule: {folder / 'nowhere'}: no such file or folder"
    assert netns.run("cat", setting).stdout == before
    once(netns, folder, "--conntrack-tcp-timeout-close-wait=77s")
    assert netns.run("cat", setting).stdout == "77\n", "this test could not fail"


def test_a_burst_of_edits_is_one_sync(netns: NetNs, folder: Path) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        mark = len(daemon.log)
        # Stopped meanwhile, so that a slow machine makes no series of it.
        daemon.child.send_signal(signal.SIGSTOP)
        for n in range(20):
            write(
                folder,
                f"more-{n:02}.yaml",
                [service(f"s{n}", clusterIP=f"10.96.1.{n + 1}", clusterIPs=[f"10.96.1.{n + 1}"], ipFamilies=["IPv4"])],
            )
        daemon.child.send_signal(signal.SIGCONT)
        eventually(lambda: all(f"10.96.1.{n + 1}/32" in rules(netns, "nft") for n in range(20)))
        # Far fewer syncs than files (two, where the folder is read while the first events come).
        assert sum('"Synced"' in line for line in daemon.log[mark:]) <= 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("kind: Service\nmetadata: [unclosed\n", "not YAML"),
        ("kind: Service\nmetadata:\n  name: web\n", "half-written"),
        ("kind: Service\n\tmetadata: {}\n", "not YAML"),
        ("a: 1\na: 2\n", "given twice"),
        ("- 1\n- 2\n", "is not an object but a number"),
        ("metadata:\n  name: x\n", "kind"),
        ("kind: Service\nmetadata: {}\nspec: {}\n", "metadata.name"),
        ("\x00\x01", "not YAML"),
    ],
    ids=["unclosed", "half", "tab", "twice", "numbers", "kindless", "nameless", "binary"],
)
def test_an_invalid_file_keeps_its_last_good_state(netns: NetNs, folder: Path, content: str, said: str) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        before = targets(netns, "nft")
        (folder / "web.yaml").write_text(content)
        line = daemon.wait_for('"Bad input"', "web.yaml")
        assert said in line
        assert "last good state" in line
        # Other objects are not affected.
        mark = len(daemon.log)
        write(
            folder,
            "other.yaml",
            [service("other", clusterIP="10.96.0.99", clusterIPs=["10.96.0.99"], ipFamilies=["IPv4"])],
        )
        daemon.wait_for('"Synced"', "ipv4", after=mark)
        assert targets(netns, "nft") == before
        assert "10.96.0.99/32" in rules(netns, "nft")
        # Once corrected, it takes effect again and the complaint is removed.
        mark = len(daemon.log)
        write(folder, "web.yaml", [NODE, service(), endpoint_slice([pod(20)])])
        daemon.wait_for('"Bad input is gone"', after=mark)
        eventually(lambda: targets(netns, "nft") == {"10.128.1.20:8080"})


def test_one_invalid_object_is_reported_and_affects_no_other(netns: NetNs, folder: Path) -> None:
    bad = service(
        "bad", clusterIP="10.96.0.66", clusterIPs=["10.96.0.66"], ipFamilies=["IPv4"], ports=[{"port": 70000}]
    )
    write(folder, "bad.yaml", [bad])
    done = once(netns, folder, "--backend", "nft")
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if '"Bad input"' in line)
    for words in (
        'object="Service shop/bad"',
        'field="spec.ports[0].port"',
        'value="70000"',
        'file="bad.yaml, document 1"',
    ):
        assert words in line
    assert len(targets(netns, "nft")) == 2


def without_dates(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_signals_end_it_and_leave_the_rules(netns: NetNs, folder: Path, number: int) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        before = rules(netns, "nft")
        assert daemon.stop(number) == 0
        assert "the rules stay" in daemon.log[-1]
        assert without_dates(rules(netns, "nft")) == without_dates(before)


def test_objects_that_make_no_rules_are_noted_once(netns: NetNs, folder: Path) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        write(folder, "pod.yaml", [{"kind": "Pod", "metadata": {"name": "x"}}])
        write(
            folder,
            "more.yaml",
            [service("more", clusterIP="10.96.0.77", clusterIPs=["10.96.0.77"], ipFamilies=["IPv4"])],
        )
        daemon.wait_for("kind Pod makes no rules: ignored", "pod.yaml")
        eventually(lambda: "10.96.0.77/32" in rules(netns, "nft"))
        write(folder, "pod.yaml", [{"kind": "Pod", "metadata": {"name": "y"}}])
        write(folder, "more.yaml", [])
        eventually(lambda: "10.96.0.77/32" not in rules(netns, "nft"))
        assert sum("kind Pod" in line for line in daemon.log) == 1


def test_once_tells_by_its_exit_code(netns: NetNs, folder: Path) -> None:
    assert once(netns, folder, "--backend", "nft").returncode == 0
    again = once(netns, folder, "--backend", "nft")
    assert again.returncode == 0
    assert '"Synced"' not in again.stderr
    assert again.stderr.count("Synced: no change needed") == 2, "nothing is written, and it says so"


OWN_LOCK = ': >> /run/xtables.lock; mount --bind "$1" /run/xtables.lock; shift; exec "$@"'
"""Runs a command with a private table lock, because the real one is global to the machine."""


def test_a_table_lock_that_is_never_released_is_said(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    argv = ("unshare", "-m", "sh", "-ec", OWN_LOCK, "sh", str(path), *command(folder, "--once", "--backend", "legacy"))
    with path.open("w") as lock:
        assert netns.run(*argv, check=False).returncode == 0, "the case shows nothing"
        fcntl.flock(lock, fcntl.LOCK_EX)
        write(folder, "web.yaml", [NODE, service(), endpoint_slice([pod(12)])])
        locked = netns.run(*argv, check=False)
        assert locked.returncode == 1
        assert "lock failure" in locked.stderr


def test_a_second_instance_says_so_and_ends(netns: NetNs, folder: Path) -> None:
    with Ferrule(netns, folder, "--backend", "nft") as first:
        first.wait_for('"Synced"', "ipv4")
        second = once(netns, folder, "--backend", "nft")
        assert second.returncode == 1
        assert f"another ferrule (process {first.child.pid})" in second.stderr
        assert first.child.poll() is None
    with NetNs("elsewhere") as other:
        assert once(other, folder, "--backend", "nft").returncode == 0, "another network namespace is another node"


def test_cleanup_beside_a_running_daemon_says_that_it_writes_again(netns: NetNs, folder: Path) -> None:
    argv = (sys.executable, "-m", "ferrule", "cleanup")
    with Ferrule(netns, folder, "--backend", "nft") as daemon:
        daemon.wait_for('"Synced"', "ipv6")
        for _ in range(3):
            done = netns.run(*argv, check=False)
            assert f"warning: ferrule (process {daemon.child.pid}) is running in this network namespace" in done.stderr
            assert done.returncode == 0
        assert daemon.stop() == 0
    assert netns.run(*argv, check=False).stderr == ""


def test_a_flushed_table_is_noticed_and_written_again(netns: NetNs, folder: Path, tmp_path: Path, backend: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "iptables: {syncPeriod: 1s, minSyncPeriod: 0s}\n"
    )
    with Ferrule(netns, folder, "--backend", backend, "--config", str(config)) as daemon:
        daemon.wait_for('"Synced"', "ipv4")
        before = sorted(strip(rules(netns, backend)))
        netns.run(f"iptables-{backend}", "-w", "5", "-t", "nat", "-F")
        netns.run(f"iptables-{backend}", "-w", "5", "-t", "nat", "-X")
        daemon.wait_for("Tables flushed by another process, rewriting")
        eventually(lambda: sorted(strip(rules(netns, backend))) == before)


def test_a_small_rule_set_is_read_back_now_and_then(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    """With a shorter interval: one edited rule, which no canary shows, is found and repaired; nothing else is
    written."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "iptables: {syncPeriod: 1s, minSyncPeriod: 0s}\n"
    )
    script = (
        "import sys, ferrule.daemon.upkeep as d; d.REREAD_SECONDS = 0.5; from ferrule.cli import main;"
        f"sys.exit(main(['run', '--manifests', {str(folder)!r}, '--config', {str(config)!r}, '--backend', 'nft']))"
    )
    assert once(netns, folder, "--backend", "nft", "--config", str(config)).returncode == 0
    before = sorted(strip(rules(netns, "nft")))
    log = tmp_path / "log"
    with log.open("w") as stderr:
        child = netns.popen((sys.executable, "-c", script), stderr=stderr)
    try:
        eventually(lambda: "Synced: no change needed" in log.read_text())
        netns.run("iptables-nft", "-t", "nat", "-I", "KUBE-MARK-MASQ", "-p", "udp", "-j", "RETURN")
        eventually(lambda: '"Synced"' in log.read_text())
        assert sorted(strip(rules(netns, "nft"))) == before
    finally:
        child.terminate()
        ended(child)
    assert "Rules modified by another process" in log.read_text()
    assert "chainsWritten=1 chainsDeleted=0" in log.read_text()


def test_the_other_backends_rules_are_removed_after_ours_stand(netns: NetNs, folder: Path) -> None:
    assert once(netns, folder, "--backend", "legacy").returncode == 0
    done = once(netns, folder, "--backend", "nft")
    assert done.returncode == 0
    assert "Removed Service rules of the other backend" in done.stderr
    assert "KUBE-SVC" not in rules(netns, "legacy")
    assert len(targets(netns, "nft")) == 2


def test_the_backend_follows_kubelets_hint(netns: NetNs, folder: Path) -> None:
    netns.run("iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    done = once(netns, folder)
    assert 'backend="legacy"' in done.stderr
    assert "kubelet's hint chain" in done.stderr
    netns.run("iptables-nft", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    assert 'backend="nft"' in once(netns, folder).stderr


def test_route_localnet_follows_the_rules(netns: NetNs, folder: Path, tmp_path: Path) -> None:
    setting = ("cat", "/proc/sys/net/ipv4/conf/all/route_localnet")
    netns.run("tee", setting[1], stdin="0")  # a new namespace has what the machine's own has
    config = tmp_path / "config.yaml"
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    config.write_text(head + "iptables: {localhostNodePorts: false}\n")
    write(
        folder,
        "np.yaml",
        [
            service(
                "np",
                type="NodePort",
                nodePort=NODE_PORT,
                clusterIP="10.96.0.11",
                clusterIPs=["10.96.0.11"],
                ipFamilies=["IPv4"],
            )
        ],
    )
    once(netns, folder, "--config", str(config))
    assert netns.run(*setting).stdout.strip() == "0"
    once(netns, folder)
    assert netns.run(*setting).stdout.strip() == "1"


def test_missing_privileges_are_reported_in_one_sentence(netns: NetNs, folder: Path) -> None:
    argv = (
        "setpriv",
        "--bounding-set=-all",
        sys.executable,
        "-m",
        "ferrule",
        "run",
        "--manifests",
        str(folder),
        "--once",
    )
    done = netns.run(*argv, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "CAP_NET_ADMIN" in done.stderr


def test_a_tool_that_is_missing_is_named(netns: NetNs, folder: Path) -> None:
    script = (
        "import ferrule.process.runner as p, sys, shutil;"
        "p.resolve = lambda name: None if 'tables' in name else shutil.which(name);"
        f"from ferrule.cli import main; sys.exit(main(['run', '--once', '--manifests', {str(folder)!r}]))"
    )
    done = netns.run(sys.executable, "-c", script, check=False)
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert "apt-get install iptables" in done.stderr
