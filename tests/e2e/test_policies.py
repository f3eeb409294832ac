"""Tests traffic policies, and behaviour with few or no endpoints. README.md lists upstream's names."""

from __future__ import annotations

import pytest

from tests.e2e.harness import objects
from tests.e2e.harness.site import QUICK, Site, meets, who
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

REFUSED, DROPPED = {"refused"}, {"timeout"}
NOT_SENT = {"PermissionError: [Errno 1] Operation not permitted"}


# ---------------------------------------------------------------------- terminating endpoints


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
@pytest.mark.parametrize("traffic", ["internal", "external"])
def test_terminating_endpoints_are_the_last_resort(site: Site, world: World, traffic: str, policy: str) -> None:
    """While a ready endpoint is left, terminating ones are not used; without one, those that still serve are."""
    if traffic == "internal":
        service = world.service(internalTrafficPolicy=policy)
        client, address, port = site.near, service["spec"]["clusterIP"], 80
    else:
        service = world.service(type="NodePort", externalTrafficPolicy=policy)
        client, address, port = site.outside, site.node.ips[0], service["spec"]["ports"][0]["nodePort"]
    leaving = world.pod("leaving", site.node)
    ready = world.pod("ready", site.node)
    meets(client, address, {"leaving", "ready"}, port=port)
    leaving.terminate()
    meets(client, address, {"ready"}, port=port)
    ready.delete()
    meets(client, address, {"leaving"}, port=port)
    # No longer ready, it does not serve either.
    leaving.set_ready(False)
    meets(client, address, REFUSED, port=port)


def test_local_policy_falls_back_to_local_terminating_ones_only(site: Site, world: World) -> None:
    """A ready endpoint on another node does not matter."""
    service = world.service(type="LoadBalancer", externalTrafficPolicy="Local", internalTrafficPolicy="Local")
    address, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]
    leaving, elsewhere = world.pod("leaving", site.node), world.pod("elsewhere", site.other)
    world.wait_for_endpoints(leaving.ip, elsewhere.ip)
    leaving.terminate()
    world.wait_for_endpoints(elsewhere.ip)
    meets(site.near, address, {"leaving"})
    meets(site.outside, site.node.ips[0], {"leaving"}, port=port)
    assert who(site.far, address) == {"elsewhere"}
    leaving.delete()
    meets(site.near, address, DROPPED, count=3)
    meets(site.outside, site.node.ips[0], DROPPED, port=port, count=3)
    assert who(site.outside, site.other.ips[0], port) == {"elsewhere"}


# ---------------------------------------------------------------------- none left


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_without_endpoints_every_client_is_refused(site: Site, world: World, protocol: str) -> None:
    service = world.service(type="NodePort", protocol=protocol.upper(), externalIPs=["192.0.2.20"])
    address, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]
    paths = (
        (site.near, address, 80),
        (site.node, address, 80),
        (site.far, address, 80),
        (site.outside, site.node.ips[0], port),
        (site.near, site.node.ips[0], port),
        (site.outside, "192.0.2.20", 80),
    )

    def refused() -> None:
        for client, where, number in paths:
            # A datagram of the host itself is refused at the sender: the kernel reports EPERM.
            own = client is site.node and protocol == "udp"
            meets(client, where, NOT_SENT if own else REFUSED, port=number, protocol=protocol, count=4)

    refused()
    pod = world.pod("web-1", site.node)
    for client, where, number in paths:
        meets(client, where, {"web-1"}, port=number, protocol=protocol, count=4)
    pod.delete()
    refused()


