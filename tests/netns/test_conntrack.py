"""Stale flows on a real kernel: real UDP clients that keep their port, and tables of a hundred thousand entries."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ferrule._engine import ConntrackView, Engine, EngineOptions
from ferrule.dataplane.conntrack import Cleaned, ConntrackCleaner, clean
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.host.addresses import local_addresses
from ferrule.process.runner import Runner
from ferrule.testing.lab import NODE_IPS, OUTSIDE_IPS, Host, Lab
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import PATIENCE, eventually, soon
from ferrule.types import FAMILIES, KINDS, Backend, Family
from tests.netns.flows import Flow, insert, table
from tests.objects import EXTERNAL_IP, LB_IP, NODE, NODE_PORT, V4, V6, endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

UDP = {"protocol": "UDP"}
EVERYWHERE = {"type": "LoadBalancer", "nodePort": NODE_PORT, "lb": [LB_IP], "externalIPs": [EXTERNAL_IP]}


@dataclass
class Proxy:
    """What the daemon does around a sync, step by step, in a namespace; `kernel=False` leaves the rules out."""

    netns: NetNs
    kernel: bool = True
    engine: Engine = field(default_factory=lambda: Engine(EngineOptions(node_name="node-1")))

    def __post_init__(self) -> None:
        self.engine.set_local_addresses(self.netns.call(local_addresses))
        self._observed = False

    def sync(self, *objects: dict[str, Any]) -> dict[Family, ConntrackView | None]:
        for kind in KINDS:
            items = [o for o in (*objects, NODE) if o["kind"] == kind]
            self.engine.replace(kind, [json.dumps(items).encode()])
        for family in FAMILIES:
            plane = IptablesDataplane(family, Backend.NFT, Runner(self.netns.prefix))
            if not self._observed:
                self.engine.observe(family, asyncio.run(plane.save()) if self.kernel else b"")
            plan = self.engine.plan(family)
            if plan is not None:
                if self.kernel:
                    asyncio.run(plane.restore(plan.payload))
                self.engine.commit(plan)
        self._observed = True
        return {family: self.engine.conntrack_view(family) for family in FAMILIES}

    def clean(self, view: ConntrackView | None) -> Cleaned:
        assert view is not None
        return self.netns.call(lambda: clean(view, threading.Event()))

    def table(self, family: Family = "ipv4") -> set[Flow]:
        return self.netns.call(lambda: table(family))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(local=["a", "b"]) as lab:
        yield lab


def sip(host: Host, port: int, to: tuple[str, int]) -> str:
    """Send one datagram from a fixed port; returns the name of the Pod that answers."""
    return str(json.loads(send(host, port, to, 4096))["pod"])


def send(host: Host, port: int, to: tuple[str, int], answer_size: int = 0) -> bytes:
    """Send one datagram from a fixed port, and wait for an answer if it may have a size."""

    def exchange() -> bytes:
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            channel.bind((host.ips[family == socket.AF_INET6], port))
            channel.settimeout(PATIENCE)  # time: the deadline at which a test fails
            channel.sendto(b"?", to)
            return channel.recv(answer_size) if answer_size else b""

    return host.netns.call(exchange)


def pods_of(lab: Lab, *names: str, **state: bool) -> list[dict[str, Any]]:
    return [
        endpoint_slice([endpoint(lab.pod_ip(n, v6=v6), **state) for n in names], family="IPv6" if v6 else "IPv4", **UDP)
        for v6 in (False, True)
    ]


def udp_service(**spec: Any) -> dict[str, Any]:
    return service(protocol="UDP", **spec)


def flush(lab: Lab) -> None:
    """Rules and entries of the test before."""
    for tool in ("iptables-nft", "ip6tables-nft"):
        for name in ("nat", "filter", "mangle"):
            lab.node.netns.run(tool, "-t", name, "-F")
            lab.node.netns.run(tool, "-t", name, "-X")
    proxy = Proxy(lab.node.netns, kernel=False)
    for family in FAMILIES:
        everything = proxy.table(family)
        frontends = {f.destination for f in everything if f.protocol == "udp"}
        assert len(frontends) < 100
        for number, (ip, port) in enumerate(sorted(frontends)):
            views = proxy.sync(
                udp_service(
                    name=f"s{number}",
                    port=port,
                    clusterIP=ip,
                    clusterIPs=[ip],
                    ipFamilies=["IPv6" if ":" in ip else "IPv4"],
                )
            )
            proxy.clean(views[family])


@pytest.fixture
def proxy(lab: Lab) -> Proxy:
    flush(lab)
    return Proxy(lab.node.netns)


def test_every_kind_of_frontend_follows_its_endpoints(lab: Lab, proxy: Proxy) -> None:
    node, outside, client = lab.node, lab["outside"], lab["client"]
    flows: dict[Family, list[tuple[Host, int, tuple[str, int]]]] = {
        "ipv4": [
            (client, 40001, (V4, 80)),
            (node, 40002, (V4, 80)),
            (outside, 40003, (NODE_IPS[0], NODE_PORT)),
            (outside, 40005, (EXTERNAL_IP, 80)),
            (outside, 40006, (LB_IP, 80)),
        ],
        "ipv6": [(client, 40001, (V6, 80)), (outside, 40003, (NODE_IPS[1], NODE_PORT))],
    }

    def who(family: Family) -> list[str]:
        return [sip(*flow) for flow in flows[family]]

    views = proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "a"))
    assert all(proxy.clean(views[family]).deleted == 0 for family in FAMILIES)
    for family in FAMILIES:
        assert set(who(family)) == {"a"}
    bystander = (client, 40009, (OUTSIDE_IPS[0], NODE_PORT))
    send(*bystander)  # no host answers there; the entry is what counts
    eventually(lambda: any(f.source[1] == 40009 for f in proxy.table()))
    tcp = Flow(("10.128.1.77", 1), (V4, 80), ("10.128.1.99", 8080), "tcp")
    proxy.netns.call(lambda: insert([tcp]))

    views = proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "b"))
    for family in FAMILIES:
        assert set(who(family)) == {"a"}, "clients that keep their port are stuck with the old Pod"
        done = proxy.clean(views[family])
        assert (done.deleted, done.errors, done.complete) == (len(flows[family]), 0, True)
        assert set(who(family)) == {"b"}

    left = proxy.table()
    assert tcp in left
    assert any(f.source[1] == 40009 and f.destination == bystander[2] for f in left)
    assert proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "b")) == {"ipv4": None, "ipv6": None}


def test_a_flow_older_than_the_rules_gets_an_answer(lab: Lab, proxy: Proxy) -> None:
    flow = (lab["client"], 40001, (V4, 80))

    def entry() -> list[tuple[str, int]]:
        return [f.replies_from for f in proxy.table() if f.source[1] == 40001]

    proxy.sync()
    send(*flow)
    assert eventually(entry) == [(V4, 80)]
    views = proxy.sync(udp_service(), *pods_of(lab, "a"))
    send(*flow)
    # A datagram of another flow that comes after it passes all the way.
    assert sip(flow[0], 40002, flow[2]) == "a"
    assert entry() == [(V4, 80)], "the entry to the bare address stands"
    assert proxy.clean(views["ipv4"]).deleted == 1
    assert sip(*flow) == "a"


def test_scaled_to_nothing_and_back(lab: Lab, proxy: Proxy) -> None:
    flows = [(lab["client"], 40001, (V4, 80)), (lab["outside"], 40003, (NODE_IPS[0], NODE_PORT))]
    proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "a"))
    assert [sip(*f) for f in flows] == ["a", "a"]
    views = proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab))
    assert proxy.clean(views["ipv4"]).deleted == 2
    assert not [f for f in proxy.table() if f.replies_from == (lab.pod_ip("a"), 8080)]
    views = proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "b"))
    proxy.clean(views["ipv4"])
    assert [sip(*f) for f in flows] == ["b", "b"]


def test_only_a_deleted_services_flows_are_removed(lab: Lab, proxy: Proxy) -> None:
    other = udp_service(name="other", clusterIP="10.96.0.11", clusterIPs=["10.96.0.11"], ipFamilies=["IPv4"])
    others_slice = endpoint_slice([endpoint(lab.pod_ip("a"))], of="other", **UDP)
    ours = [(lab["client"], 40001, (V4, 80)), (lab["outside"], 40003, (NODE_IPS[0], NODE_PORT))]
    others = (lab["client"], 40002, ("10.96.0.11", 80))
    proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "a"), other, others_slice)
    assert [sip(*f) for f in (*ours, others)] == ["a", "a", "a"]
    views = proxy.sync(*pods_of(lab, "a"), other, others_slice)
    assert [sip(*f) for f in ours] == ["a", "a"], "without clean-up a deleted Service goes on serving"
    done = proxy.clean(views["ipv4"])
    assert (done.deleted, done.errors) == (2, 0)
    assert {f.source[1] for f in proxy.table() if f.replies_from[0] == lab.pod_ip("a")} == {40002}


def test_a_restart_cuts_no_live_flow_but_the_stale_ones(lab: Lab, proxy: Proxy) -> None:
    proxy.sync(udp_service(), *pods_of(lab, "a", "b"))
    ports = range(40001, 40021)
    before = {port: sip(lab["client"], port, (V4, 80)) for port in ports}
    assert set(before.values()) == {"a", "b"}
    restarted = Proxy(lab.node.netns)
    views = restarted.sync(udp_service(), *pods_of(lab, "b"))
    stale = [port for port in ports if before[port] == "a"]
    assert restarted.clean(views["ipv4"]).deleted == len(stale)
    assert {port: sip(lab["client"], port, (V4, 80)) for port in ports} == dict.fromkeys(ports, "b")


def test_endpoints_that_went_while_the_daemon_was_down(lab: Lab, proxy: Proxy) -> None:
    """Every kind of frontend loses its flows to the Pod; untranslated flows to the node port stay."""
    pod = (lab.pod_ip("a"), 8080)
    frontends = [(NODE_IPS[0], NODE_PORT), (EXTERNAL_IP, 80), (LB_IP, 80), (V4, 80)]
    proxy.sync(udp_service(**EVERYWHERE), *pods_of(lab, "a"))
    hosts = [lab["outside"]] * 3 + [lab["client"]]
    assert [sip(h, 40001 + i, to) for i, (h, to) in enumerate(zip(hosts, frontends, strict=True))] == ["a"] * 4
    assert {f.destination for f in proxy.table() if f.replies_from == pod} == set(frontends)
    untranslated = Flow(("198.51.100.77", 40009), (NODE_IPS[0], NODE_PORT), (NODE_IPS[0], NODE_PORT))
    proxy.netns.call(lambda: insert([untranslated]))

    restarted = Proxy(lab.node.netns)
    views = restarted.sync(udp_service(**EVERYWHERE), *pods_of(lab))
    done = restarted.clean(views["ipv4"])
    assert (done.deleted, done.errors, done.complete) == (len(frontends), 0, True)
    left = proxy.table()
    assert not [f for f in left if f.replies_from == pod]
    assert untranslated in left


def test_a_terminating_endpoint_keeps_its_flows_while_it_serves(lab: Lab, proxy: Proxy) -> None:
    flow = (lab["client"], 40001, (V4, 80))
    proxy.sync(udp_service(), *pods_of(lab, "a"))
    assert sip(*flow) == "a"

    def with_a(serving: bool) -> list[dict[str, Any]]:
        a = endpoint(lab.pod_ip("a"), ready=False, serving=serving, terminating=True)
        return [udp_service(), endpoint_slice([a, endpoint(lab.pod_ip("b"))], **UDP)]

    views = proxy.sync(*with_a(serving=True))
    assert proxy.clean(views["ipv4"]).deleted == 0
    assert sip(*flow) == "a"
    assert sip(lab["client"], 40002, (V4, 80)) == "b", "new flows go elsewhere"
    views = proxy.sync(*with_a(serving=False))
    assert proxy.clean(views["ipv4"]).deleted == 1
    assert sip(*flow) == "b"


# ---------------------------------------------------------------- tables, without packets


def big_table(count: int) -> tuple[list[Flow], int]:
    """Flows of every sort, and how many of them are stale for a Service with the one endpoint 10.128.2.1."""
    sorts: list[Callable[[tuple[str, int]], Flow]] = [
        lambda s: Flow(s, (V4, 80), ("10.128.2.1", 8080)),
        lambda s: Flow(s, (V4, 80), ("10.128.2.9", 8080)),
        lambda s: Flow(s, ("8.8.8.8", 53), ("8.8.8.8", 53)),
        lambda s: Flow(s, (V4, 80), ("10.128.2.9", 8080), "tcp"),
        lambda s: Flow(s, (V4, 80), (V4, 80)),
    ]
    flows = [sorts[i % 5]((f"10.129.{i // 50000}.{i % 250}", 1024 + i // 250 % 60000)) for i in range(count)]
    return flows, 2 * count // 5


def room(count: int) -> int:
    """As many entries as this kernel's table takes, at most `count`."""
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    return min(count, limit * 4 // 5 // 5 * 5)


def test_a_hundred_thousand_entries(netns: NetNs) -> None:
    count = room(100_000)
    flows, stale = big_table(count)
    netns.call(lambda: insert(flows))
    proxy = Proxy(netns, kernel=False)
    views = proxy.sync(udp_service(), endpoint_slice([endpoint("10.128.2.1")], **UDP))
    done = proxy.clean(views["ipv4"])
    assert (done.deleted, done.errors, done.complete) == (stale, 0, True)
    assert done.seen in (count, count * 4 // 5), "all, or all but TCP where the kernel filters"
    left = proxy.table()
    assert left == {f for i, f in enumerate(flows) if i % 5 not in (1, 4)}
    again = proxy.clean(views["ipv4"])
    assert again.deleted == 0
    print(f"\n{count} entries, {stale} deleted: {done.seconds:.3f} s; nothing to delete: {again.seconds:.3f} s")


def test_zones_are_told_apart(netns: NetNs) -> None:
    source = ("10.129.0.1", 1000)
    dead = ("10.128.2.9", 8080)
    flows = [Flow(source, (V4, 80), dead, zone=z) for z in (0, 5)] + [Flow(source, (V4, 80), (V4, 80), zone=6)]
    netns.call(lambda: insert(flows))
    proxy = Proxy(netns, kernel=False)
    views = proxy.sync(udp_service(), endpoint_slice([endpoint("10.128.2.1")], **UDP))
    done = proxy.clean(views["ipv4"])
    assert (done.deleted, done.errors) == (2, 0)
    assert proxy.table() == {flows[2]}


def test_without_udp_services_the_table_is_not_read(netns: NetNs) -> None:
    netns.call(lambda: insert(big_table(50)[0]))
    proxy = Proxy(netns, kernel=False)
    views = proxy.sync(service(), endpoint_slice([endpoint("10.128.2.1")]))
    assert proxy.clean(views["ipv4"]).seen == 0


def test_the_cleaner_runs_beside_the_loop(netns: NetNs) -> None:
    """In the real event loop, through `run`."""
    netns.call(lambda: insert(big_table(1000)[0]))
    proxy = Proxy(netns, kernel=False)
    views = proxy.sync(udp_service(), endpoint_slice([endpoint("10.128.2.1")], **UDP))

    async def serve() -> Cleaned:
        first: asyncio.Future[Cleaned] = asyncio.get_running_loop().create_future()
        cleaner = ConntrackCleaner(on_cleaned=lambda done: first.done() or first.set_result(done))
        task = asyncio.create_task(cleaner.run())
        cleaner.after_sync("ipv4", views["ipv4"])
        done = await soon(first)
        task.cancel()
        return done

    assert netns.call(lambda: asyncio.run(serve())).deleted == 400


WITHOUT_RIGHTS = """
import asyncio, json, sys
from ferrule._engine import Engine, EngineOptions
from ferrule.dataplane.conntrack import ConntrackCleaner
engine = Engine(EngineOptions(node_name="node-1"))
for kind, items in json.load(sys.stdin).items():
    engine.replace(kind, [json.dumps(items).encode()])
engine.observe("ipv4", b"")
engine.commit(engine.plan("ipv4"))
cleaner = ConntrackCleaner()
cleaner.after_sync("ipv4", engine.conntrack_view("ipv4"))
asyncio.run(cleaner.clean_owed())
print(cleaner.degraded["ipv4"])
"""


def test_without_rights_it_is_a_state_not_a_crash(netns: NetNs) -> None:
    objects = {
        "Service": [udp_service()],
        "EndpointSlice": [endpoint_slice([endpoint("10.128.2.1")], **UDP)],
        "Node": [],
    }
    done = netns.run("setpriv", "--bounding-set=-all", sys.executable, "-c", WITHOUT_RIGHTS, stdin=json.dumps(objects))
    assert "CAP_NET_ADMIN" in done.stdout
