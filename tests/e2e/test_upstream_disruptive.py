"""Tests that upstream calls disruptive: restarts of proxies and API servers, rules deleted by another process, flows
that outlive their Pods."""

from __future__ import annotations

import socket
import statistics
import time
from contextlib import ExitStack, closing
from functools import partial

import pytest

from ferrule.testing.lab import PORTS, Host
from tests.e2e.harness import objects
from tests.e2e.harness.load import load
from tests.e2e.harness.site import QUICK, meets, who
from tests.e2e.harness.subject import HEALTH, Proxy, Subject, proxy_config, rules
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns


# ---------------------------------------------------------------------- conntrack


class Caller:
    """One UDP socket: every datagram has the same source port, so the kernel tracks one flow."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        def connected() -> socket.socket:
            channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            channel.settimeout(0.3)
            channel.connect((address, port))
            return channel

        self._label = f"{host.name} → {address}:{port}"
        self._socket = host.netns.call(connected)

    def __str__(self) -> str:
        return self._label

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> str:
        """Returns the Pod's name, or `none`."""
        try:
            self._socket.send(b"?")
            said = self._socket.recv(4096).decode()
        except (TimeoutError, ConnectionRefusedError, PermissionError):
            return "none"
        return said.split('"pod": "')[1].split('"')[0]


def test_udp_flows_follow_their_pods(world: World, subject: Subject) -> None:
    """Clients with constant ports, while Pods are added and deleted (upstream's conntrack.go). They start before the
    first Pod, so that flows without an endpoint are tracked, too; responses must arrive although the clients never
    paused."""
    node, other = world.node("node-1"), world.node("node-2")
    world.cluster.fabric.route_services_via(node)
    client, outside = world.client(node), world.cluster.fabric.outside
    service = world.service(type="LoadBalancer", protocol="UDP", externalIPs=["192.0.2.101"])
    world.give_ingress("web", "192.0.2.102")
    address, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]["nodePort"]
    with ExitStack() as stack:
        callers = [
            stack.enter_context(closing(Caller(host, where, number)))
            for host, where, number in (
                (client, address, 80),
                (node, address, 80),
                (client, node.ips[0], port),
                (outside, node.ips[0], port),
                (outside, "192.0.2.101", 80),
                (outside, "192.0.2.102", 80),
            )
        ]

        def all_meet(name: str) -> None:
            for caller in callers:
                eventually(lambda c=caller: c.ask() == name, f"{caller} does not meet {name}", seconds=20)  # type: ignore[misc]

        # Before any proxy runs, each flow is tracked untranslated.
        all_meet("none")
        with Proxy(subject, node, world.cluster, world.folder) as proxy:
            proxy.wait_until_synced()
            all_meet("none")
            first = world.pod("web-1", node, ready=False)
            first.set_ready()
            all_meet("web-1")
            second = world.pod("web-2", other)
            world.wait_for_endpoints(first.ip, second.ip)
            assert {caller.ask() for caller in callers} == {"web-1"}, "a flow stays where it is while it can"
            first.delete()
            all_meet("web-2")
            second.delete()
            all_meet("none")
            world.pod("web-3", other)
            all_meet("web-3")


# ---------------------------------------------------------------------- rules that another process deletes


@pytest.mark.parametrize("flush", ["everything", "our canaries"])
def test_deleted_rules_come_back(world: World, subject: Subject, backend: str, flush: str) -> None:
    """Upstream: `should recreate its iptables rules if they are deleted`. It deletes what is in nat and filter, and
    kubelet's canaries go with it."""
    node = world.node()
    client = world.client(node)
    address = world.service()["spec"]["clusterIP"]
    web = world.pod("web-1", node)
    world.wait_for_endpoints(web.ip)
    kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig")
    config = proxy_config(world.folder / "config", kubeconfig, iptables={"syncPeriod": "2s", "minSyncPeriod": "100ms"})
    with Proxy(subject, node, world.cluster, world.folder, backend=backend, config=config) as proxy:
        proxy.wait_until_synced()
        assert who(client, address) == {"web-1"}
        if flush == "everything":
            # In one command, so that the proxy cannot write in between: emptied tables, all chains removed.
            empty = "".join(f"*{table}\nCOMMIT\n" for table in ("mangle", "filter", "nat"))
            node.netns.run(f"iptables-{backend}-restore", "-w", "5", stdin=empty)
        else:
            for table in ("nat", "filter", "mangle"):
                node.netns.run(f"iptables-{backend}", "-w", "5", "-t", table, "-X", "KUBE-PROXY-CANARY")
        eventually(
            lambda: all(f":{c} " in rules(node, backend) for c in ("KUBE-PROXY-CANARY", "KUBE-SERVICES")), "not back"
        )
        meets(client, address, {"web-1"})
        assert proxy.running.alive


