"""Traffic continues while rules change, and while ferrule is killed and started."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferrule.testing.daemon import Ferrule
from ferrule.testing.lab import NODE_IPS, Lab, finish
from ferrule.testing.netns import small_transactions_only
from ferrule.testing.waiting import eventually
from tests.objects import NODE, NODE_PORT, V4, endpoint, endpoint_slice, service
from tests.process.ferrule import write

pytestmark = pytest.mark.netns

RATE = "60"
"""New connections a second, from each of two clients."""
MORE = 15
"""Connections or exchanges after each change."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(local=("a", "b", "c")) as built:
        yield built


def put(folder: Path, lab: Lab, names: str, **spec: object) -> None:
    endpoints = [endpoint(lab.pod_ip(n)) for n in names.split()]
    write(folder, "web.yaml", [NODE, service(type="NodePort", nodePort=NODE_PORT, **spec), endpoint_slice(endpoints)])


def wait_for_sync(daemon: Ferrule) -> None:
    daemon.wait_for('"Starting ferrule"')
    daemon.wait_for('"Synced"', "ipv4")


def done(client: subprocess.Popen[str]) -> int:
    """How many exchanges or connections it counts until now."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("?\n")
    client.stdin.flush()
    line = client.stdout.readline()
    assert line.strip().isdigit(), f"the client ended: {line}"
    return int(line)


def goes_on(*clients: subprocess.Popen[str]) -> None:
    """The rules of now serve some more of each client's traffic."""
    before = [done(client) for client in clients]
    for client, count in zip(clients, before, strict=True):
        eventually(lambda client=client, count=count: done(client) >= count + MORE, "its traffic stands still")  # type: ignore[misc]


def test_edits_and_restarts_break_no_connection(lab: Lab, tmp_path: Path, backend: str) -> None:
    folder, config = tmp_path / "manifests", tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "clusterCIDR: 10.128.0.0/10\niptables: {minSyncPeriod: 0s}\n"
    )
    put(folder, lab, "a b")
    extra = ("--backend", backend, "--config", str(config))
    with Ferrule(lab.node.netns, folder, *extra) as daemon:
        wait_for_sync(daemon)
        stream = lab["client"].start("stream", V4, "80")
        inside = lab["client"].start("knock", V4, "80", RATE)
        outside = lab["outside"].start("knock", NODE_IPS[0], str(NODE_PORT), RATE)
        for names, spec in (
            ("a b c", {}),
            ("c b", {}),
            ("a b c", {"sessionAffinity": "ClientIP"}),
            ("a b", {"externalTrafficPolicy": "Local"}),
            ("a b", {"ports": [{"name": "main", "port": 80, "nodePort": NODE_PORT}, {"name": "more", "port": 81}]}),
        ):
            mark = len(daemon.log)
            put(folder, lab, names, **spec)
            daemon.wait_for('"Synced"', "ipv4", after=mark)
            goes_on(stream, inside, outside)
        daemon.child.send_signal(signal.SIGKILL)
    # A start over the previous rules with a change in between, which may also change the layout of dispatch chains.
    config.write_text(config.read_text() + "ferrule: {dispatch: tree}\n")
    put(folder, lab, "b c")
    with Ferrule(lab.node.netns, folder, *extra) as daemon:
        wait_for_sync(daemon)
        goes_on(stream, inside, outside)
    verdicts = [finish(child) for child in (inside, outside)]
    kept = finish(stream)
    assert kept["broken"] is None
    for verdict in verdicts:
        assert verdict["errors"] == []


@pytest.mark.parametrize(
    ("backend", "writes"), [("nft", "netlink"), ("nft", "tool"), ("legacy", "tool")], ids=["netlink", "nft", "legacy"]
)
def test_a_mass_change_breaks_no_connection(lab: Lab, tmp_path: Path, backend: str, writes: str) -> None:
    """Adds and deletes eleven hundred Services beside one in use: with the nft tool in several transactions each
    time, and each time dispatch changes between chains and trees."""
    why_not = small_transactions_only(backend)
    if why_not:
        pytest.skip(why_not)
    folder, config = tmp_path / "manifests", tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        "clusterCIDR: 10.128.0.0/10\niptables: {minSyncPeriod: 0s}\n"
        f"ferrule: {{nftWrites: {writes}}}\n"
    )
    many = []
    for n in range(1100):
        ip = f"10.97.{n // 250}.{n % 250 + 1}"
        many.append(service(f"s{n}", clusterIP=ip, clusterIPs=[ip], ipFamilies=["IPv4"]))
        many.append(endpoint_slice([endpoint(f"10.129.{n // 250}.{n % 250 + 1}")], of=f"s{n}"))
    put(folder, lab, "a b c")
    with Ferrule(lab.node.netns, folder, "--backend", backend, "--config", str(config)) as daemon:
        wait_for_sync(daemon)
        stream = lab["client"].start("stream", V4, "80")
        inside = lab["client"].start("knock", V4, "80", RATE)
        for present in (True, False, True):
            mark = len(daemon.log)
            if present:
                (folder / ".many").write_text(json.dumps(many))
                (folder / ".many").rename(folder / "many.json")
            else:
                (folder / "many.json").unlink()
            line = daemon.wait_for('"Synced"', "ipv4", after=mark)
            assert ("blocks=1 " in line) is ((backend, writes) != ("nft", "tool"))
            rules = lab.node.netns.run(f"iptables-{backend}-save", "-t", "nat").stdout
            assert ("KUBE-SVC-DSP-" in rules) is present
            goes_on(stream, inside)
    verdict, kept = finish(inside), finish(stream)
    assert kept["broken"] is None
    assert verdict["errors"] == []
