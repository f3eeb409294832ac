"""Tests ports, metrics and Events for load balancers, kubelet, Prometheus and people; some in comparison with
kube-proxy."""

from __future__ import annotations

import json
import re
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ferrule.testing.lab import Host
from tests.e2e.harness import objects
from tests.e2e.harness.api import Object, Reply, request
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.site import QUICK, meets, who
from tests.e2e.harness.subject import HEALTH, Proxy, Subject, proxy_config
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

LEAVING = "ToBeDeletedByClusterAutoscaler"


def statuses(proxy: Proxy) -> dict[str, int]:
    return {path: proxy.http(path, HEALTH).status for path in ("/healthz", "/livez")}


def events(world: World, reason: str, kind: str, name: str) -> list[Object]:
    return [
        e for e in world.api.list("Event")
        if e["reason"] == reason
        and e["regarding"]["kind"] == kind
        and e["regarding"]["name"] == name
        and e["regarding"].get("namespace") in (None, world.namespace)
    ]  # fmt: skip


def an_event(world: World, reason: str, kind: str, name: str) -> Object:
    return eventually(lambda: events(world, reason, kind, name), f"no Event {reason} for {kind} {name}")[0]


# ---------------------------------------------------------------------- our Node leaves


def test_a_node_that_leaves(world: World, subject: Subject) -> None:
    """Load balancers stop sending to it (/healthz), the proxy is not restarted (/livez), traffic continues."""
    node = world.node()
    client = world.client(node)
    address = world.service()["spec"]["clusterIP"]
    world.pod("web-1", node)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        meets(client, address, {"web-1"})
        eventually(lambda: statuses(proxy) == {"/healthz": 200, "/livez": 200}, "not healthy at first")
        taint = {"key": LEAVING, "value": "1", "effect": "NoSchedule"}
        world.api.patch("Node", node.name, None, {"spec": {"taints": [taint]}})
        eventually(lambda: statuses(proxy) == {"/healthz": 503, "/livez": 200}, "the taint is not seen")
        assert proxy.http("/healthz", HEALTH).json()["nodeEligible"] is False
        assert proxy.http("/healthz", HEALTH).json()["healthy"] is True, "that is the proxy itself"
        assert "nodeEligible" not in proxy.http("/livez", HEALTH).json()
        world.api.patch("Node", node.name, None, {"spec": {"taints": None}})
        eventually(lambda: statuses(proxy) == {"/healthz": 200, "/livez": 200}, "the taint's end is not seen")

        world.api.patch("Node", node.name, None, {"metadata": {"finalizers": ["e2e.ferrule.invalid/hold"]}})
        try:
            world.api.delete("Node", node.name)
            eventually(lambda: statuses(proxy) == {"/healthz": 503, "/livez": 200}, "the deletion is not seen")
            assert who(client, address) == {"web-1"}
            assert proxy.running.alive
        finally:
            world.api.patch("Node", node.name, None, {"metadata": {"finalizers": None}})


def test_ready_only_once_everything_is_in_the_kernel(world: World) -> None:
    """/readyz is ferrule's: kube-proxy does not have it."""
    node = world.node(register=False)
    client = world.client(node)
    other = world.node("node-2")
    address = world.service()["spec"]["clusterIP"]
    world.pod("web-1", other)
    with Proxy(Subject.FERRULE, node, world.cluster, world.folder) as proxy:

        def waits_for_its_node() -> Reply | None:
            try:
                reply = proxy.http("/readyz")
            except OSError:
                return None
            return reply if "waiting for: Node node-1 itself" in reply.text else None

        early = eventually(waits_for_its_node, lambda: f"/readyz:\n{proxy.running.tail()}")
        assert early.status == 503
        assert "the first sync has not happened" in early.text
        assert statuses(proxy) == {"/healthz": 503, "/livez": 200}, (
            "load balancers must not send to a node that is not registered yet"
        )
        assert who(client, address, count=3, timeout=QUICK) != {"web-1"}
        world.register(node)
        eventually(lambda: proxy.http("/readyz").status == 200, lambda: proxy.http("/readyz").text)
        # Once it is ready, clients do not have to wait.
        assert who(client, address) == {"web-1"}