# ---------------------------------------------------------------------- restarts


def test_after_a_restart_of_the_proxy(world: World, subject: Subject) -> None:
    """Killed, objects change, started again: rules serve traffic all the time, and the changes are applied."""
    node = world.node()
    client = world.client(node)
    addresses = {name: world.service(name, selector={"app": name})["spec"]["clusterIP"] for name in ("stays", "goes")}
    stays, goes = world.pod("stays-1", node, app="stays"), world.pod("goes-1", node, app="goes")
    world.wait_for_endpoints(stays.ip, service="stays")
    world.wait_for_endpoints(goes.ip, service="goes")
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        with load(client, addresses["stays"], 80, 50) as verdict:
            proxy.kill()
            assert who(client, addresses["goes"]) == {"goes-1"}
            world.api.delete("Service", "goes", world.namespace)
            new = world.service("new", selector={"app": "stays"})["spec"]["clusterIP"]
            assert who(client, new, count=3, timeout=QUICK) != {"stays-1"}
            proxy.start().wait_until_synced()
            meets(client, new, {"stays-1"})
            eventually(
                lambda: f"{addresses['goes']}/32" not in rules(node, "nft"), "a Service that went is still there"
            )
        verdict.assert_unbroken(at_least=50)


def test_after_a_restart_of_the_api_server(world: World, subject: Subject) -> None:
    node = world.node()
    client = world.client(node)
    address = world.service()["spec"]["clusterIP"]
    pod = world.pod("web-1", node)
    world.wait_for_endpoints(pod.ip)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        with load(client, address, 80, 50) as verdict:
            world.cluster.restart_api_server(kill=True)
            late = world.service("late", selector={"app": "web"})["spec"]["clusterIP"]
            meets(client, late, {"web-1"})
        verdict.assert_unbroken(at_least=50)
        assert proxy.running.alive


def test_services_up_and_down(world: World, subject: Subject) -> None:
    """Upstream: `should be able to up and down services`: other Services are not affected."""
    node = world.node()
    client = world.client(node)
    for i in (1, 2):
        world.pod(f"web-{i}", node)
    first = world.service("first", selector={"app": "web"})["spec"]["clusterIP"]
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        meets(client, first, {"web-1", "web-2"})
        with load(client, first, 80, 50) as verdict:
            for i in range(3):
                address = world.service(f"more-{i}", selector={"app": "web"})["spec"]["clusterIP"]
                meets(client, address, {"web-1", "web-2"})
                world.api.delete("Service", f"more-{i}", world.namespace)
                gone = partial(who, client, address, count=3, timeout=QUICK)
                eventually(lambda gone=gone: not {"web-1", "web-2"} & gone(), "still up")  # type: ignore[misc]
        verdict.assert_unbroken(at_least=50)


# ---------------------------------------------------------------------- the rest


def test_how_soon_new_services_work(world: World, subject: Subject, record_property: pytest.RecordProperty) -> None:
    """Upstream: `Service endpoints latency should not be very high`. The latency is recorded, not judged."""
    node = world.node()
    pod = world.pod("web-1", node)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        seconds = []
        for i in range(20):
            since = time.monotonic()
            address = world.service(f"s-{i}", selector={"app": "web"})["spec"]["clusterIP"]

            def connects(address: str = address) -> bool:
                try:
                    # A longer time-out would include the kernel's second SYN, a second later.
                    node.netns.call(lambda: socket.create_connection((address, 80), 0.02)).close()
                except OSError:
                    return False
                return True

            eventually(connects, f"{address} does not come up", every=0.002)
            seconds.append(time.monotonic() - since)
        del pod
        seconds.sort()
        said = f"{subject.value}: p50 {statistics.median(seconds) * 1000:.0f} ms, p90 {seconds[17] * 1000:.0f} ms"
        print(said)
        record_property("latency", said)


