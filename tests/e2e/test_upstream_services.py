"""The Service tests that upstream asks of every proxy: types, ports, affinity, slices, labels (table in README.md)."""

from __future__ import annotations

from typing import Any

import pytest

from ferrule.testing.lab import PORTS, Host, pods, question
from tests.e2e.harness import objects
from tests.e2e.harness.api import ApiError, Object
from tests.e2e.harness.site import QUICK, Site, meets, who
from tests.e2e.harness.subject import rules
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import Pod, World

pytestmark = pytest.mark.netns

REFUSED = {"refused"}
BOTH = {"web-1", "web-2"}


@pytest.fixture
def web(site: Site, world: World) -> list[Pod]:
    """Creates one Pod per node."""
    return [world.pod("web-1", site.node), world.pod("web-2", site.other)]


def change(world: World, **spec: Any) -> Object:
    return dict(world.api.patch("Service", "web", world.namespace, {"spec": spec}))


def gone(site: Site, address: str) -> None:
    eventually(lambda: address not in rules(site.node, site.backend), f"{address} stays in the rules")


# ---------------------------------------------------------------------- types


EXTERNAL = {"type": "ExternalName", "externalName": "shop.example", "clusterIP": None, "clusterIPs": None}


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])
@pytest.mark.usefixtures("web")
def test_to_external_name_and_back(site: Site, world: World, kind: str) -> None:
    """ExternalName has no rules; after the change back it has a new address and works."""
    service = world.service(type=kind)
    old = service["spec"]["clusterIP"]
    meets(site.near, old, BOTH)
    change(world, **EXTERNAL, ports=None)
    gone(site, f"{old}/32")
    ports = [objects.port("main")]
    spec = change(world, type=kind, externalName=None, ports=ports)["spec"]
    meets(site.near, spec["clusterIP"], BOTH)
    meets(site.node, spec["clusterIP"], BOTH)
    if kind != "ClusterIP":
        meets(site.outside, site.node.ips[0], BOTH, port=spec["ports"][0]["nodePort"])


def test_between_the_other_types(site: Site, world: World, web: list[Pod]) -> None:
    """ClusterIP to NodePort to LoadBalancer and back again: the cluster IP is served at every step."""
    address = world.service()["spec"]["clusterIP"]
    meets(site.near, address, BOTH)
    port = change(world, type="NodePort")["spec"]["ports"][0]["nodePort"]
    meets(site.outside, site.node.ips[0], BOTH, port=port)
    assert change(world, type="LoadBalancer")["spec"]["ports"][0]["nodePort"] == port
    world.give_ingress("web", "192.0.2.60")
    meets(site.outside, "192.0.2.60", BOTH)
    assert who(site.near, address) == BOTH
    change(world, type="ClusterIP")
    meets(site.outside, site.node.ips[0], REFUSED, port=port)
    assert who(site.near, address) == BOTH
    gone(site, "192.0.2.60/32")
    del web


def test_headless_and_back(site: Site, world: World, web: list[Pod]) -> None:
    """A headless Service has no rules; created again with an address it has."""
    world.service(clusterIP="None")
    world.wait_for_endpoints(*(pod.ip for pod in web))
    proof = world.service("proof", selector={"app": "web"})["spec"]["clusterIP"]
    meets(site.near, proof, BOTH)
    assert f"{world.namespace}/web" not in rules(site.node, site.backend)
    world.api.delete("Service", "web", world.namespace)
    meets(site.near, world.service()["spec"]["clusterIP"], BOTH)


PROXY_NAME, HEADLESS = "service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"


@pytest.mark.usefixtures("web")
def test_services_of_another_proxy(site: Site, world: World) -> None:
    """The label is set from the start, set later, and removed."""
    marked = world.service("marked", selector={"app": "web"}, labels={PROXY_NAME: "other"})["spec"]["clusterIP"]
    plain = world.service()["spec"]["clusterIP"]
    meets(site.near, plain, BOTH)
    assert f"{marked}/32" not in rules(site.node, site.backend)
    world.api.patch("Service", "web", world.namespace, {"metadata": {"labels": {PROXY_NAME: ""}}})
    gone(site, f"{plain}/32")
    for name in ("web", "marked"):
        world.api.patch("Service", name, world.namespace, {"metadata": {"labels": {PROXY_NAME: None}}})
    meets(site.near, plain, BOTH)
    meets(site.near, marked, BOTH)


