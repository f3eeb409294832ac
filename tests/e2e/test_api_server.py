"""Tests restarts and hangs of the API server and revoked rights: rules stay, and catch up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness.subject import Proxy, Subject, rules
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

AWAY_SECONDS = 5.0


@pytest.fixture
def proxy(world: World, subject: Subject) -> Iterator[Proxy]:
    """Yields a proxy on one node with one programmed Service without endpoints."""
    node = world.node()
    address = world.service("before", selector={})["spec"]["clusterIP"]
    with Proxy(subject, node, world.cluster, world.folder) as running:
        running.wait_until_synced()
        eventually(lambda: has(running, address), "the first Service is not programmed")
        yield running


def has(proxy: Proxy, address: str) -> bool:
    return f"{address}/32" in rules(proxy.node, proxy.backend)


def stays(proxy: Proxy) -> None:
    """Checks that rules and process stay."""
    before = plain(proxy)
    steadily(lambda: proxy.running.alive and plain(proxy) == before, "rules changed", seconds=AWAY_SECONDS, every=0.5)


def plain(proxy: Proxy) -> list[str]:
    """Returns the rules without counters and time stamps."""
    saved = rules(proxy.node, proxy.backend).splitlines()
    return sorted(line.split(" [")[0] for line in saved if not line.startswith("#"))


def test_the_api_server_is_down_for_a_while(world: World, proxy: Proxy) -> None:
    with world.cluster.api_server_stopped():
        stays(proxy)
    fresh = world.service("after", selector={})["spec"]["clusterIP"]
    eventually(lambda: has(proxy, fresh), lambda: f"does not follow any more:\n{proxy.running.tail()}")


def test_the_api_server_hangs(world: World, proxy: Proxy) -> None:
    with world.cluster.api_server_paused():
        stays(proxy)
    fresh = world.service("after", selector={})["spec"]["clusterIP"]
    eventually(lambda: has(proxy, fresh), lambda: f"does not follow any more:\n{proxy.running.tail()}")


def test_packets_to_the_api_server_vanish(world: World, proxy: Proxy) -> None:
    with world.cluster.black_hole():
        fresh = world.service("meanwhile", selector={})["spec"]["clusterIP"]
        stays(proxy)
        assert not has(proxy, fresh), "the black hole lets something through"
    eventually(lambda: has(proxy, fresh), lambda: f"does not follow any more:\n{proxy.running.tail()}", seconds=120)


def test_the_role_is_taken_and_given_back(world: World, proxy: Proxy) -> None:
    try:
        world.cluster.revoke()
        world.cluster.restart_api_server(kill=True)  # running watches would continue
        stays(proxy)
        eventually(lambda: proxy.running.lines("forbidden"), "nothing about it in the log")
    finally:
        world.cluster.grant()
    fresh = world.service("after", selector={})["spec"]["clusterIP"]
    eventually(lambda: has(proxy, fresh), lambda: f"does not follow any more:\n{proxy.running.tail()}", seconds=120)