# ---------------------------------------------------------------------- health check node ports


def balanced(world: World, name: str = "lb", **more: Any) -> Object:
    return world.service(name, selector={"app": "web"}, type="LoadBalancer", externalTrafficPolicy="Local", **more)


def checked(node: NodeHost, port: int, asker: Host, family: int = 0) -> tuple[int, dict[str, str], Any]:
    """Returns status, headers and body, without time-dependent parts."""
    reply = request(asker.netns, node.ips[family], port, "/")
    headers = {k: v for k, v in reply.headers.items() if k not in ("Date", "Server")}
    return reply.status, headers, reply.body


def test_health_check_node_ports_beside_stock(world: World) -> None:
    """ferrule on one node and kube-proxy on the other, the same Service: the same bytes on both."""
    ours, theirs = world.node("node-1"), world.node("node-2")
    outside = world.cluster.fabric.outside
    port = balanced(world)["spec"]["healthCheckNodePort"]
    with (
        Proxy(Subject.FERRULE, ours, world.cluster, world.folder) as one,
        Proxy(Subject.STOCK, theirs, world.cluster, world.folder) as two,
    ):
        one.wait_until_synced()
        two.wait_until_synced()

        def both(count: int) -> None:
            """Checks that each responds with this count, and both with the same bytes."""
            seen: list[Any] = []

            def same() -> bool:
                try:
                    seen[:] = [checked(node, port, outside) for node in (ours, theirs)]
                except OSError as error:
                    seen[:] = [error]
                    return False
                return all(json.loads(body)["localEndpoints"] == count for _, _, body in seen)

            eventually(same, lambda: f"localEndpoints are not {count}: {seen}")
            assert seen[0] == seen[1]
            assert seen[0][0] == (200 if count else 503)

        both(0)
        pods = [world.pod("near", ours), world.pod("far", theirs)]
        both(1)
        more = [world.pod("near-2", ours), world.pod("far-2", theirs)]
        both(2)
        for pod in more:
            pod.set_ready(False)
        both(1)
        # Only terminating endpoints left: they still serve, and no new traffic should arrive.
        for pod in pods:
            pod.terminate()
        both(0)
        for path in ("/healthz", "/any/path?x=1"):
            assert request(outside.netns, ours.ips[0], port, path).status == 503
        # The node's taint does not affect these ports, as in kube-proxy.
        world.api.patch("Service", "lb", world.namespace, {"spec": {"externalTrafficPolicy": "Cluster"}})
        for node in (ours, theirs):
            eventually(lambda n=node: refused(n, port, outside), f"{node.name} still listens")  # type: ignore[misc]


def test_health_check_node_ports_of_each_family_beside_stock(world: World) -> None:
    """Both nodes have a local IPv4 endpoint and no local IPv6 endpoint; another Service is IPv4-only."""
    ours, theirs = world.node("node-1"), world.node("node-2")
    outside = world.cluster.fabric.outside
    dual = balanced(world, "dual", ipFamilyPolicy="RequireDualStack")["spec"]["healthCheckNodePort"]
    single = balanced(world, "single")["spec"]["healthCheckNodePort"]
    for family, endpoints in (
        ("IPv4", [("192.0.2.1", ours.name), ("192.0.2.2", theirs.name)]),
        ("IPv6", [("2001:db8::9", "elsewhere")]),
    ):
        world.api.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"dual-{family.lower()}",
                    "namespace": world.namespace,
                    "labels": {"kubernetes.io/service-name": "dual"},
                },
                "addressType": family,
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [ip], "nodeName": name} for ip, name in endpoints],
            }
        )
    with (
        Proxy(Subject.FERRULE, ours, world.cluster, world.folder) as one,
        Proxy(Subject.STOCK, theirs, world.cluster, world.folder) as two,
    ):
        one.wait_until_synced()
        two.wait_until_synced()
        for family, status, count in ((0, 200, 1), (1, 503, 0)):
            seen: list[Any] = []

            def same(family: int = family, count: int = count, seen: list[Any] = seen) -> bool:
                try:
                    seen[:] = [checked(node, dual, outside, family) for node in (ours, theirs)]
                except OSError:
                    return False
                return [json.loads(body)["localEndpoints"] for _, _, body in seen] == [count, count]

            eventually(same, lambda seen=seen: f"not the same: {seen}")  # type: ignore[misc]
            assert seen[0] == seen[1]
            assert seen[0][0] == status
        for node in (ours, theirs):
            eventually(lambda n=node: not refused(n, single, outside), f"{node.name} does not listen")  # type: ignore[misc]
            assert refused(node, single, outside, 1), f"{node.name} listens in a family that the Service lacks"


