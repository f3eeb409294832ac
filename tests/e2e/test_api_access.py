"""Tests access to the API: a long outage causes few requests, a slow server is tolerated, tokens rotate and expire,
clocks jump."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.harness import faults
from tests.e2e.harness.api import Api, ApiError
from tests.e2e.harness.cluster import ACCOUNT, ACCOUNT_NAMESPACE, LOCALHOST, PORT
from tests.e2e.harness.faulty_proxy import FaultyProxy
from tests.e2e.harness.subject import HEALTH, Proxy, Subject, proxy_config, rules
from tests.e2e.harness.waiting import eventually, steadily
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

OUTAGE = float(os.environ.get("FERRULE_OUTAGE", "20"))
"""Seconds without an API server."""

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def address(world: World, name: str) -> str:
    return str(world.service(name, selector={})["spec"]["clusterIP"])


def has(proxy: Proxy, ip: str) -> bool:
    return f"{ip}/32" in rules(proxy.node, proxy.backend)


def follows(world: World, proxy: Proxy, name: str, seconds: float = 90) -> None:
    told = proxy.syncs()
    ip = address(world, name)
    eventually(
        lambda: has(proxy, ip) and proxy.syncs() > told,
        lambda: f"does not follow:\n{proxy.running.tail()}",
        seconds=seconds,
    )


def why_not_ready(proxy: Proxy) -> str:
    return proxy.http("/readyz").text


def test_an_outage_costs_next_to_nothing(world: World, record_property: Callable[[str, object], None]) -> None:
    node = world.node()
    client, web = world.client(node), world.pod("web-1", node)
    service = world.service()["spec"]["clusterIP"]
    world.wait_for_endpoints(web.ip)
    with FaultyProxy(world.cluster) as between:
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url)
        config = proxy_config(world.folder / "config", kubeconfig)
        with Proxy(Subject.FERRULE, node, world.cluster, world.folder, config=config) as proxy:
            proxy.wait_until_synced()
            eventually(lambda: has(proxy, service), "no first sync")
            with between.inject(faults.status(503, "ServiceUnavailable", "down")):
                between.break_streams()
                eventually(lambda: proxy.running.lines("Cannot follow the API server"), "nothing about it in the log")
                synced, cpu, since = proxy.syncs(), proxy.running.cpu_seconds(), time.monotonic()
                steadily(
                    lambda: client.ask(service, 80)[0].pod == "web-1", "traffic stopped", seconds=OUTAGE, every=1.0
                )
                took = time.monotonic() - since
                cpu = proxy.running.cpu_seconds() - cpu
                asked = between.count(since=since)
                record_property("cpu_percent", round(100 * cpu / took, 2))
                record_property("requests", asked)
                print(f"{took:.0f} s without an API server: {cpu:.2f} s of CPU, {asked} requests")
                # Three kinds, each 0.8 s, 1.6 s, … 30 s apart: five or six each in the first half minute.
                assert asked <= 3 * (6 + took / 30)
                assert cpu < 0.02 * took
                assert proxy.syncs() == synced, "rules were written"
            between.break_streams()
            follows(world, proxy, "after")


def test_a_server_that_takes_seconds_for_everything(world: World) -> None:
    node = world.node()
    first = address(world, "before")
    with FaultyProxy(world.cluster) as between, between.inject(faults.delayed(2.0)):
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url)
        config = proxy_config(world.folder / "config", kubeconfig)
        with Proxy(Subject.FERRULE, node, world.cluster, world.folder, config=config) as proxy:
            proxy.wait_until_synced()
            eventually(lambda: has(proxy, first), "no first sync")
            follows(world, proxy, "after")
            assert not proxy.running.lines("Cannot follow"), "a slow server is not a failure"


def test_a_token_that_expires_and_is_rotated(world: World) -> None:
    node = world.node()
    first = address(world, "before")
    kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", token=world.cluster.token(-50))
    token = kubeconfig.with_suffix(".token")
    with FaultyProxy(world.cluster) as between:
        kubeconfig.write_text(kubeconfig.read_text().replace(world.cluster.url, between.url))
        config = proxy_config(world.folder / "config", kubeconfig)
        with Proxy(Subject.FERRULE, node, world.cluster, world.folder, config=config) as proxy:
            proxy.wait_until_synced()
            eventually(lambda: has(proxy, first), "no first sync")

            def denied() -> bool:
                # Running watches outlive their token: only a new request is rejected.
                between.break_streams()
                time.sleep(2.0)
                return "401" in why_not_ready(proxy)

            eventually(denied, lambda: f"an expired token works:\n{proxy.running.tail()}", seconds=90)
            assert proxy.running.lines("E", "Cannot follow the API server", "401"), "not said loudly"
            assert has(proxy, first), "rules went with the token"
            token.write_text(world.cluster.token())
            follows(world, proxy, "after", seconds=120)
            eventually(lambda: "401" not in why_not_ready(proxy), "readiness keeps the refusal")


def bound_token(world: World, secret: str) -> str:
    """Returns a real token that is valid as long as this Secret, which is created for it."""
    path = f"/api/v1/namespaces/{ACCOUNT_NAMESPACE}"
    made = world.api.call(
        "POST", f"{path}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}}
    )
    to = {"apiVersion": "v1", "kind": "Secret", "name": secret, "uid": made["metadata"]["uid"]}
    spec = {"expirationSeconds": 3600, "boundObjectRef": to}
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(world.api.call("POST", f"{path}/serviceaccounts/{ACCOUNT}/token", asked)["status"]["token"])


def refused(world: World, token: str) -> bool:
    """Returns whether the token is rejected. The server caches a valid token for ten seconds."""
    cluster = world.cluster
    try:
        Api(cluster.host.netns, LOCALHOST, PORT, cluster.ca, client=None, token=token).list("Node")
    except ApiError as error:
        return error.status == 401
    return False


def test_a_token_that_is_replaced_in_time_costs_nothing(world: World) -> None:
    """The old token is revoked, the file holds the next one: one 401, an immediate retry, nothing in the log."""
    node = world.node()
    old, new = bound_token(world, "first"), bound_token(world, "second")
    secrets = f"/api/v1/namespaces/{ACCOUNT_NAMESPACE}/secrets"
    try:
        with FaultyProxy(world.cluster) as between:
            kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url, token=old)
            config = proxy_config(world.folder / "config", kubeconfig)
            with Proxy(Subject.FERRULE, node, world.cluster, world.folder, config=config) as proxy:
                proxy.wait_until_synced()
                follows(world, proxy, "before")
                kubeconfig.with_suffix(".token").write_text(new)
                world.api.call("DELETE", f"{secrets}/first")
                eventually(lambda: refused(world, old), "a token outlives its Secret")
                between.break_streams()
                follows(world, proxy, "after")
                assert not proxy.running.lines("(401)"), "a rotation is not a failure"
                assert why_not_ready(proxy) == '{"ready":true,"reasons":{}}'
    finally:
        for name in ("first", "second"):
            with contextlib.suppress(ApiError):
                world.api.call("DELETE", f"{secrets}/{name}")


def test_a_revoked_role_is_reported_and_causes_few_requests(world: World) -> None:
    """403 for every kind: rules stay, readiness and an error line report it, requests are few; once the role is
    restored, ferrule follows again."""
    node = world.node()
    with FaultyProxy(world.cluster) as between:
        kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig", server=between.url)
        config = proxy_config(world.folder / "config", kubeconfig)
        with Proxy(Subject.FERRULE, node, world.cluster, world.folder, config=config) as proxy:
            proxy.wait_until_synced()
            first = address(world, "before")
            eventually(lambda: has(proxy, first), "no first sync")
            try:
                world.cluster.revoke()
                since = time.monotonic()

                def denied() -> bool:
                    # The authorizer learns of it through its own watch.
                    between.break_streams()
                    time.sleep(1.0)
                    return "forbidden" in why_not_ready(proxy)

                eventually(denied, lambda: f"readiness is silent:\n{proxy.running.tail()}")
                assert proxy.http("/readyz").status == 503
                # Counted only now: a write is logged after its rules are visible.
                synced = proxy.syncs()
                (said, *_) = proxy.running.lines("Cannot follow the API server", "(403)")
                assert said.startswith("E")
                assert 'User "system:serviceaccount:kube-system:kube-proxy" cannot' in said.replace("\\", "")
                steadily(lambda: has(proxy, first), "rules went with the role", seconds=4.0)
                assert proxy.http("/healthz", HEALTH).status == 200, "traffic flows: no reason to drain the node"
                assert proxy.syncs() == synced
                asked, took = between.count(since=since), time.monotonic() - since
                print(f"{took:.1f} s without the role: {asked} requests")
                # Each break of the streams causes one request per kind in addition to its back-off.
                assert asked <= 10 + 3 * took, f"{asked} requests in {took:.1f} s"
            finally:
                world.cluster.grant()
            follows(world, proxy, "after")
            eventually(lambda: proxy.http("/readyz").status == 200, lambda: why_not_ready(proxy))


@pytest.mark.parametrize("jump", [timedelta(days=30), timedelta(days=-30)], ids=["forward", "back"])
def test_the_clock_jumps(world: World, monkeypatch: pytest.MonkeyPatch, jump: timedelta) -> None:
    """Only the wall clock jumps, as when it is set: waits use the monotonic one. No new TLS connection is possible
    after a jump beyond the certificates' dates; the existing one survives."""
    if FAKETIME is None:
        pytest.skip("libfaketime is not installed (hack/need-net-tools e2e)")
    node = world.node()
    clock = world.folder / "clock"
    clock.write_text("+0")
    proxy = Proxy(Subject.FERRULE, node, world.cluster, world.folder)
    with monkeypatch.context() as patched:
        for name, value in (
            ("LD_PRELOAD", str(FAKETIME)),
            ("FAKETIME_TIMESTAMP_FILE", str(clock)),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ):
            patched.setenv(name, value)
        proxy.start()
    try:
        proxy.wait_until_synced()
        follows(world, proxy, "before")
        clock.write_text(f"{jump.total_seconds():+.0f}")

        def shown() -> timedelta:
            said = re.search(r'"currentTime":"([^"]+)"', proxy.http("/healthz", HEALTH).text)
            assert said is not None
            return datetime.fromisoformat(said[1]) - datetime.now(UTC)

        eventually(lambda: abs(shown() - jump) < timedelta(hours=1), lambda: f"the clock did not jump: {shown()}")
        synced, cpu = proxy.syncs(), proxy.running.cpu_seconds()
        steadily(lambda: proxy.http("/healthz", HEALTH).status == 200, "unhealthy by the clock", seconds=5)
        assert proxy.syncs() == synced, "a clock change must not cause a write"
        assert proxy.running.cpu_seconds() - cpu < 1.0, "busy because of a clock"
        follows(world, proxy, "after")
    finally:
        proxy.kill()
