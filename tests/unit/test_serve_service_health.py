"""Tests healthCheckNodePorts: responses, changes of Services, and ports that are in use."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions
from ferrule.serve.service_health import ServiceHealthServers, listen_addresses
from ferrule.testing.waiting import until
from ferrule.types import Family
from tests.http_client import ask, run_on, running
from tests.objects import endpoint, endpoint_slice, service


@dataclass(frozen=True)
class Check:
    namespace: str
    name: str
    port: int
    local_endpoints: int = 1
    family: Family = "ipv4"


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture
def ports() -> Iterator[list[int]]:
    yield free_ports(3)


class Bench:
    """The servers with their reports."""

    def __init__(self) -> None:
        self.healthy = True
        self.failures: list[tuple[str, str, int, str]] = []
        self.counts: list[tuple[int, int]] = []
        self.servers = ServiceHealthServers(
            lambda: self.healthy,
            on_failure=lambda *failure: self.failures.append(failure),
            on_counts=lambda *counts: self.counts.append(counts),
            retry_seconds=0.01,
        )
        self.servers.set_addresses({"ipv4": ["127.0.0.1"]})

    async def sync(self, *checks: Check) -> None:
        self.servers.sync(checks)
        wanted = {(check.namespace, check.name, check.family) for check in checks}
        await until(lambda: self.servers.listening | self.servers.failed.keys() == wanted)


async def refused(port: int, host: str = "127.0.0.1") -> bool:
    try:
        await ask(port, host=host)
    except ConnectionError:
        return True
    return False


async def answering(wanted: bool, port: int, host: str = "127.0.0.1") -> None:
    """Waits until the port responds, or does not."""

    async def does() -> bool:
        return await refused(port, host) is not wanted

    await until(does)


def test_answers_are_stocks(loop: str, ports: list[int]) -> None:
    async def main() -> None:
        bench = Bench()
        async with running(bench.servers.run()):
            await bench.sync(Check("shop", "web", ports[0], 3))
            for path in ("/", "/healthz", "/any?thing=1"):
                reply = await ask(ports[0], path)
                assert reply.status == 200
                assert reply.body == (
                    b'{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
                    b'\t"localEndpoints": 3,\n\t"serviceProxyHealthy": true\n}'
                )
                assert reply.headers["Content-Type"] == "application/json"
                assert reply.headers["X-Content-Type-Options"] == "nosniff"
                assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == "3"
                assert "Server" not in reply.headers
            bench.healthy = False
            reply = await ask(ports[0])
            assert (reply.status, json.loads(reply.body)["serviceProxyHealthy"]) == (503, False)
            assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == "3"
            bench.healthy = True
            bench.servers.sync([Check("shop", "web", ports[0], 0)])
            reply = await ask(ports[0])  # at once: no port has to change for that
            assert (reply.status, json.loads(reply.body)["localEndpoints"]) == (503, 0)
            assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == "0"

    run_on(loop, main)


def test_ports_follow_the_services(loop: str, ports: list[int]) -> None:
    a, b, c = ports

    async def main() -> None:
        bench = Bench()
        async with running(bench.servers.run()):
            await bench.sync(Check("n", "one", a), Check("n", "two", b))
            # They swap their ports, a third comes.
            await bench.sync(Check("n", "one", b), Check("n", "two", a), Check("n", "three", c))
            await until(lambda: bench.counts[-1] == (3, 0))
            names = {port: json.loads((await ask(port)).body)["service"]["name"] for port in ports}
            assert names == {b: "one", a: "two", c: "three"}
            bench.servers.sync([Check("n", "three", c)])
            await until(lambda: bench.servers.listening == {("n", "three", "ipv4")})
            assert await refused(a)
            assert (await ask(c)).status == 200
            bench.servers.set_addresses({})
            await answering(False, c)
            bench.servers.set_addresses({"ipv4": ["127.0.0.2"]})
            await answering(True, c, "127.0.0.2")
            assert await refused(c), "not on 127.0.0.1 any more"
        with pytest.raises(ConnectionRefusedError):
            await ask(c, host="127.0.0.2")
        assert bench.failures == []

    run_on(loop, main)


def test_a_taken_port_is_reported_once_and_taken_later(loop: str, ports: list[int]) -> None:
    async def main() -> None:
        bench = Bench()
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            async with running(bench.servers.run()):
                await bench.sync(Check("n", "bad", taken), Check("n", "good", ports[0]))
                assert (await ask(ports[0])).status == 200, "the others are not held up"
                rounds = len(bench.counts)
                await until(lambda: len(bench.counts) >= rounds + 5)
                assert bench.failures == [("n", "bad", taken, "IPv4: address already in use")]
                assert bench.counts[-1] == (1, 1)
                assert bench.servers.failed == {("n", "bad", "ipv4"): "address already in use"}
                other.close()
                await until(lambda: not bench.servers.failed)
                assert (await ask(taken)).status == 200
                assert len(bench.failures) == 1

    run_on(loop, main)


def test_two_services_that_ask_for_one_port(loop: str, ports: list[int]) -> None:
    """The API server forbids it, manifests do not: one Service gets the port, the other is reported, and takes over
    later."""

    async def main() -> None:
        bench = Bench()
        async with running(bench.servers.run()):
            await bench.sync(Check("n", "a", ports[0]), Check("n", "b", ports[0]))
            assert bench.failures == [("n", "b", ports[0], "IPv4: address already in use")]
            bench.servers.sync([Check("n", "b", ports[0])])
            await until(lambda: bench.servers.listening == {("n", "b", "ipv4")})
            assert json.loads((await ask(ports[0])).body)["service"]["name"] == "b"

    run_on(loop, main)


@pytest.fixture
def has_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.usefixtures("has_ipv6")
def test_each_family_answers_with_its_own_count(loop: str, ports: list[int]) -> None:
    async def main() -> None:
        bench = Bench()
        bench.servers.set_addresses(listen_addresses([], ["127.0.0.1", "::1"], []))
        async with running(bench.servers.run()):
            await bench.sync(
                Check("n", "both", ports[0], 1), Check("n", "both", ports[0], 0, "ipv6"), Check("n", "v4", ports[1])
            )
            assert bench.failures == []
            assert bench.counts[-1] == (2, 0), "Services, not listeners"
            replies = {host: await ask(ports[0], host=host) for host in ("127.0.0.1", "::1")}
            assert {host: reply.status for host, reply in replies.items()} == {"127.0.0.1": 200, "::1": 503}
            assert [json.loads(reply.body)["localEndpoints"] for reply in replies.values()] == [1, 0]
            assert (await ask(ports[1])).status == 200
            assert await refused(ports[1], "::1"), "an IPv4-only Service"
            bench.servers.set_addresses({"ipv4": [], "ipv6": ["::1"]})
            await answering(False, ports[0])
            assert (await ask(ports[0], host="::1")).status == 503, "the other family keeps its addresses"

    run_on(loop, main)


@pytest.mark.usefixtures("has_ipv6")
def test_a_port_taken_in_one_family_answers_in_the_other(loop: str) -> None:
    async def main() -> None:
        bench = Bench()
        bench.servers.set_addresses({"ipv4": ["127.0.0.1"], "ipv6": ["::1"]})
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            async with running(bench.servers.run()):
                await bench.sync(Check("n", "s", port), Check("n", "s", port, 2, "ipv6"))
                assert (await ask(port, host="::1")).status == 200
                assert bench.failures == [("n", "s", port, "IPv4: address already in use")]
                assert bench.counts[-1] == (0, 1)

    run_on(loop, main)


def test_one_address_of_two_taken_opens_none(loop: str) -> None:
    async def main() -> None:
        bench = Bench()
        with socket.create_server(("127.0.0.2", 0)) as other:
            port = other.getsockname()[1]
            bench.servers.set_addresses({"ipv4": ["127.0.0.1", "127.0.0.2"]})
            async with running(bench.servers.run()):
                await bench.sync(Check("n", "s", port))
                assert bench.servers.failed
                other.close()
                await until(lambda: not bench.servers.failed)
                for host in ("127.0.0.1", "127.0.0.2"):
                    assert (await ask(port, host=host)).status == 200

    run_on(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"], indirect=True)  # debug mode keeps a stack a callback
def test_hundreds_of_ports(loop: str) -> None:
    async def main() -> None:
        bench = Bench()
        checks = [Check("n", f"s{n}", port) for n, port in enumerate(free_ports(300))]
        async with running(bench.servers.run()):
            await bench.sync(*checks)
            assert bench.counts[-1] == (300, 0)
            replies = [await ask(check.port) for check in checks]
            assert [json.loads(reply.body)["service"]["name"] for reply in replies] == [c.name for c in checks]
            await bench.sync()
            await until(lambda: bench.counts[-1] == (0, 0))
            assert await refused(checks[-1].port)

    run_on(loop, main)


def test_the_engine_counts_each_family_of_a_service() -> None:
    lb: dict[str, object] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    dual = service(**lb, healthCheckNodePort=31000)
    single = service("v4", **lb, healthCheckNodePort=31001, clusterIP="10.96.0.11", clusterIPs=["10.96.0.11"])
    slices = [
        endpoint_slice([endpoint("10.128.1.10"), endpoint("10.128.2.10", node="node-2")]),
        endpoint_slice([endpoint("fd00:10:128:2::10", node="node-2")], family="IPv6"),
        endpoint_slice([endpoint("10.128.1.11"), endpoint("10.128.1.12")], of="v4"),
    ]
    engine = Engine(EngineOptions(node_name="node-1"))
    engine.replace("Service", [orjson.dumps([dual, single])])
    engine.replace("EndpointSlice", [orjson.dumps(slices)])
    assert [(c.name, c.family, c.port, c.local_endpoints) for c in engine.health_checks()] == [
        ("v4", "ipv4", 31001, 2),
        ("web", "ipv4", 31000, 1),
        ("web", "ipv6", 31000, 0),
    ]


LOCAL = ["127.0.0.1", "10.0.0.5", "192.168.7.9", "::1", "fd00::5", "fe80::1"]


@pytest.mark.parametrize(
    ("items", "local", "expected"),
    [
        ([], LOCAL, (["0.0.0.0"], ["::"])),
        (["all"], LOCAL, (["0.0.0.0"], ["::"])),
        (["0.0.0.0/0", "::/0"], LOCAL, (["0.0.0.0"], ["::"])),
        (["localhost"], LOCAL, (["127.0.0.1"], ["::1"])),
        (["primary"], LOCAL, (["10.0.0.5"], ["fd00::5"])),
        (["primary", "localhost"], LOCAL, (["127.0.0.1", "10.0.0.5"], ["::1", "fd00::5"])),
        (["192.168.0.0/16"], LOCAL, (["192.168.7.9"], ["::"])),  # no item is of IPv6: not limited
        (["192.168.0.0/16", "fd00::/8"], LOCAL, (["192.168.7.9"], ["fd00::5"])),
        (["192.168.0.0/16"], LOCAL[:3], (["192.168.7.9"], [])),
        (["fe80::/10", "0.0.0.0/0"], LOCAL, (["0.0.0.0"], [])),
        (["172.16.0.0/12", "fc00::/16"], LOCAL, ([], [])),
        ([], LOCAL[:3], (["0.0.0.0"], [])),
    ],
)
def test_node_port_addresses(items: list[str], local: list[str], expected: tuple[list[str], list[str]]) -> None:
    found = listen_addresses(items, local, ["10.0.0.5", "fd00::5"])
    assert (list(found["ipv4"]), list(found["ipv6"])) == expected