def test_slices_of_headless_services(site: Site, world: World, web: list[Pod]) -> None:
    """The label matters on slices; the controller removes it from those of a Service with an address, so it has no
    effect on such a Service (also in kube-proxy 1.37.2)."""
    labelled = world.service("labelled", selector={"app": "web"}, labels={HEADLESS: ""})["spec"]["clusterIP"]
    meets(site.near, labelled, BOTH)
    address = world.service("custom", selector={})["spec"]["clusterIP"]
    by_hand(world, "s-1", web[:1], ("main", PORTS[0]))
    by_hand(world, "s-2", web[1:], ("main", PORTS[0]))
    meets(site.near, address, BOTH)
    world.api.patch("EndpointSlice", "s-1", world.namespace, {"metadata": {"labels": {HEADLESS: ""}}})
    meets(site.near, address, {"web-2"})
    world.api.patch("EndpointSlice", "s-1", world.namespace, {"metadata": {"labels": {HEADLESS: None}}})
    meets(site.near, address, BOTH)


# ---------------------------------------------------------------------- ports


@pytest.mark.usefixtures("web")
def test_ports_are_added_renumbered_and_removed(site: Site, world: World) -> None:
    service = world.service(type="NodePort")
    address, first = service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]
    meets(site.near, address, BOTH)
    # Upstream: "update nodePort", "updated after adding or deleting ports".
    change(world, ports=[objects.port("main", nodePort=32200), objects.port("more", 81, PORTS[1])])
    meets(site.outside, site.node.ips[0], BOTH, port=32200)
    meets(site.near, address, BOTH, port=81)
    meets(site.outside, site.node.ips[0], REFUSED, port=first)
    change(world, ports=[objects.port("more", 81, PORTS[1], nodePort=32200)])
    meets(site.near, address, BOTH, port=81)
    meets(site.outside, site.node.ips[0], BOTH, port=32200)
    eventually(lambda: not who(site.near, address, timeout=QUICK) & BOTH, "the removed port is served")


@pytest.mark.usefixtures("web")
def test_one_number_for_two_protocols(site: Site, world: World) -> None:
    """Cluster IP, node port and load balancer: TCP and UDP on the same number are independent."""
    ports = [objects.port("t", nodePort=32210), objects.port("u", 80, PORTS[1], "UDP", nodePort=32210)]
    service = world.service(type="LoadBalancer", ports=ports)
    world.give_ingress("web", "192.0.2.70")
    for client, where, port in (
        (site.near, service["spec"]["clusterIP"], 80),
        (site.outside, site.node.ips[0], 32210),
        (site.outside, "192.0.2.70", 80),
    ):
        for protocol in ("tcp", "udp"):
            meets(client, where, BOTH, port=port, protocol=protocol)
    change(world, ports=[ports[0]])
    meets(site.outside, "192.0.2.70", BOTH)
    eventually(
        lambda: not who(site.outside, site.node.ips[0], 32210, protocol="udp", count=3, timeout=QUICK) & BOTH,
        "UDP is still served",
    )
    assert who(site.outside, site.node.ips[0], 32210) == BOTH


def test_named_target_ports(site: Site, world: World) -> None:
    """Each Pod has its own number for the name: two slices, one Service port."""
    numbers = {"web-1": PORTS[0], "web-2": PORTS[1]}
    for name, number in numbers.items():
        host = world.cluster.fabric.pod(site.node, name, (number,))
        world.hosts.append(host)
        pod = objects.pod(name, world.namespace, site.node.name, labels={"app": "web"}, ports=())
        pod["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": number}]
        world.api.create(pod)
        Pod(world, host, site.node).set_ready()
    address = world.service(target="http")["spec"]["clusterIP"]
    meets(site.near, address, BOTH)


def test_node_ports_the_api_does_not_give(world: World) -> None:
    """Checks by the API server: no port twice, none out of range, and a deleted Service's port is free again."""
    port = world.service(type="NodePort")["spec"]["ports"][0]["nodePort"]
    with pytest.raises(ApiError, match="already allocated"):
        world.service("twice", type="NodePort", ports=[objects.port("main", nodePort=port)])
    with pytest.raises(ApiError, match="not in the valid range"):
        world.service("far", type="NodePort", ports=[objects.port("main", nodePort=20000)])
    world.api.delete("Service", "web", world.namespace)
    again = world.service("again", type="NodePort", ports=[objects.port("main", nodePort=port)])
    assert again["spec"]["ports"][0]["nodePort"] == port


# ---------------------------------------------------------------------- session affinity


def sticks(client: Host, address: str, port: int = 80, protocol: str = "tcp") -> bool:
    """Returns whether 32 connections reach one Pod. By chance, with two Pods: once in two thousand million."""
    seen = who(client, address, port, protocol=protocol)
    return len(seen) == 1 and seen <= BOTH


