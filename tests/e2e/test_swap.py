"""One proxy replaces the other under load without affecting a connection."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.e2e.harness import objects
from tests.e2e.harness.load import Knock, mixed_load
from tests.e2e.harness.subject import Proxy, Subject
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

SEQUENCE = [Subject(name) for name in os.environ.get("FERRULE_SWAP", "stock,ferrule,stock,ferrule").split(",")]
CALM_SECONDS = 2.0
"""How long each proxy runs between swaps."""
PORTS = [objects.port("stream"), objects.port("query", protocol="UDP")]


def works(world: World, proxy: Proxy, number: int) -> None:
    """Checks that the new proxy works: changes reach the kernel through it."""
    address = world.service(f"proof-{number}", selector={"app": "web"})["spec"]["clusterIP"]
    asked = world.cluster.fabric.outside
    eventually(
        lambda: not asked.ask(address, 80)[0].error,
        lambda: f"{proxy.subject.value} does not program a new Service:\n{proxy.running.tail()}",
    )
    steadily(lambda: proxy.running.alive, "the new proxy ended", seconds=CALM_SECONDS)


def test_swap_under_load(world: World, backend: str, record_property: pytest.RecordProperty) -> None:
    node, other = world.node("node-1"), world.node("node-2")
    client, outside = world.client(node), world.cluster.fabric.outside
    service = world.service(type="NodePort", ports=PORTS)
    web = [world.pod("web-1", node), world.pod("web-2", other)]
    world.wait_for_endpoints(*(pod.ip for pod in web))
    address = service["spec"]["clusterIP"]
    node_port = {p["protocol"]: p["nodePort"] for p in service["spec"]["ports"]}
    kinds = [
        Knock(client, address, 80, 60),
        Knock(node, address, 80, 50),
        Knock(outside, node.ips[0], node_port["TCP"], 50),
        Knock(client, address, 80, 40, "udp"),
    ]
    proxies = [
        Proxy(who, node, world.cluster, world.folder / str(i), backend=backend) for i, who in enumerate(SEQUENCE)
    ]
    try:
        proxies[0].start().wait_until_synced()
        for kind in kinds:
            eventually(
                lambda kind=kind: not kind.client.ask(kind.address, kind.port, protocol=kind.protocol)[0].error,  # type: ignore[misc]
                f"no traffic before the swap: {kind}",
            )
        with mixed_load((client, address, 80), kinds) as verdict:
            for number, (before, after) in enumerate(itertools.pairwise(proxies)):
                before.stop()
                after.start().wait_until_synced()
                works(world, after, number)
        print(f"{backend}: {verdict}")
        record_property("load", str(verdict))
        verdict.assert_unbroken(at_least=int(100 * verdict.seconds))
    finally:
        for proxy in proxies:
            proxy.kill()
