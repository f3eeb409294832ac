"""kube-proxy takes over from ferrule with dispatch trees and vice versa, both ways more than once.

kube-proxy does not know tree chains. In nat it must remove them, because otherwise they keep jumping to Services that
it wants to delete, which the kernel refuses, and every later sync fails. In filter they stay without effect.
`tests/e2e/test_swap.py` swaps over flat rules.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferrule.testing.lab import Host
from tests.e2e.harness import objects
from tests.e2e.harness.cluster import CONTROLPLANE
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.load import Knock, mixed_load
from tests.e2e.harness.subject import HINT, Proxy, Subject, proxy_config, rules, tools_of
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

SEQUENCE = (Subject.FERRULE, Subject.STOCK, Subject.FERRULE, Subject.STOCK, Subject.FERRULE)
SERVED = 24
"""Number of Services with endpoints beside the one under load: leaves and inner chains in nat."""
CROWD = {"tree": (2, 20), "auto": (5, 260)}
"""Services without endpoints and their ports: with `auto`, always more dispatch rules than its threshold."""
SHARED = ("KUBE-FIREWALL", HINT)
"""Chains shared with kubelet: no proxy's cleanup removes them."""
FAMILIES = ("iptables", "ip6tables")
PART = re.compile(r"KUBE-SVC-DSP-[A-Z2-7]{15}")
"""Chains of dispatch trees."""


@dataclass(frozen=True)
class Stand:
    """A node with enough Services for trees, one of them under load."""

    world: World
    node: NodeHost
    client: Host
    backend: str
    dispatch: str
    config: Path
    served: list[str]
    crowd: list[str]
    knocks: list[Knock]

    def proxy(self, subject: Subject, number: int) -> Proxy:
        folder = self.world.folder / str(number)
        return Proxy(subject, self.node, self.world.cluster, folder, backend=self.backend, config=self.config)

    def table(self, name: str, family: str = "iptables") -> str:
        return self.node.netns.run(f"{family}-{self.backend}-save", "-t", name).stdout


@pytest.fixture(params=CROWD)
def stand(request: pytest.FixtureRequest, world: World, backend: str) -> Iterator[Stand]:
    node = world.node("node-1")
    client, outside = world.client(node), world.cluster.fabric.outside
    web = [world.pod("web-1", node), world.pod("web-2", node)]
    ports = [objects.port("stream"), objects.port("query", protocol="UDP")]
    main = world.service(type="NodePort", ports=ports)
    world.wait_for_endpoints(*(pod.ip for pod in web))
    served = [f"served-{i}" for i in range(SERVED)]
    for name in served:
        world.service(name, selector={"app": "web"}, type="NodePort")
    crowd = [f"crowd-{i}" for i in range(CROWD[request.param][0])]
    for name in crowd:
        add_crowd(world, name, request.param)
    kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig")
    config = proxy_config(world.folder / "config", kubeconfig, ferrule={"dispatch": request.param})
    address, node_port = main["spec"]["clusterIP"], main["spec"]["ports"][0]["nodePort"]
    knocks = [
        Knock(client, address, 80, 40),
        Knock(outside, node.ips[0], node_port, 40),
        Knock(client, address, 80, 20, "udp"),
    ]
    yield Stand(world, node, client, backend, request.param, config, served, crowd, knocks)


def add_crowd(world: World, name: str, dispatch: str) -> None:
    ports = [objects.port(f"p{i}", 1000 + i) for i in range(CROWD[dispatch][1])]
    world.service(name, selector={}, ports=ports)


def parts(saved: str) -> set[str]:
    """Returns the names of dispatch tree chains."""
    return set(re.findall(rf"^:({PART.pattern}) ", saved, re.MULTILINE))


def jumps_to_parts(saved: str) -> list[str]:
    """Returns rules outside of tree chains that jump to one."""
    return [line for line in saved.splitlines() if PART.search(line) and re.match(rf"-A (?!{PART.pattern})", line)]


def holds_trees(stand: Stand, proxy: Proxy) -> None:
    """Checks that all tree chains are in use."""
    for table in ("nat", "filter"):
        saved = stand.table(table)
        assert jumps_to_parts(saved), f"no tree in {table}:\n{proxy.running.tail()}"
        used = {
            target for line in saved.splitlines() if line[0] == "-" for target in PART.findall(line.split(" -j ")[-1])
        }
        assert parts(saved) == used, f"left over in {table}: {parts(saved) - used}"