AFFINE = {"sessionAffinity": "ClientIP"}


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.usefixtures("web")
def test_session_affinity_is_had_and_switched(site: Site, world: World, kind: str, protocol: str) -> None:
    service = world.service(type=kind, protocol=protocol.upper(), **AFFINE)
    if kind == "NodePort":
        client, address, port = site.outside, site.node.ips[0], service["spec"]["ports"][0]["nodePort"]
    else:
        client, address, port = site.near, service["spec"]["clusterIP"], 80
    meets_one = lambda: sticks(client, address, port, protocol)  # noqa: E731
    eventually(lambda: world_has_both(world) and meets_one(), "no affinity")
    change(world, sessionAffinity="None")
    meets(client, address, BOTH, port=port, protocol=protocol)
    change(world, **AFFINE)
    eventually(meets_one, "no affinity after it was switched on again")


def world_has_both(world: World) -> bool:
    return sum(ready for _, ready in world.endpoints()) == 2


def test_affinity_ends_after_its_timeout(site: Site, world: World, web: list[Pod]) -> None:
    """With requests every 1.5 s and a timeout of 1 s, no client is remembered. Four Services reduce the duration."""
    config = {"clientIP": {"timeoutSeconds": 1}}
    names = [f"web-{i}" for i in range(4)]
    services = [
        world.service(name, selector={"app": "web"}, type="NodePort", **AFFINE, sessionAffinityConfig=config)["spec"]
        for name in names
    ]
    inside = [question(spec["clusterIP"], 80) for spec in services]
    outside = [question(site.node.ips[0], spec["ports"][0]["nodePort"]) for spec in services]
    for name, spec in zip(names, services, strict=True):
        world.wait_for_endpoints(*(pod.ip for pod in web), service=name)
        eventually(lambda a=spec["clusterIP"]: sticks(site.near, a), "no affinity")  # type: ignore[misc]
    for client, questions in ((site.near, inside), (site.outside, outside)):
        seen: list[set[str]] = [set() for _ in questions]

        def another(client: Host = client, questions: list[Object] = questions, seen: list[set[str]] = seen) -> bool:
            for met, answers in zip(seen, client.ask_all(questions), strict=True):
                met.update(pods(answers))
            return BOTH in seen

        eventually(another, f"affinity of {client.name} does not end", every=1.5)


def test_affinity_lets_go_of_a_pod_that_went(site: Site, world: World, web: list[Pod]) -> None:
    address = world.service(**AFFINE)["spec"]["clusterIP"]
    eventually(lambda: world_has_both(world) and sticks(site.near, address), "no affinity")
    (first,) = who(site.near, address)
    next(pod for pod in web if pod.name == first).delete()
    meets(site.near, address, BOTH - {first})


# ---------------------------------------------------------------------- slices and Endpoints


def by_hand(world: World, name: str, pods: list[Pod], *ports: tuple[str, int]) -> None:
    endpoints = [{"addresses": [pod.ip], "conditions": {"ready": True}} for pod in pods]
    listed = [{"name": n, "port": p, "protocol": "TCP"} for n, p in ports]
    world.api.create(objects.endpoint_slice(name, world.namespace, "custom", endpoints, ports=listed))


def test_slices_by_hand(site: Site, world: World, web: list[Pod]) -> None:
    """Several addresses in several slices, then several ports in several slices: all must be reachable."""
    ports = [objects.port("one", 80), objects.port("two", 81)]
    address = world.service("custom", selector={}, ports=ports)["spec"]["clusterIP"]
    meets(site.near, address, REFUSED)
    by_hand(world, "s-1", web[:1], ("one", PORTS[0]))
    meets(site.near, address, {"web-1"})
    by_hand(world, "s-2", web[1:], ("one", PORTS[0]))
    meets(site.near, address, BOTH)
    by_hand(world, "s-3", web[1:], ("two", PORTS[1]))
    meets(site.near, address, {"web-2"}, port=81)
    # The same endpoint in two slices, as while the controller moves it: it counts once, and stays until both are
    # deleted.
    by_hand(world, "s-4", web[:1], ("one", PORTS[0]))
    world.api.delete("EndpointSlice", "s-1", world.namespace)
    world.api.delete("EndpointSlice", "s-3", world.namespace)
    meets(site.near, address, REFUSED, port=81)
    assert who(site.near, address) == BOTH


def test_mirrored_endpoints(site: Site, world: World, web: list[Pod]) -> None:
    """Endpoints objects: the controller mirrors them into slices."""
    address = world.service("custom", selector={})["spec"]["clusterIP"]

    def endpoints(*pods: Pod) -> Object:
        subsets = [{"addresses": [{"ip": p.ip} for p in pods], "ports": [{"name": "main", "port": PORTS[0]}]}]
        return {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "custom", "namespace": world.namespace},
            "subsets": subsets if pods else [],
        }

    world.api.create(endpoints(*web))
    meets(site.near, address, BOTH)
    world.api.replace(endpoints(web[1]))
    meets(site.near, address, {"web-2"})
    world.api.delete("Endpoints", "custom", world.namespace)
    meets(site.near, address, REFUSED)


