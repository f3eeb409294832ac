"""Tests zones, hints and policies on two nodes, and the effects of a changed Node on the proxy."""

from __future__ import annotations

import pytest

from tests.e2e.harness import objects
from tests.e2e.harness.api import Object
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.site import meets, who
from tests.e2e.harness.subject import Proxy, Subject, proxy_config
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import Pod, World

pytestmark = pytest.mark.netns

DROPPED = {"timeout"}


def label_zone(world: World, node: NodeHost, zone: str | None) -> None:
    world.api.patch("Node", node.name, None, {"metadata": {"labels": {objects.ZONE: zone}}})


def hinted(world: World, service: str, *pods: tuple[Pod, str]) -> Object:
    """Creates a slice whose endpoints are hinted for a zone each."""
    return objects.endpoint_slice(
        f"{service}-by-hand",
        world.namespace,
        service,
        [
            {"addresses": [pod.ip], "conditions": {"ready": True}, "hints": {"forZones": [{"name": zone}]}}
            for pod, zone in pods
        ],
    )


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone", "PreferSameNode"])
def test_the_controllers_hints_keep_traffic_close(world: World, subject: Subject, distribution: str) -> None:
    """The real controller sets hints; each node uses its own Pod, and the other's once its own is deleted."""
    near, far = world.node("node-1", zone="a"), world.node("node-2", zone="b")
    clients = {"web-near": world.client(near, "near"), "web-far": world.client(far, "far")}
    address = world.service(trafficDistribution=distribution)["spec"]["clusterIP"]
    pods = {"web-near": world.pod("web-near", near), "web-far": world.pod("web-far", far)}
    with (
        Proxy(subject, near, world.cluster, world.folder) as one,
        Proxy(subject, far, world.cluster, world.folder) as two,
    ):
        one.wait_until_synced()
        two.wait_until_synced()
        for pod, client in clients.items():
            meets(client, address, {pod})
        pods["web-near"].delete()
        meets(clients["web-near"], address, {"web-far"})
        assert who(clients["web-far"], address) == {"web-far"}


