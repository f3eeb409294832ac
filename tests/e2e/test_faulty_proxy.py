"""Tests faulty responses of the API server: rules stay, and changes arrive afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.harness import faults
from tests.e2e.harness.faults import Fault
from tests.e2e.harness.faulty_proxy import FaultyProxy
from tests.e2e.harness.subject import Proxy, Subject, proxy_config, rules
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

FAULTS = {
    "gone": faults.gone(),
    "gone-in-the-stream": faults.gone_in_the_stream(),
    "429-with-retry-after": faults.too_many(1),
    "500": faults.internal_error(),
    "empty": faults.empty(),
    "html-502": faults.html(),
    "html-200": faults.html_as_ok(),
    "truncated": faults.truncated(),
    "5-mib": faults.huge(),
    "401": faults.unauthorized(),
    "403": faults.forbidden(),
    "reset": faults.reset(),
    "slow": faults.delayed(2.0),
}
FAULT_SECONDS = 4.0
MOST_A_SECOND = 3
"""More requests for one kind during a fault are a storm (after the first few). kube-proxy causes one: about 400 per
second against a 410."""


@contextmanager
def behind_the_faulty_proxy(world: World, subject: Subject) -> Iterator[tuple[FaultyProxy, Proxy]]:
    node = world.node()
    with FaultyProxy(world.cluster) as between:
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url)
        config = proxy_config(world.folder / "config", kubeconfig)
        with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
            proxy.wait_until_synced()
            yield between, proxy


def addresses(world: World) -> set[str]:
    return {s["spec"]["clusterIP"] for s in world.api.list("Service", world.namespace)}


def programmed(world: World, proxy: Proxy) -> bool:
    saved = rules(proxy.node, proxy.backend)
    return all(f"{address}/32" in saved for address in addresses(world))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_watch_that_fails(world: World, subject: Subject, fault: Fault) -> None:
    world.service("before", selector={})
    with behind_the_faulty_proxy(world, subject) as (between, proxy):
        eventually(lambda: programmed(world, proxy), "the first Service is not programmed")
        since = time.monotonic()
        with between.inject(fault, "services", watch=True):
            between.break_streams()
            eventually(lambda: any(s.fault for s in between.seen), "no watch was spoilt")
            world.service("meanwhile", selector={})
            first = world.api.get("Service", "before", world.namespace)["spec"]["clusterIP"]
            steadily(
                lambda: f"{first}/32" in rules(proxy.node, proxy.backend),
                "a failing watch took rules away",
                seconds=FAULT_SECONDS,
            )
            seconds = time.monotonic() - since
            asked = between.count("services", since=since)
            if subject is Subject.FERRULE:
                assert asked <= 10 + MOST_A_SECOND * seconds, f"{asked} requests in {seconds:.0f} s"
        between.break_streams()
        world.service("after", selector={})
        eventually(lambda: programmed(world, proxy), lambda: f"does not recover:\n{proxy.running.tail()}")
        assert proxy.running.alive


def test_an_unreachable_server_is_followed_once_it_listens(world: World, subject: Subject) -> None:
    world.service("before", selector={})
    with behind_the_faulty_proxy(world, subject) as (between, proxy):
        eventually(lambda: programmed(world, proxy), "the first Service is not programmed")
        before = rules(proxy.node, proxy.backend).count("KUBE-SVC")
        with between.refusing():
            world.service("meanwhile", selector={})
            steadily(lambda: rules(proxy.node, proxy.backend).count("KUBE-SVC") == before, "rules changed", seconds=3.0)
        eventually(lambda: programmed(world, proxy), lambda: f"does not recover:\n{proxy.running.tail()}")


def test_etcd_compacted_under_a_disconnected_watch(world: World, subject: Subject) -> None:
    doomed = world.service("before", selector={})["spec"]["clusterIP"]
    with behind_the_faulty_proxy(world, subject) as (between, proxy):
        eventually(lambda: programmed(world, proxy), "the first Service is not programmed")
        with between.refusing():
            world.api.delete("Service", "before", world.namespace)
            world.service("meanwhile", selector={})
            world.cluster.expire_watches()
        eventually(lambda: programmed(world, proxy), lambda: f"does not recover:\n{proxy.running.tail()}")
        eventually(
            lambda: f"{doomed}/32" not in rules(proxy.node, proxy.backend), "what vanished meanwhile is still there"
        )