def test_an_evicted_pod_is_not_an_endpoint(site: Site, world: World) -> None:
    """Not even with publishNotReadyAddresses."""
    address = world.service(publishNotReadyAddresses=True)["spec"]["clusterIP"]
    pod = world.pod("web-1", site.node)
    meets(site.near, address, {"web-1"})
    status = objects.pod_status(pod.host.ips, site.node.ips, ready=False)
    status["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    world.api.patch("Pod", pod.name, world.namespace, status, status=True)
    meets(site.near, address, REFUSED)


def test_pods_that_are_not_ready(site: Site, world: World) -> None:
    """publishNotReadyAddresses: endpoints that are not ready yet and terminating ones are used; without it neither."""
    tolerant = world.service("tolerant", selector={"app": "web"}, publishNotReadyAddresses=True)["spec"]["clusterIP"]
    strict = world.service("strict", selector={"app": "web"}, type="NodePort")
    address, port = strict["spec"]["clusterIP"], strict["spec"]["ports"][0]["nodePort"]
    pod = world.pod("web-1", site.node, ready=False)
    meets(site.near, tolerant, {"web-1"})
    eventually(lambda: (pod.ip, False) in world.endpoints("strict"), "the Pod is not in the slice")
    assert who(site.near, address) == REFUSED
    assert who(site.outside, site.node.ips[0], port) == REFUSED
    pod.terminate()
    eventually(lambda: (pod.ip, True) in world.endpoints("tolerant"), "the terminating Pod is not published")
    assert who(site.near, tolerant) == {"web-1"}
    assert who(site.near, address) == REFUSED


# ---------------------------------------------------------------------- internalTrafficPolicy


def test_internal_policy_local_with_host_network_pods(site: Site, world: World) -> None:
    """Pod to Pod, node to Pod, Pod to host network, host network to Pod: traffic stays on its node, or is dropped."""
    pods = world.service("pods", internalTrafficPolicy="Local", selector={"app": "pods"})["spec"]["clusterIP"]
    hosts = world.service("hosts", internalTrafficPolicy="Local", selector={"app": "hosts"}, target=8090)
    host_address = hosts["spec"]["clusterIP"]
    world.pod("pod-1", site.node, app="pods")
    host_1 = world.pod("host-1", site.node, app="hosts", ports=(8090,), host_network=True)
    for client in (site.near, site.node):
        meets(client, pods, {"pod-1"})
        meets(client, host_address, {"host-1"})
    for client in (site.far, site.other):
        meets(client, pods, DROPPED, count=3)
        meets(client, host_address, DROPPED, count=3)
    host_2 = world.pod("host-2", site.other, app="hosts", ports=(8090,), host_network=True)
    for client, name in ((site.near, "host-1"), (site.node, "host-1"), (site.far, "host-2"), (site.other, "host-2")):
        meets(client, host_address, {name})
    for pod in (host_1, host_2):
        pod.stop_serving()


def test_internal_policy_does_not_touch_node_ports(site: Site, world: World) -> None:
    service = world.service(type="NodePort", internalTrafficPolicy="Local")
    world.pod("web-1", site.other)
    meets(site.outside, site.node.ips[0], {"web-1"}, port=service["spec"]["ports"][0]["nodePort"])
    meets(site.near, service["spec"]["clusterIP"], DROPPED, count=3)
    world.api.patch("Service", "web", world.namespace, {"spec": {"internalTrafficPolicy": "Cluster"}})
    meets(site.near, service["spec"]["clusterIP"], {"web-1"})


# ---------------------------------------------------------------------- load balancers


def test_source_ranges(site: Site, world: World) -> None:
    """Source ranges restrict the load balancer's address; node port and cluster IP stay open."""
    service = world.service(type="LoadBalancer", loadBalancerSourceRanges=["172.31.250.9/32"])
    world.give_ingress("web", "192.0.2.30")
    port = service["spec"]["ports"][0]["nodePort"]
    world.pod("web-1", site.node)
    meets(site.outside, "192.0.2.30", {"web-1"})
    assert who(site.near, "192.0.2.30", count=3, timeout=QUICK) == DROPPED
    assert who(site.near, service["spec"]["clusterIP"]) == {"web-1"}
    change = {"spec": {"loadBalancerSourceRanges": ["10.128.0.0/10", "198.51.100.0/24"]}}
    world.api.patch("Service", "web", world.namespace, change)
    meets(site.outside, "192.0.2.30", DROPPED, count=3)
    meets(site.near, "192.0.2.30", {"web-1"})
    assert who(site.outside, site.node.ips[0], port) == {"web-1"}
    world.api.patch("Service", "web", world.namespace, {"spec": {"loadBalancerSourceRanges": None}})
    meets(site.outside, "192.0.2.30", {"web-1"})


def test_a_load_balancers_addresses_come_and_go(site: Site, world: World) -> None:
    """VIP addresses are programmed on the node; those of a load balancer with ipMode Proxy are not."""
    world.service(type="LoadBalancer")
    world.pod("web-1", site.other)
    world.give_ingress("web", "192.0.2.41")
    meets(site.outside, "192.0.2.41", {"web-1"})
    world.give_ingress("web", "192.0.2.42")
    meets(site.outside, "192.0.2.42", {"web-1"})
    gone = who(site.outside, "192.0.2.41", count=3, timeout=QUICK)
    assert "web-1" not in gone
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.42", "ipMode": "Proxy"}]}}}
    world.api.patch("Service", "web", world.namespace, status, status=True)
    eventually(lambda: "web-1" not in who(site.outside, "192.0.2.42", count=3, timeout=QUICK), "ipMode Proxy is served")


def test_external_policy_is_switched(site: Site, world: World) -> None:
    """Local to Cluster and back: endpoints, source address and refusal follow."""
    service = world.service(type="NodePort", externalTrafficPolicy="Local")
    port, address = service["spec"]["ports"][0]["nodePort"], site.node.ips[0]
    world.pod("near-1", site.node)
    world.pod("far-1", site.other)

    def sources() -> set[str]:
        return {a.source for a in site.outside.ask(address, port, count=20)}

    meets(site.outside, address, {"near-1"}, port=port)
    assert sources() == {site.outside.ips[0]}
    world.api.patch("Service", "web", world.namespace, {"spec": {"externalTrafficPolicy": "Cluster"}})
    meets(site.outside, address, {"near-1", "far-1"}, port=port)
    assert sources() == {address}
    world.api.patch("Service", "web", world.namespace, {"spec": {"externalTrafficPolicy": "Local"}})
    meets(site.outside, address, {"near-1"}, port=port)
    assert sources() == {site.outside.ips[0]}


def test_external_policy_local_from_inside(site: Site, world: World) -> None:
    """Pods and the node itself are not external: for them the load balancer's address and node ports reach all
    endpoints."""
    service = world.service(type="LoadBalancer", externalTrafficPolicy="Local")
    world.give_ingress("web", "192.0.2.50")
    port = service["spec"]["ports"][0]["nodePort"]
    pod = world.pod("far-1", site.other)
    world.wait_for_endpoints(pod.ip)
    for client in (site.near, site.node):
        meets(client, "192.0.2.50", {"far-1"})
        assert who(client, site.node.ips[0], port) == {"far-1"}
    assert who(site.outside, site.node.ips[0], port, count=3, timeout=QUICK) == DROPPED
    # A Pod's source address is kept if the endpoint is on its node.
    near = world.pod("near-1", site.node)
    world.wait_for_endpoints(pod.ip, near.ip)
    meets(site.outside, site.node.ips[0], {"near-1"}, port=port)