@pytest.mark.usefixtures("web")
def test_many_services_over_the_same_pods_go_at_once(site: Site, world: World) -> None:
    """Upstream: `multiple endpoint-Services with same selector`, `delete a collection of services`."""
    addresses = {
        name: world.service(name, selector={"app": "web"}, labels={"batch": "yes"})["spec"]["clusterIP"]
        for name in (f"many-{i}" for i in range(10))
    }
    stays = world.service("stays", selector={"app": "web"})["spec"]["clusterIP"]
    for address in (*addresses.values(), stays):
        meets(site.near, address, BOTH)
    path = f"/api/v1/namespaces/{world.namespace}/services?labelSelector=batch%3Dyes"
    world.api.call("DELETE", path)
    for address in addresses.values():
        gone(site, f"{address}/32")
    assert who(site.near, stays) == BOTH


@pytest.mark.usefixtures("web")
def test_made_again_under_the_same_name(site: Site, world: World) -> None:
    first = world.service()["spec"]["clusterIP"]
    meets(site.near, first, BOTH)
    world.api.delete("Service", "web", world.namespace)
    second = world.service()["spec"]["clusterIP"]
    assert first != second
    meets(site.near, second, BOTH)
    gone(site, f"{first}/32")
    # And concurrently under the same address.
    world.api.delete("Service", "web", world.namespace)
    world.service("other", selector={"app": "web"}, clusterIP=second, target=PORTS[1])
    meets(site.near, second, BOTH)


# ---------------------------------------------------------------------- where from


def test_from_everywhere_over_both_families(site: Site, world: World, web: list[Pod]) -> None:
    """Dual stack: Pod, node, an endpoint itself (hairpin) and an external host; TCP and UDP; IPv4 and IPv6."""
    service = world.service(
        type="NodePort",
        ipFamilyPolicy="RequireDualStack",
        ipFamilies=["IPv6", "IPv4"],
        ports=[objects.port("t"), objects.port("u", protocol="UDP")],
        externalIPs=["192.0.2.80", "2001:db8::80"],
    )
    six, four = service["spec"]["clusterIPs"]
    node_ports = {p["protocol"].lower(): p["nodePort"] for p in service["spec"]["ports"]}
    meets(site.near, four, BOTH)
    meets(site.near, six, BOTH)
    for family, address, external in ((0, four, "192.0.2.80"), (1, six, "2001:db8::80")):
        for protocol in ("tcp", "udp"):
            questions = [
                question(address, 80, protocol, 32),
                question(site.node.ips[family], node_ports[protocol], protocol, 32),
                question(external, 80, protocol, 32),
            ]
            for client in (site.near, site.node, web[0].host, site.outside):
                for asked, answers in zip(questions, client.ask_all(questions), strict=True):
                    assert set(pods(answers)) == BOTH, f"{client.name} → {asked}"


def test_families_are_added_and_removed(site: Site, world: World, web: list[Pod]) -> None:
    """Upstream (dual_stack.go): from single to dual stack and back, and a Service of IPv6 alone."""
    four = world.service()["spec"]["clusterIP"]
    meets(site.near, four, BOTH)
    spec = change(world, ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"])["spec"]
    six = spec["clusterIPs"][1]
    meets(site.near, six, BOTH)
    assert who(site.near, four) == BOTH
    change(world, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"], clusterIPs=[four])
    eventually(lambda: six not in rules(site.node, site.backend, "ip6tables"), "the IPv6 address stays in the rules")
    assert who(site.near, four) == BOTH
    alone = world.service("six", selector={"app": "web"}, ipFamilyPolicy="SingleStack", ipFamilies=["IPv6"])
    meets(site.near, alone["spec"]["clusterIP"], BOTH)
    del web


def test_the_source_address_is_kept_inside(site: Site, world: World, web: list[Pod]) -> None:
    """Upstream: `preserve source pod IP for traffic thru service cluster IP`, not of a hairpin."""
    address = world.service()["spec"]["clusterIP"]
    meets(site.near, address, BOTH)
    assert {a.source for a in site.near.ask(address, 80, count=20)} == {site.near.ips[0]}
    assert {a.source for a in site.outside.ask(address, 80, count=20)} == {site.node.ips[0]}
    own = {(a.pod, a.source) for a in web[0].host.ask(address, 80, count=40)}
    assert own == {("web-1", site.node.ips[0]), ("web-2", web[0].ip)}


@pytest.mark.usefixtures("web")
def test_an_external_ip_of_no_node(site: Site, world: World) -> None:
    world.service(externalIPs=["192.0.2.90"])
    for client in (site.outside, site.near, site.node):
        meets(client, "192.0.2.90", BOTH)
    change(world, externalIPs=["192.0.2.91"])
    meets(site.outside, "192.0.2.91", BOTH)
    gone(site, "192.0.2.90/32")
