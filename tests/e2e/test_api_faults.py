"""Tests faults of the API server: crashes, wrong data, slow bytes, silence. Rules stay unchanged, requests stay
within the back-off's bound, and changes arrive afterwards. `test_faulty_proxy` tests each faulty watch."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ferrule.source.api import reflector
from ferrule.testing.lab import Host, pods
from tests.e2e import impatient
from tests.e2e.harness import faults, objects
from tests.e2e.harness.cluster import PORT
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.faults import Fault
from tests.e2e.harness.faulty_proxy import FaultyProxy
from tests.e2e.harness.load import load
from tests.e2e.harness.process import Process
from tests.e2e.harness.subject import HEALTH, Proxy, Subject, assert_alive, proxy_config, rules
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import Pod, World

pytestmark = pytest.mark.netns

KINDS = {"services": "Service", "endpointslices": "EndpointSlice", "nodes": "Node"}
AWAY_SECONDS = 5.0
NOTHING_FOLLOWS = "Cannot follow the API server"

Record = Callable[[str, object], None]


def most_requests(seconds: float, limit: float = reflector.BACKOFF_MAX) -> int:
    """Returns the maximum number of requests of one kind during a failure, with the shortest waits of the back-off."""
    end, asked = 0.0, 0
    while end <= seconds:
        end += min(reflector.BACKOFF_FIRST * 2.0**asked, limit)
        asked += 1
    return asked


class Impatient(Proxy):
    """ferrule with time-outs of seconds instead of minutes for a silent server."""

    def argv(self) -> tuple[str, ...]:
        python, _module, _ferrule, *rest = super().argv()
        return (python, impatient.__file__, *rest)


@dataclass
class Shop:
    """A Service with a Pod, a client, and ferrule between them and the API server."""

    world: World
    node: NodeHost
    client: Host
    web: Pod
    address: str
    between: FaultyProxy
    proxy: Proxy

    def serves(self) -> bool:
        return self.client.ask(self.address, 80)[0].pod == self.web.name

    def has(self, address: str) -> bool:
        return f"{address}/32" in rules(self.node, self.proxy.backend)

    def add(self, name: str) -> str:
        """Creates a Service without endpoints. Returns its address."""
        return str(self.world.service(name, selector={})["spec"]["clusterIP"])

    def follows(self, *addresses: str, without: str = "") -> None:
        eventually(
            lambda: all(map(self.has, addresses)) and not (without and self.has(without)),
            lambda: f"does not catch up:\n{self.proxy.running.tail()}",
        )

    def says(self, *words: str) -> bool:
        """Returns whether `/readyz` contains all words."""
        return all(word in self.readiness()[1] for word in words)

    def ours(self) -> int:
        """Returns the number of ferrule's rules in the kernel."""
        return rules(self.node, self.proxy.backend).count("\n-A KUBE-")

    def syncs(self) -> int:
        return self.proxy.syncs()

    def start(self) -> None:
        self.proxy.start().wait_until_synced()
        eventually(self.serves, lambda: f"no answer through the Service:\n{self.proxy.running.tail()}")

    def readiness(self) -> tuple[int, str]:
        try:
            reply = self.proxy.http("/readyz")
        except OSError:
            return 0, ""
        return reply.status, reply.text


@pytest.fixture
def shop(world: World) -> Iterator[Shop]:
    """Yields a shop whose proxy is not started."""
    with make_shop(world, Proxy) as made:
        yield made


@contextmanager
def make_shop(world: World, kind: type[Proxy]) -> Iterator[Shop]:
    node = world.node()
    client, web_1 = world.client(node), world.pod("web-1", node)
    address = str(world.service()["spec"]["clusterIP"])
    world.wait_for_endpoints(web_1.ip)
    with FaultyProxy(world.cluster) as between:
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url)
        config = proxy_config(world.folder / "config", kubeconfig)
        proxy = kind(Subject.FERRULE, node, world.cluster, world.folder, config=config)
        try:
            yield Shop(world, node, client, web_1, address, between, proxy)
        finally:
            proxy.kill()


@contextmanager
def changes(node: NodeHost, log: Path) -> Iterator[Process]:
    """Records the kernel's notifications of rule changes on the node while the block runs."""
    monitor = Process(node.netns, ("stdbuf", "-oL", "xtables-monitor", "--event"), log)
    try:
        yield monitor
    finally:
        monitor.kill()