def refused(node: NodeHost, port: int, asker: Host, family: int = 0) -> bool:
    try:
        request(asker.netns, node.ips[family], port, "/")
    except ConnectionRefusedError:
        return True
    return False


def test_a_health_check_port_in_use_by_another_process(world: World, subject: Subject) -> None:
    """Reported in an Event for the Service's owner; traffic is served; ferrule retries, kube-proxy only after a
    change."""
    node = world.node()
    outside = world.cluster.fabric.outside
    world.cluster.fabric.route_services_via(node)
    port = 32111
    squatter = node.netns.call(lambda: socket.create_server(("0.0.0.0", port)))
    with squatter, Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        service = balanced(world, healthCheckNodePort=port)
        world.pod("web-1", node)
        event = an_event(world, "FailedToStartServiceHealthcheck", "Service", "lb")
        assert (event["type"], event["action"]) == ("Warning", "Listen")
        assert event["metadata"]["namespace"] == world.namespace
        assert event["reportingController"] == "kube-proxy"
        assert str(port) in event["note"]
        assert "address already in use" in event["note"]
        meets(outside, node.ips[0], {"web-1"}, port=service["spec"]["ports"][0]["nodePort"])
        if subject is Subject.FERRULE:
            squatter.close()

            def answers() -> bool:
                try:
                    return request(outside.netns, node.ips[0], port, "/").status == 200
                except OSError:
                    return False

            eventually(answers, "the port is not tried again")


# ---------------------------------------------------------------------- Events


def test_events(world: World, subject: Subject) -> None:
    node = world.node()
    kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig")
    config = proxy_config(world.folder / "config", kubeconfig, mode="")
    before = {e["metadata"]["name"] for e in events(world, "Starting", "Node", node.name)}
    with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
        proxy.wait_until_synced()

        def starting() -> list[Object]:
            return [e for e in events(world, "Starting", "Node", node.name) if e["metadata"]["name"] not in before]

        event = eventually(starting, "no Event Starting")[0]
        assert (event["type"], event["action"], event["reportingController"]) == (
            "Normal", "StartKubeProxy", "kube-proxy",
        )  # fmt: skip
        if subject is Subject.FERRULE:
            eventually(
                lambda: events(world, "KubeProxyDefaultMode", "Node", node.name), "nothing said of an empty mode"
            )


