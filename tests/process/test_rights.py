"""Runs ferrule with exactly the privileges that deploy/ grants: capabilities, read-only root, read-only /proc/sys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from ferrule.testing.daemon import command
from ferrule.testing.netns import NetNs
from tests.process.ferrule import rules

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"

pytestmark = pytest.mark.netns

AS_IN_A_CONTAINER = """
mount --make-rprivate /
mount -t tmpfs none /run && touch /run/xtables.lock && mount -o remount,bind,ro /run
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
caps=$1; shift
exec setpriv --bounding-set="$caps" --inh-caps=-all --no-new-privs "$@"
"""


def granted() -> list[str]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "manifests" / "daemonset.yaml").read_text())
    (container,) = next(documents)["spec"]["template"]["spec"]["containers"]
    return [name.lower() for name in container["securityContext"]["capabilities"]["add"]]


def confined(netns: NetNs, capabilities: list[str], *argv: str) -> subprocess.CompletedProcess[str]:
    bounding = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return netns.run("unshare", "-m", "sh", "-ec", AS_IN_A_CONTAINER, "sh", bounding, *argv, check=False)


def test_the_daemonsets_rights_are_enough(netns: NetNs, backend: str) -> None:
    done = confined(netns, granted(), *command(SHOP, "--once", "--backend", backend))
    assert done.returncode == 0, done.stderr
    assert "Read-only file system" in done.stderr, "the test is about a /proc/sys that is"
    assert ":KUBE-SERVICES" in rules(netns, backend)


def test_after_init_only_there_is_nothing_left_to_complain_of(netns: NetNs, tmp_path: Path) -> None:
    config = tmp_path / "config.conf"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
        "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 2h}\n"
    )
    arguments = command(SHOP, "--config", str(config))
    first = netns.run(*arguments, "--init-only", check=False)
    assert first.returncode == 0, first.stderr
    assert netns.run("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").stdout == "7200\n"
    assert netns.run("cat", "/proc/sys/net/ipv4/conf/all/route_localnet").stdout == "1\n"
    done = confined(netns, granted(), *arguments, "--once")
    assert done.returncode == 0, done.stderr
    assert "Kernel setting" not in done.stderr


def test_legacy_without_net_raw_says_so(netns: NetNs) -> None:
    """Shows why the DaemonSet requests NET_RAW. With nft alone NET_ADMIN would be sufficient."""
    without = [name for name in granted() if name != "net_raw"]
    assert without == ["net_admin"]
    assert confined(netns, without, *command(SHOP, "--once", "--backend", "nft")).returncode == 0
    done = confined(netns, without, *command(SHOP, "--once", "--backend", "legacy"))
    assert done.returncode == 1
    assert "no permission to change rules here" in done.stderr