@contextmanager
def connections(world: World) -> Iterator[Callable[[], int]]:
    """Counts attempts to connect to the API server's port over the fabric, refused ones too."""
    api = world.cluster.host.netns
    rule = ("INPUT", "-i", "eth0", "-p", "tcp", "--dport", str(PORT), "--syn")

    def counted() -> int:
        listed = api.run("iptables-nft", "-L", "INPUT", "-n", "-v", "-x").stdout
        (line,) = (line for line in listed.splitlines() if f"dpt:{PORT}" in line)
        return int(line.split()[0])

    api.run("iptables-nft", "-A", *rule)
    try:
        yield counted
    finally:
        api.run("iptables-nft", "-D", *rule)


# ---------------------------------------------------------------------- it is away


def test_a_killed_api_server_costs_no_rule_and_no_connection(world: World, record_property: Record) -> None:
    """The server's process ends under load and restarts: no write to the kernel, a handful of connection attempts."""
    node = world.node()
    client, web_1 = world.client(node), world.pod("web-1", node)
    address = world.service()["spec"]["clusterIP"]
    world.wait_for_endpoints(web_1.ip)
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(Subject.FERRULE, node, world.cluster, world.folder))
        proxy.wait_until_synced()
        eventually(lambda: client.ask(address, 80)[0].pod == "web-1", "no answer through the Service")
        attempts = stack.enter_context(connections(world))
        events = stack.enter_context(changes(node, world.folder / "monitor.log"))
        with load(client, address, 80) as verdict:
            since = time.monotonic()
            with world.cluster.api_server_stopped():
                eventually(lambda: proxy.running.lines(NOTHING_FOLLOWS), "nothing about it in the log")
                steadily(lambda: proxy.running.alive, "ferrule ended", seconds=AWAY_SECONDS)
                asked, took = attempts(), time.monotonic() - since
                assert proxy.http("/healthz", HEALTH).status == 200
            eventually(
                lambda: len(proxy.running.lines("Following the API server again")) == len(KINDS),
                lambda: f"does not follow again:\n{proxy.running.tail()}",
            )
        verdict.assert_unbroken(at_least=200)
        assert not events.lines("EVENT"), f"the kernel's rules were touched:\n{events.tail()}"
        most = len(KINDS) * most_requests(took, reflector.ABSENT_MAX)
        assert asked <= most, f"{asked} attempts in {took:.1f} s"
        record_property("attempts", asked)
        print(f"{took:.1f} s without a server: {asked} attempts to connect; {verdict}")
        fresh = world.service("after", selector={})["spec"]["clusterIP"]
        eventually(lambda: f"{fresh}/32" in rules(node, proxy.backend), proxy.running.tail)
        assert events.lines("EVENT"), "the monitor sees nothing at all"


@pytest.mark.parametrize("silence", ["packets vanish", "bytes vanish"])
def test_silence_is_noticed_while_it_lasts(world: World, silence: str, record_property: Record) -> None:
    """No RST, no FIN: only time reveals it. Changes during the silence arrive after it."""
    with make_shop(world, Impatient) as shop:
        shop.start()
        told = shop.syncs()
        doomed = shop.add("doomed")
        shop.follows(doomed)
        eventually(lambda: shop.syncs() > told, shop.proxy.running.tail)
        before, syncs = shop.ours(), shop.syncs()
        between = shop.between
        with world.cluster.black_hole(between.port) if silence == "packets vanish" else between.frozen():
            began = time.monotonic()
            world.api.delete("Service", "doomed", world.namespace)
            fresh = shop.add("meanwhile")
            eventually(
                lambda: len(shop.proxy.running.lines(NOTHING_FOLLOWS)) >= len(KINDS),
                lambda: f"silence is not detected:\n{shop.proxy.running.tail()}",
            )
            noticed = time.monotonic() - began
            assert shop.proxy.running.lines(NOTHING_FOLLOWS, "timeout: connected, but the response stalled")
            steadily(shop.serves, "traffic stopped", seconds=AWAY_SECONDS, every=0.5)
            assert shop.ours() == before
            assert shop.syncs() == syncs, "rules were written without news"
        record_property("noticed", round(noticed, 1))
        print(f"{silence}: all noticed after {noticed:.1f} s")
        shop.follows(fresh, without=doomed)


def test_a_frozen_process_is_not_behind_for_long(shop: Shop) -> None:
    """A paused virtual machine: its timers are all due when it continues."""
    shop.start()
    between, child = shop.between, shop.proxy.running.child
    doomed = shop.add("doomed")
    shop.follows(doomed)
    child.send_signal(signal.SIGSTOP)
    try:
        world = shop.world
        world.api.delete("Service", "doomed", world.namespace)
        fresh = shop.add("meanwhile")
        time.sleep(AWAY_SECONDS)
        since = time.monotonic()
    finally:
        child.send_signal(signal.SIGCONT)
    shop.follows(fresh, without=doomed)
    assert not shop.proxy.running.lines(NOTHING_FOLLOWS)
    assert between.count(since=since) <= len(KINDS), "it went to the server for what the stream held"


