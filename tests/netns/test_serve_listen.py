"""Which addresses of a host a port answers on, in namespaces with and without IPv6."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from ferrule.serve.http import Request, Response
from ferrule.serve.listener import Endpoint, Listener
from ferrule.serve.service_health import ServiceHealthServers
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import until
from ferrule.types import FAMILIES, Family
from tests.http_client import ask, running

pytestmark = pytest.mark.netns

PORT = 10256


async def _handle(_: Request) -> Response:
    return Response(b"ok")


async def answers(host: str) -> bool:
    try:
        return (await ask(PORT, host=host)).status in (200, 503)
    except OSError:
        return False


def reachable(namespace: NetNs, text: str, hosts: list[str]) -> list[str]:
    """The hosts at which a listener on this address answers."""

    def inside() -> list[str]:
        async def main() -> list[str]:
            endpoint = Endpoint.parse(text, PORT)
            assert endpoint is not None
            listener = Listener("test", endpoint, _handle)
            async with running(listener.run()):
                await until(lambda: listener.ports)
                return [host for host in hosts if await answers(host)]

        return asyncio.run(main())

    return namespace.call(inside)


HOSTS = ["127.0.0.1", "192.0.2.7", "::1", "2001:db8::7"]


@pytest.fixture
def host(netns: NetNs) -> NetNs:
    # On loopback: not every kernel has dummy devices.
    netns.ip("address", "add", "192.0.2.7/32", "dev", "lo")
    netns.ip("address", "add", "2001:db8::7/128", "dev", "lo", "nodad")
    return netns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:10256", HOSTS),  # as Go, and so as kube-proxy
        ("[::]:10256", HOSTS),
        ("192.0.2.7:10256", ["192.0.2.7"]),
        ("[2001:db8::7]:10256", ["2001:db8::7"]),
        ("127.0.0.1", ["127.0.0.1"]),
    ],
)
def test_where_a_listener_answers(host: NetNs, text: str, expected: list[str]) -> None:
    assert reachable(host, text, HOSTS) == expected


@pytest.mark.parametrize("text", ["0.0.0.0:10256", "[::]:10256"])
def test_a_host_without_ipv6(host: NetNs, text: str) -> None:
    host.sysctl(ipv6__conf__all__disable_ipv6=1)
    assert reachable(host, text, HOSTS) == HOSTS[:2]


def test_an_address_that_is_not_here_yet_is_waited_for(host: NetNs) -> None:
    def inside() -> None:
        async def main() -> None:
            states: list[str | None] = []
            listener = Listener(
                "test", Endpoint("192.0.2.8", PORT), _handle, on_state=states.append, retry_seconds=0.01
            )
            async with running(listener.run()):
                await until(lambda: states)
                assert states == [f"cannot listen on 192.0.2.8:{PORT}: cannot assign requested address"]
                host.ip("address", "add", "192.0.2.8/32", "dev", "lo")
                await until(lambda: listener.ports)
                assert await answers("192.0.2.8")
                assert states[1:] == [None]

        asyncio.run(main())

    host.call(inside)


@pytest.mark.parametrize(
    ("addresses", "families", "expected"),
    [
        ({"ipv4": ["0.0.0.0"], "ipv6": ["::"]}, FAMILIES, HOSTS),
        ({"ipv4": ["0.0.0.0"], "ipv6": ["::"]}, ["ipv4"], HOSTS[:2]),
        ({"ipv4": ["0.0.0.0"], "ipv6": ["::"]}, ["ipv6"], HOSTS[2:]),
        ({"ipv4": ["0.0.0.0"]}, FAMILIES, HOSTS[:2]),
        ({"ipv4": ["192.0.2.7"], "ipv6": ["::"]}, FAMILIES, ["192.0.2.7", *HOSTS[2:]]),
        ({"ipv4": ["192.0.2.7"], "ipv6": ["2001:db8::7"]}, FAMILIES, ["192.0.2.7", "2001:db8::7"]),
    ],
)
def test_where_service_health_answers(
    host: NetNs, addresses: dict[Family, list[str]], families: Sequence[Family], expected: list[str]
) -> None:
    @dataclass(frozen=True)
    class Check:
        family: Family
        namespace: str = "n"
        name: str = "s"
        port: int = PORT
        local_endpoints: int = 0

    def inside() -> list[str]:
        async def main() -> list[str]:
            servers = ServiceHealthServers(lambda: True)
            servers.set_addresses(addresses)
            servers.sync([Check(family) for family in families])
            async with running(servers.run()):
                await until(lambda: len(servers.listening) == len(families))
                return [name for name in HOSTS if await answers(name)]

        return asyncio.run(main())

    assert host.call(inside) == expected


def test_a_wildcard_does_not_push_others_aside(host: NetNs) -> None:
    """Another process holds the port for IPv4 only: half a listener would look healthy from one side."""

    def inside() -> None:
        async def main() -> None:
            states: list[str | None] = []
            with socket.create_server(("0.0.0.0", PORT)):
                listener = Listener("test", Endpoint("::", PORT, dual=True), _handle, on_state=states.append)
                async with running(listener.run()):
                    await until(lambda: states)
                    assert states[0] is not None
                    assert "address already in use" in states[0]
                    assert not listener.ports

        asyncio.run(main())

    host.call(inside)