def test_large_requests(world: World, subject: Subject) -> None:
    """Upstream: `should function for large requests`: beyond the MTU; a datagram travels in fragments."""
    node, other = world.node("node-1"), world.node("node-2")
    client = world.client(node)
    world.pod("web-1", other)
    ports = [objects.port("t"), objects.port("u", protocol="UDP")]
    address = world.service(ports=ports)["spec"]["clusterIP"]
    line = bytes(97 + i * i % 23 for i in range(60_000)) + b"\n"
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        meets(client, address, {"web-1"})
        with client.netns.call(lambda: socket.create_connection((address, 80), 5)) as stream:
            stream.sendall(line)
            got = b""
            while len(got) < len(line):
                part = stream.recv(65536)
                assert part, "closed in the middle"
                got += part
            assert got == line
        with client.netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as channel:
            channel.settimeout(5)
            channel.connect((address, 80))
            channel.send(b"x" * 4000)
            assert b'"pod": "web-1"' in channel.recv(4096)


def test_node_ports_on_localhost(world: World, subject: Subject) -> None:
    """localhost_nodeports.go: 127.0.0.1 serves IPv4 node ports, unless the configuration says no."""
    node = world.node()
    service = world.service(type="NodePort")
    web = world.pod("web-1", node)
    world.wait_for_endpoints(web.ip)
    port = service["spec"]["ports"][0]["nodePort"]
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        meets(node, "127.0.0.1", {"web-1"}, port=port)
        proxy.stop()
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig")
        config = proxy_config(world.folder / "strict", kubeconfig, iptables={"localhostNodePorts": False})
    with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
        proxy.wait_until_synced()
        eventually(
            lambda: "web-1" not in who(node, "127.0.0.1", port, count=3, timeout=QUICK),
            "localhost still serves node ports",
        )
        assert who(node, node.ips[0], port) == {"web-1"}


def test_sctp_gets_rules(world: World, subject: Subject) -> None:
    """This kernel does not support SCTP, so only the rules are checked."""
    node = world.node()
    address = world.service(protocol="SCTP")["spec"]["clusterIP"]
    pod = world.pod("web-1", node)
    with Proxy(subject, node, world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        wanted = f"-d {address}/32 -p sctp"
        eventually(lambda: wanted in rules(node, "nft"), f"no {wanted}")
        eventually(
            lambda: (
                f'-p sctp -m comment --comment "{world.namespace}/web:main" -m sctp -j DNAT --to-destination '
                f"{pod.ip}:{PORTS[0]}" in rules(node, "nft")
            ),
            "no DNAT for SCTP",
        )
        steadily(lambda: proxy.running.alive, "the proxy ended", seconds=0.2)


def test_kube_proxys_urls(world: World, subject: Subject) -> None:
    """Upstream: `Networking should check kube-proxy urls`."""
    with Proxy(subject, world.node(), world.cluster, world.folder) as proxy:
        proxy.wait_until_synced()
        assert proxy.http("/healthz", HEALTH).status == 200
        assert proxy.http("/healthz").status == 200
        assert proxy.http("/proxyMode").text == "iptables"
        assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in proxy.http("/metrics").text
        slis = proxy.http("/metrics/slis").text
        assert {line.split()[0] for line in slis.splitlines() if line[0] != "#"} == {"process_start_time_seconds"}
        flagz = proxy.http("/flagz").text.splitlines()
        assert any("hostname-override" in line and proxy.node.name in line for line in flagz)
        assert "/configz /flagz /healthz /metrics /proxyMode" in proxy.http("/statusz").text
        close_wait = proxy.node.netns.run("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").stdout
        assert close_wait.strip() == "3600", "kube_proxy.go: the timeout for CLOSE_WAIT"