# ---------------------------------------------------------------------- it says nonsense


def test_bytes_that_drip(shop: Shop) -> None:
    """Lists and watches in small pieces, from the first request on."""
    with shop.between.dripping():
        shop.start()
        fresh = shop.add("after")
        shop.follows(fresh)
        second = shop.world.pod("web-2", shop.node)
        shop.world.wait_for_endpoints(shop.web.ip, second.ip)
        eventually(lambda: "web-2" in pods(shop.client.ask(shop.address, 80, count=20)), "no second Pod")
    assert not shop.proxy.running.lines(NOTHING_FOLLOWS), "a slow server is not a failure"


def as_json(body: bytes) -> Fault:
    return faults.answer(200, body, content_type="application/json")


# The responses to lists of EndpointSlices and of Nodes, and the reasons in /readyz.
LISTS: dict[str, tuple[tuple[Fault, str], tuple[Fault, str]]] = {
    "expired, throttled": (
        (faults.gone(), "status (410): too old resource version"),
        (faults.too_many(1), "status (429): the server has received too many requests"),
    ),
    "nothing, a crash": (
        (faults.empty(), "the list cannot be used"),
        (faults.internal_error(), "status (500): etcdserver: request timed out"),
    ),
    "half a list, a gateway": (
        (faults.truncated(), "the response ended early"),
        (faults.html(), "status (502): <html>"),
    ),
    "HTML called JSON, HTML": (
        (as_json(b"<html>"), "the list cannot be used"),
        (faults.html_as_ok(), "answered with text/html, not application/json"),
    ),
    "no list, a reset": (
        (as_json(b'{"kind":"Status","apiVersion":"v1","metadata":{}}'), "the list cannot be used"),
        (faults.reset(), "the connection ended without a response"),
    ),
    "no right, no name": (
        (faults.forbidden(), "status (403): services is forbidden"),
        (faults.unauthorized(), "status (401): Unauthorized"),
    ),
}


@pytest.mark.parametrize("spoilt", LISTS.values(), ids=LISTS)
def test_a_start_while_lists_are_spoilt(shop: Shop, spoilt: tuple[tuple[Fault, str], ...]) -> None:
    """The dangerous case: all Services are known, no endpoint is, and rules of the previous run serve traffic."""
    shop.start()
    shop.proxy.stop()
    before = shop.ours()
    fresh = shop.add("after")
    kinds = ("endpointslices", "nodes")
    with ExitStack() as stack:
        for path, (fault, _) in zip(kinds, spoilt, strict=True):
            stack.enter_context(shop.between.inject(fault, path, watch=False))
        since = time.monotonic()
        shop.proxy.start()
        for path, (_, why) in zip(kinds, spoilt, strict=True):
            wanted = f"{KINDS[path]} list ({shop.between.url}: "
            eventually(
                partial(shop.says, wanted, why),
                partial("no {} in\n{}".format, why, shop.proxy.running.tail()),
            )
        eventually(lambda: not shop.says("Service list"), lambda: f"no list of Services: {shop.readiness()}")
        assert shop.readiness()[0] == 503
        assert shop.proxy.http("/livez", HEALTH).status == 200, "kubelet would start it again, for nothing"
        assert shop.proxy.http("/healthz", HEALTH).status == 503, "no Node yet: not eligible, as stock has it"
        steadily(shop.serves, "traffic of the rules before stopped", seconds=1.0)
        assert_alive(shop.proxy.running)
        assert shop.syncs() == 0
        assert shop.ours() == before, "rules without a list"
        took = time.monotonic() - since
        for path in kinds:
            asked = shop.between.count(path, since=since)
            assert asked <= most_requests(took), f"{asked} requests for {path} in {took:.1f} s"
    shop.follows(fresh)
    eventually(lambda: shop.readiness()[0] == 200, lambda: f"not ready: {shop.readiness()}")
    assert shop.serves()


RETRY_AFTER = 5

WATCHES: dict[str, dict[str, Fault]] = {
    "refusals": {"services": faults.gone(), "endpointslices": faults.empty(), "nodes": faults.too_many(RETRY_AFTER)},
    "rubbish": {"services": faults.html_as_ok(), "endpointslices": faults.truncated(), "nodes": faults.reset()},
}
WATCH_FAULT_SECONDS = 10.0


