"""Tests the lifecycle of a Service with a real control plane: Pods are added and removed, the real controller writes
the slices, traffic is checked."""

from __future__ import annotations

import pytest

from ferrule.testing.lab import Host, pods
from tests.e2e.harness.subject import Proxy, Subject, rules
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

ASKED = 40


def answers(client: Host, address: str, port: int, protocol: str = "tcp") -> set[str]:
    return set(pods(client.ask(address, port, count=ASKED, protocol=protocol)))


def wait_for_answers(client: Host, address: str, port: int, wanted: set[str]) -> None:
    eventually(
        lambda: answers(client, address, port) == wanted,
        lambda: f"{client.name} → {address}:{port}: {pods(client.ask(address, port, count=ASKED))}, want {wanted}",
    )


def test_a_service_from_its_first_pod_to_its_end(world: World, subject: Subject, backend: str) -> None:
    node, other = world.node("node-1"), world.node("node-2")
    client = world.client(node)
    service = world.service(type="NodePort")
    first, second = world.pod("web-1", node), world.pod("web-2", other)
    world.wait_for_endpoints(first.ip, second.ip)
    address = service["spec"]["clusterIP"]
    node_port = service["spec"]["ports"][0]["nodePort"]
    outside = world.cluster.fabric.outside
    with Proxy(subject, node, world.cluster, world.folder, backend=backend) as proxy:
        proxy.wait_until_synced()
        for who, where, port in (
            (client, address, 80),
            (node, address, 80),
            (client, node.ips[0], node_port),
            (node, node.ips[0], node_port),
            (outside, node.ips[0], node_port),
            (outside, address, 80),
        ):
            assert answers(who, where, port) == {"web-1", "web-2"}, f"{who.name} → {where}:{port}"
        assert "KUBE-SERVICES" not in rules(node, "legacy" if backend == "nft" else "nft"), "one backend alone is used"

        second.delete()
        world.wait_for_endpoints(first.ip)
        wait_for_answers(client, address, 80, {"web-1"})

        third = world.pod("web-3", node, ready=False)
        eventually(lambda: (third.ip, False) in world.endpoints(), "no web-3")
        assert answers(client, address, 80) == {"web-1"}
        third.set_ready()
        wait_for_answers(client, address, 80, {"web-1", "web-3"})

        first.delete()
        third.delete()
        wait_for_answers(client, address, 80, {"refused"})
        assert answers(client, node.ips[0], node_port) == {"refused"}

        world.api.delete("Service", "web", world.namespace)
        eventually(lambda: address not in rules(node, backend), "the deleted Service's rules stay")


def test_hairpin_through_the_service(world: World, subject: Subject) -> None:
    node = world.node()
    address = world.service()["spec"]["clusterIP"]
    web = world.pod("web-1", node)
    world.wait_for_endpoints(web.ip)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        assert answers(web.host, address, 80) == {"web-1"}


def test_udp_follows_its_pod(world: World, subject: Subject) -> None:
    node = world.node()
    client = world.client(node)
    address = world.service(protocol="UDP")["spec"]["clusterIP"]
    first = world.pod("web-1", node)
    world.wait_for_endpoints(first.ip)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        assert answers(client, address, 80, "udp") == {"web-1"}
        second = world.pod("web-2", node)
        first.delete()
        world.wait_for_endpoints(second.ip)
        eventually(lambda: answers(client, address, 80, "udp") == {"web-2"}, "UDP does not follow")