def test_rules_follow_our_nodes_zone(world: World, subject: Subject) -> None:
    """The slices do not change, only the node's label."""
    near, far = world.node("node-1", zone="a"), world.node("node-2", zone="b")
    client = world.client(near)
    address = world.service(selector={})["spec"]["clusterIP"]
    one, two = world.pod("one", near), world.pod("two", far)
    world.api.create(hinted(world, "web", (one, "a"), (two, "b")))
    with Proxy(subject, near, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        assert who(client, address) == {"one"}
        label_zone(world, near, "b")
        meets(client, address, {"two"})
        label_zone(world, near, "nowhere")
        meets(client, address, {"one", "two"})
        label_zone(world, near, "a")
        meets(client, address, {"one"})
        label_zone(world, near, None)
        meets(client, address, {"one", "two"})
        # One endpoint without a hint: all hints are ignored.
        label_zone(world, near, "a")
        meets(client, address, {"one"})
        slices = hinted(world, "web", (one, "a"), (two, "b"))
        del slices["endpoints"][1]["hints"]
        world.api.replace(slices)
        meets(client, address, {"one", "two"})
        assert proxy.running.alive


def test_policies_on_two_nodes(world: World, subject: Subject) -> None:
    near, far = world.node("node-1"), world.node("node-2")
    world.cluster.fabric.route_services_via(near)
    inside, remote, outside = world.client(near, "near"), world.client(far, "far"), world.cluster.fabric.outside
    internal = world.service("internal", selector={"app": "web"}, internalTrafficPolicy="Local")
    external = world.service("external", selector={"app": "web"}, type="LoadBalancer", externalTrafficPolicy="Local")
    cluster = world.service("cluster", selector={"app": "web"}, type="NodePort")
    world.give_ingress("external", "192.0.2.10", "2001:db8::10")
    one, two = world.pod("one", near), world.pod("two", far)
    local = internal["spec"]["clusterIP"]
    port, other_port = external["spec"]["ports"][0]["nodePort"], cluster["spec"]["ports"][0]["nodePort"]
    with (
        Proxy(subject, near, world.cluster, world.folder) as first,
        Proxy(subject, far, world.cluster, world.folder) as second,
    ):
        first.wait_until_synced()
        second.wait_until_synced()
        meets(inside, local, {"one"})
        meets(near, local, {"one"})
        meets(remote, local, {"two"})
        # From outside: the node keeps the traffic and the client's address …
        for node, pod in ((near, "one"), (far, "two")):
            answers = outside.ask(node.ips[0], port, count=20)
            assert {(a.pod, a.source, a.error) for a in answers} == {(pod, outside.ips[0], "")}
        answers = outside.ask("192.0.2.10", 80, count=20)
        assert {(a.pod, a.source, a.error) for a in answers} == {("one", outside.ips[0], "")}
        # … with Cluster, traffic reaches either Pod, and traffic that leaves the node has the node's address.
        answers = outside.ask(near.ips[0], other_port, count=40)
        assert {(a.pod, a.source) for a in answers} == {("one", near.ips[0]), ("two", near.ips[0])}
        # From inside the cluster, an external address reaches all endpoints.
        meets(inside, "192.0.2.10", {"one", "two"})
        meets(near, "192.0.2.10", {"one", "two"})

        one.delete()
        world.wait_for_endpoints(two.ip, service="internal")
        world.wait_for_endpoints(two.ip, service="external")
        meets(inside, local, DROPPED, count=3)
        meets(outside, near.ips[0], DROPPED, port=port, count=3)
        assert who(outside, far.ips[0], port) == {"two"}
        assert who(remote, local) == {"two"}
        assert who(outside, near.ips[0], other_port) == {"two"}
        meets(inside, "192.0.2.10", {"two"})


def test_our_nodes_address_changes(world: World, subject: Subject) -> None:
    """Every rule may then be wrong: the process ends, and the next one works."""
    node = world.node("node-1")
    client = world.client(node)
    service = world.service(type="NodePort")
    web = world.pod("web-1", node)
    world.wait_for_endpoints(web.ip)
    address, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]
    config = proxy_config(
        world.folder / "config", world.cluster.kubeconfig(world.folder / "kubeconfig"), nodePortAddresses=["primary"]
    )
    with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
        proxy.wait_until_synced()
        assert who(client, node.ips[0], port) == {"web-1"}
        node.netns.ip("addr", "add", "172.31.250.200/24", "dev", "eth0")
        world.api.patch(
            "Node", node.name, None, objects.node_status(("172.31.250.200", node.ips[1])), status=True, merge=True
        )
        assert proxy.running.wait() == 1
        if subject is Subject.FERRULE:
            assert (
                "Node node-1: its IPs changed from 172.31.250.2, fd00:255::2 to 172.31.250.200" in proxy.running.tail()
            )
        assert who(client, address) == {"web-1"}, "the rules stay"
        proxy.start().wait_until_synced()
        meets(client, "172.31.250.200", {"web-1"}, port=port)
        meets(client, node.ips[0], {"refused"}, port=port)
        assert who(client, address) == {"web-1"}


def test_our_nodes_pod_range_changes(world: World, subject: Subject) -> None:
    """The API does not allow changing it: the Node is created again, as a kubelet does that registers again."""
    node = world.node("node-1")
    client = world.client(node)
    address = world.service()["spec"]["clusterIP"]
    web = world.pod("web-1", node)
    world.wait_for_endpoints(web.ip)
    config = proxy_config(
        world.folder / "config",
        world.cluster.kubeconfig(world.folder / "kubeconfig"),
        clusterCIDR="",
        detectLocalMode="NodeCIDR",
    )
    with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
        proxy.wait_until_synced()
        assert who(client, address) == {"web-1"}
        world.api.delete("Node", node.name)
        moved = objects.node(node.name, ("10.128.77.0/24", "fd00:10:128:77::/64"), None)
        world.api.create(moved)
        world.api.patch("Node", node.name, None, objects.node_status(node.ips), status=True)
        assert proxy.running.wait() == 1
        if subject is Subject.FERRULE:
            assert "Node node-1: its podCIDRs changed from 10.128.1.0/24, fd00:10:128:1::/64" in proxy.running.tail()
        assert who(client, address) == {"web-1"}, "the rules stay"
        proxy.start().wait_until_synced()
        eventually(lambda: who(client, address) == {"web-1"}, "the next start does not work")
        # Our Pods count as off-cluster now, and their traffic is masqueraded.
        assert {a.source for a in client.ask(address, 80, count=5)} == {node.ips[0]}