@pytest.mark.parametrize("kinds", WATCHES.values(), ids=WATCHES)
def test_every_watch_fails_in_its_own_way(shop: Shop, kinds: dict[str, Fault], record_property: Record) -> None:
    """Three kinds concurrently, each within the back-off's bound; a 410 requires a list in addition to each watch."""
    shop.start()
    between = shop.between
    with ExitStack() as stack:
        for path, fault in kinds.items():
            stack.enter_context(between.inject(fault, path, watch=True))
        since = time.monotonic()
        between.break_streams()
        eventually(lambda: len(shop.proxy.running.lines(NOTHING_FOLLOWS)) >= len(KINDS), "nothing in the log")
        added = shop.add("meanwhile")
        steadily(shop.serves, "traffic stopped", seconds=WATCH_FAULT_SECONDS, every=0.5)
        took = time.monotonic() - since
        asked = {path: between.count(path, watch=True, since=since) for path in kinds}
        lists = {path: between.count(path, watch=False, since=since) for path in kinds}
    record_property("asked", asked)
    print(f"{took:.1f} s: watches {asked}, lists {lists}, at most {most_requests(took)} each")
    for path, number in asked.items():
        assert number <= most_requests(took), f"{number} watches of {path} in {took:.1f} s"
        assert lists[path] <= number, f"{lists[path]} lists of {path} in {took:.1f} s"
    if kinds is WATCHES["refusals"]:
        assert asked["nodes"] <= 1 + took / RETRY_AFTER, "Retry-After is not obeyed"
    shop.follows(added)
    assert_alive(shop.proxy.running)


def test_one_object_as_large_as_the_api_takes(shop: Shop) -> None:
    """1.4 MiB in one EndpointSlice; etcd accepts 1.5 MiB. First by watch, then in the list of the next start."""
    shop.start()
    padding = {"kind": "Pod", "namespace": shop.world.namespace, "fieldPath": "x" * 14_000}
    heavy = [
        {"addresses": [f"10.128.9.{n}"], "conditions": {"ready": True}, "targetRef": padding | {"name": f"p-{n}"}}
        for n in range(1, 101)
    ]
    slice_ = objects.endpoint_slice("heavy", shop.world.namespace, "heavy", heavy)
    shop.world.service("heavy", selector={})
    shop.world.api.create(slice_)

    def programmed() -> bool:
        return rules(shop.node, shop.proxy.backend).count("--to-destination 10.128.9.") == len(heavy)

    eventually(programmed, lambda: f"100 endpoints are not programmed:\n{shop.proxy.running.tail()}")
    shop.proxy.stop()
    shop.start()
    assert programmed()
    assert not shop.proxy.running.lines(NOTHING_FOLLOWS)


def test_a_forgotten_version_swaps_the_store_and_no_rule_between(shop: Shop) -> None:
    """etcd compacted while no watch is open: a 410, a list, one replacement. Existing Services always have rules."""
    shop.start()
    world, between = shop.world, shop.between
    doomed = shop.add("doomed")
    shop.follows(doomed)
    with load(shop.client, shop.address, 80) as verdict:
        with between.refusing():
            world.api.delete("Service", "doomed", world.namespace)
            fresh = shop.add("meanwhile")
            world.cluster.expire_watches()
        shop.follows(fresh, without=doomed)
    verdict.assert_unbroken(at_least=200)
    relists = {name: value for name, value in shop.proxy.metrics().items() if "ferrule_watch_relists_total{" in name}
    assert relists['ferrule_watch_relists_total{kind="Service",reason="expired"}'] >= 1, relists


# ---------------------------------------------------------------------- who we are


def test_without_our_node_it_waits_and_then_goes_on(world: World) -> None:
    """A name that no Node has: after a while ferrule writes rules without a zone."""
    node = world.node(register=False)
    address = world.service(selector={})["spec"]["clusterIP"]
    with Impatient(Subject.FERRULE, node, world.cluster, world.folder) as proxy:

        def waits() -> bool:
            return f"waiting for: Node {node.name} itself" in proxy.http("/readyz").text

        eventually(lambda: 'server="metrics"' in proxy.running.text(), "no metrics port")
        eventually(waits, lambda: f"does not say what it waits for: {proxy.running.tail()}")
        assert not proxy.running.lines('"Synced"')
        line = proxy.running.wait_for("Node not found")
        assert f'node="{node.name}"' in line
        proxy.wait_until_synced()
        assert f"{address}/32" in rules(node, proxy.backend)
        assert f"no Node is named {node.name}" in proxy.http("/readyz").json()["reasons"]["node"]