def test_a_service_that_cannot_be_programmed(world: World) -> None:
    """Two Services claim one external address and port. Only ferrule reports the losing one to its owner."""
    node = world.node()
    outside = world.cluster.fabric.outside
    world.cluster.fabric.route_services_via(node)
    world.pod("web-1", node, app="first")
    world.pod("web-2", node, app="second")
    with Proxy(Subject.FERRULE, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        world.service("first", externalIPs=["192.0.2.77"])
        meets(outside, "192.0.2.77", {"web-1"})
        world.service("second", externalIPs=["192.0.2.77"])
        event = an_event(world, "ServiceNotProgrammed", "Service", "second")
        assert (event["type"], event["action"]) == ("Warning", "Program")
        assert "192.0.2.77" in event["note"]
        assert f"{world.namespace}/first" in event["note"]
        assert who(outside, "192.0.2.77") == {"web-1"}
        assert not events(world, "ServiceNotProgrammed", "Service", "first")
        world.api.delete("Service", "first", world.namespace)
        meets(outside, "192.0.2.77", {"web-2"})


# ---------------------------------------------------------------------- metrics


def set_ready_now(world: World, pod: str, ips: tuple[str, ...], host_ips: tuple[str, ...]) -> None:
    """Sets readiness as kubelet does: with the time of the change, from which the controller derives its annotation."""
    status = objects.pod_status(ips, host_ips, ready=True)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for condition in status["status"]["conditions"]:
        condition["lastTransitionTime"] = now
    world.api.patch("Pod", pod, world.namespace, status, status=True)


def test_how_long_programming_took_is_measured(world: World, subject: Subject) -> None:
    node = world.node()
    client = world.client(node)
    count = 'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}'
    total = 'kubeproxy_network_programming_duration_seconds_sum{ip_family="IPv4"}'
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        time.sleep(1.1)  # times in the API are whole seconds, and those before the start do not count
        address = world.service()["spec"]["clusterIP"]
        pod = world.pod("web-1", node, ready=False)
        eventually(lambda: (pod.ip, False) in world.endpoints(), "the Pod is not in the slice")
        set_ready_now(world, pod.name, pod.host.ips, node.ips)
        meets(client, address, {"web-1"})
        samples = eventually(lambda: (m := proxy.metrics()) and m.get(count, 0) > 0 and m, f"{count} stays 0")
        assert 0 <= samples[total] / samples[count] < 60, "seconds, and of this change"


FAMILIES = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
LABELS = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
ELSEWHERE = re.compile(
    # Metrics of Go's runtime, of its HTTP client's internals, and of features of its API server library.
    r"go_|process_|promhttp_|workqueue_|rest_client_|apiserver_|authentication_|authorization_|disabled_metrics|"
    r"hidden_metrics|registered_metrics|kubernetes_build_info|kubernetes_feature_enabled|reflector_|cardinality_|"
    r"watch_|client_|version_|aggregator_|node_collector_"
)


def families(text: str) -> dict[str, str]:
    return {name: kind for name, kind in FAMILIES.findall(text) if not ELSEWHERE.match(name)}


def series(text: str) -> set[tuple[str, str]]:
    """Returns names and labels of kube-proxy's own samples, without time-dependent label values."""
    return {
        (name, labels) for name, labels in LABELS.findall(text)
        if name.startswith("kubeproxy_") and not name.endswith("_created")
    }  # fmt: skip


def test_metrics_beside_stock(world: World) -> None:
    """After the same history, every series of kube-proxy exists under the same name, type and labels."""
    ours, theirs = world.node("node-1"), world.node("node-2")
    client = world.client(ours)
    with (
        Proxy(Subject.FERRULE, ours, world.cluster, world.folder) as one,
        Proxy(Subject.STOCK, theirs, world.cluster, world.folder) as two,
    ):
        for proxy in (one, two):
            proxy.wait_until_synced()
            for path in ("/healthz", "/livez"):
                assert proxy.http(path, HEALTH).status == 200
        time.sleep(1.1)
        address = world.service(internalTrafficPolicy="Local")["spec"]["clusterIP"]
        pod = world.pod("web-1", ours)
        set_ready_now(world, pod.name, pod.host.ips, ours.ips)
        meets(client, address, {"web-1"})
        wanted = 'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}'
        for proxy in (one, two):
            eventually(lambda p=proxy: p.metrics().get(wanted, 0) > 0, f"{proxy.subject.value}: no {wanted}")  # type: ignore[misc]
        own, stock = one.http("/metrics").text, two.http("/metrics").text
        missing = families(stock).items() - families(own).items()
        assert not missing, f"families that stock has and ferrule has not: {sorted(missing)}"
        lacking = series(stock) - series(own)
        assert not lacking, f"series that stock has and ferrule has not: {sorted(lacking)}"
        foreign = {name for name in families(own) if not name.startswith(("ferrule_", "kubeproxy_"))}
        assert not foreign - families(stock).keys()
        for proxy in (one, two):
            assert any(name.startswith("rest_client_requests_total{") for name in proxy.metrics())
        # Counts of the same cluster are equal.
        for name in (
            'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}',
            'kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv4"}',
            'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"}',
        ):
            assert name in one.metrics(), name