def lives_with_changes(stand: Stand, proxy: Proxy, number: int) -> None:
    """Deletes, changes and adds Services under this proxy: each reaches the kernel, and no restore fails."""
    world = stand.world
    gone = [stand.served.pop() for _ in range(4)]
    addresses = [world.api.get("Service", name, world.namespace)["spec"]["clusterIP"] for name in gone]
    for name in gone:
        world.api.delete("Service", name, world.namespace)
    addresses.append(world.api.get("Service", stand.crowd[0], world.namespace)["spec"]["clusterIP"])
    world.api.delete("Service", stand.crowd.pop(0), world.namespace)
    stand.crowd.append(f"crowd-again-{number}")
    add_crowd(world, stand.crowd[-1], stand.dispatch)
    changed = stand.served[0]
    world.api.patch("Service", changed, world.namespace, {"spec": {"ports": [objects.port("main", 8000 + number)]}})
    fresh = f"fresh-{number}"
    asked = [
        (world.service(fresh, selector={"app": "web"})["spec"]["clusterIP"], 80),
        (world.api.get("Service", changed, world.namespace)["spec"]["clusterIP"], 8000 + number),
    ]
    for address, port in asked:
        eventually(
            lambda a=address, p=port: not stand.client.ask(a, p)[0].error,  # type: ignore[misc]
            lambda: f"{proxy.subject.value} does not follow:\n{proxy.running.tail()}",
        )

    def rest() -> list[str]:
        """Returns rules of deleted Services; each contains its Service's name or address. Rules that kube-proxy
        leaves in unknown tree chains lead nowhere."""
        marks = [*(f"{a}/32" for a in addresses), *(f"{world.namespace}/{name}:" for name in gone)]
        lines = [line for line in rules(stand.node, stand.backend).splitlines() if any(m in line for m in marks)]
        return [line for line in lines if proxy.subject is Subject.FERRULE or not PART.search(line.split()[1])]

    eventually(lambda: not rest(), lambda: f"stale rules: {rest()[:5]}\n{proxy.running.tail()}")
    failures = {name: value for name, value in proxy.metrics().items() if "restore_failures_total" in name and value}
    assert not failures, f"{failures}\n{proxy.running.tail()}"


def test_trees_change_hands_under_load(stand: Stand, record_property: pytest.RecordProperty) -> None:
    stream = (stand.client, stand.knocks[0].address, 80)
    proxies = [stand.proxy(subject, number) for number, subject in enumerate(SEQUENCE)]
    try:
        proxies[0].start().wait_until_synced()
        for knock in stand.knocks:
            eventually(
                lambda k=knock: not k.client.ask(k.address, k.port, protocol=k.protocol)[0].error,  # type: ignore[misc]
                f"no traffic before the swap: {knock}",
            )
        holds_trees(stand, proxies[0])
        with mixed_load(stream, stand.knocks) as verdict:
            for number, proxy in enumerate(proxies):
                if number:
                    proxies[number - 1].stop()
                    proxy.start().wait_until_synced()
                lives_with_changes(stand, proxy, number)
                if proxy.subject is Subject.FERRULE:
                    holds_trees(stand, proxy)
                    continue
                for family in FAMILIES:
                    assert not parts(stand.table("nat", family)), "parts of a tree are left in nat"
                    assert not jumps_to_parts(stand.table("filter", family)), "kube-proxy's rules lead into a tree"
        record_property("load", str(verdict))
        print(f"{stand.backend}: {verdict}")
        verdict.assert_unbroken(at_least=200)
    finally:
        for proxy in proxies:
            proxy.kill()


def ours(stand: Stand) -> list[str]:
    """Returns ferrule's and kube-proxy's chains in the kernel."""
    saved = "".join(rules(stand.node, stand.backend, family) for family in FAMILIES)
    chains = re.findall(r"^:(KUBE-\S+)", saved, re.MULTILINE)
    return [chain for chain in chains if chain not in SHARED]


@pytest.mark.parametrize("stand", ["tree"], indirect=True)
def test_kube_proxys_cleanup_takes_out_all_but_parts_that_lead_nowhere(stand: Stand) -> None:
    """They are removed when ferrule starts again, or by its cleanup."""
    with stand.proxy(Subject.FERRULE, 0) as proxy:
        proxy.wait_until_synced()
        holds_trees(stand, proxy)
    said = clean(stand, str(CONTROLPLANE), "kube-proxy", "--cleanup")
    left = ours(stand)
    assert left, "then the rest of this case is about nothing"
    assert [chain for chain in left if not PART.fullmatch(chain)] == [], said
    assert not parts(stand.table("nat"))
    with stand.proxy(Subject.FERRULE, 1) as proxy:
        proxy.wait_until_synced()
        holds_trees(stand, proxy)
    clean(stand, str(CONTROLPLANE), "kube-proxy", "--cleanup")
    clean(stand, *FERRULE_CLEANUP)
    assert ours(stand) == []


@pytest.mark.parametrize("stand", ["tree"], indirect=True)
def test_our_cleanup_takes_out_what_kube_proxy_took_over(stand: Stand) -> None:
    for number, subject in enumerate((Subject.FERRULE, Subject.STOCK)):
        with stand.proxy(subject, number) as proxy:
            proxy.wait_until_synced()
    assert parts(stand.table("filter")), "kube-proxy left nothing: the case is about nothing"
    clean(stand, *FERRULE_CLEANUP)
    assert ours(stand) == []


FERRULE_CLEANUP = (sys.executable, "-m", "ferrule", "cleanup")


def clean(stand: Stand, *program: str) -> str:
    """Runs a cleanup. Returns its output."""
    tools = tools_of(stand.backend, stand.world.folder / "bin")
    done = stand.node.netns.run("env", f"PATH={tools}:/usr/sbin:/sbin:{os.environ['PATH']}", *program, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr
