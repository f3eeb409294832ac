"""One proxy takes over from the other under load: no connection may notice."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.e2e.harness.load import load
from tests.e2e.harness.subject import Proxy, Subject
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

SEQUENCE = [Subject(name) for name in os.environ.get("FERRULE_SWAP", "stock,stock,stock").split(",")]
CALM_SECONDS = 2.0
"""How long each proxy runs between swaps."""


def stays_up(proxy: Proxy) -> None:
    steadily(lambda: proxy.running.alive, "the new proxy ended", seconds=CALM_SECONDS)


def test_swap_under_load(world: World, backend: str) -> None:
    node, other = world.node("node-1"), world.node("node-2")
    client = world.client(node)
    service = world.service()
    web = [world.pod("web-1", node), world.pod("web-2", other)]
    world.wait_for_endpoints(*(pod.ip for pod in web))
    address = service["spec"]["clusterIP"]
    proxies = [Proxy(who, node, world.cluster, world.folder, backend=backend) for who in SEQUENCE]
    try:
        proxies[0].start().wait_until_synced()
        eventually(lambda: not client.ask(address, 80)[0].error, "no traffic before the swap")
        with load(client, address, 80) as verdict:
            for before, after in itertools.pairwise(proxies):
                before.stop()
                after.start().wait_until_synced()
                stays_up(after)
        verdict.assert_unbroken(at_least=100)
    finally:
        for proxy in proxies:
            proxy.kill()
