"""Tests the API as a source of state: when syncs may begin, and which changes of the Node end the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ferrule._engine import Engine, EngineOptions, build_info
from ferrule.config.schema import ClientConnection, Settings
from ferrule.observe.health import ProxyHealth, Readiness, Subsystem
from ferrule.observe.metrics import Metrics
from ferrule.observe.status import Status
from ferrule.source.api.kubeconfig import find_access
from ferrule.source.cluster import NODE_SECONDS, POD_CIDR_SECONDS, ClusterSource, NodeChanged
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.testing import fake_answers
from ferrule.testing.fake_api import FakeApi
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.testing.waiting import Limits, until
from tests.objects import endpoint, endpoint_slice, service

JSON = "application/json"
MISSING_NODE = "waiting for: Node node-1 itself"


def node(*ips: str, pod_cidr: str = "10.128.1.0/24", **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": "node-1", **metadata},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]} if pod_cidr else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
    }


@dataclass
class Rig:
    """A source over a fake API server, the real engine, a fake kernel."""

    api: FakeApi
    source: ClusterSource
    kernel: FakeDataplane
    readiness: Readiness
    health: ProxyHealth
    running: dict[str, asyncio.Task[None]]

    async def until(self, probe: Callable[[], object], what: str) -> None:
        def seen() -> object:
            if found := probe():
                return found
            for name, task in self.running.items():
                if task.done():
                    raise AssertionError(f"task {name} ended while waiting for {what}") from task.exception()
            return None

        await until(seen, lambda: f"{what} did not happen: {self.readiness.reasons}")

    async def end_of(self, name: str) -> BaseException:
        """Returns the exception with which a task ends."""
        await until(self.running[name].done, f"task {name} goes on")
        error = self.running[name].exception()
        assert error is not None
        return error


@contextlib.asynccontextmanager
async def rig(folder: Path, *objects: dict[str, Any], mode: str = "ClusterCIDR") -> AsyncIterator[Rig]:
    async with FakeApi() as api:
        for thing in objects:
            api.put(thing)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        settings = Settings(detect_local_mode=mode, client_connection=ClientConnection(str(kubeconfig)))
        engine = Engine(EngineOptions(node_name="node-1"))
        kernel = FakeDataplane("ipv4")
        loop = SyncLoop(engine, [kernel], Cadence(0.0), clock=time.monotonic)
        metrics = Metrics(build_info())
        readiness = Readiness({})
        health = ProxyHealth(60.0, clock=time.monotonic, wall_ns=time.time_ns)
        access = find_access(str(kubeconfig), "")
        source = ClusterSource(settings, access, "node-1", engine, loop, Status(metrics, health, readiness))
        async with source:
            tasks = {**source.tasks(), "sync": loop.run}
            running = {name: asyncio.create_task(start()) for name, start in tasks.items()}
            try:
                yield Rig(api, source, kernel, readiness, health, running)
            finally:
                for task in running.values():
                    task.cancel()
                await asyncio.gather(*running.values(), return_exceptions=True)


WEB = (service(), endpoint_slice([endpoint("10.128.1.10")]))


@pytest.mark.usefixtures("loop")
def test_rules_follow_the_api_and_wait_for_every_list(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2")) as r:
            await r.until(lambda: r.kernel.restores, "a first sync")
            await r.until(lambda: "10.128.1.10:8080" in r.kernel.text(), "the endpoint")
            assert r.readiness.ready
            assert "10.128.1.10:8080" in r.kernel.text()
            r.api.put(endpoint_slice([endpoint("10.128.1.11")]))
            await r.until(lambda: "10.128.1.11:8080" in r.kernel.text(), "the changed endpoint")
            r.api.delete("Service", "web", "shop")
            await r.until(lambda: "10.96.0.10" not in r.kernel.text(), "the deleted Service")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (fake_answers.text(502, "<html>bad gateway</html>"), "(502): <html>bad gateway"),
        (fake_answers.text(200, "<html>no list</html>", JSON), "the list cannot be used"),
        (
            fake_answers.text(
                200, '{"kind":"EndpointSliceList","metadata":{"resourceVersion":"7"},"items":[{"a":', JSON
            ),
            "the list cannot be used",
        ),
        (fake_answers.text(200, '{"kind":"Status","code":500}', JSON), "the list cannot be used"),
    ],
    ids=["HTML 502", "HTML 200", "cut short", "Status 200"],
)
def test_nothing_is_written_while_one_list_fails(tmp_path: Path, answer: fake_answers.Respond, why: str) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2")) as r:
            # No task has run yet: the first list fails, too.
            r.api.fail(answer, kind="EndpointSlice", verb="list", times=-1)

            def only_this_list_is_missing() -> bool:
                said = r.readiness.reasons[Subsystem.LISTS]
                return said.startswith("waiting for: EndpointSlice list (") and why in said

            await r.until(only_this_list_is_missing, f"a complaint with {why}")
            assert r.kernel.restores == []
            r.api.faults.clear()
            await r.until(lambda: r.kernel.restores, "a sync after the list came")

    asyncio.run(scenario())


@pytest.mark.usefixtures("loop")
def test_without_our_node_nothing_is_written_until_it_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        limits = Limits(monkeypatch, NODE_SECONDS)
        async with rig(tmp_path, *WEB) as r:
            await r.until(lambda: r.readiness.reasons[Subsystem.LISTS] == MISSING_NODE, "the lists")
            assert r.kernel.restores == []
            await limits.expire()
            await r.until(lambda: r.kernel.restores, "a sync without the Node")
            assert r.readiness.reasons.keys() == {Subsystem.NODE}
            assert "no Node is named node-1" in r.readiness.reasons[Subsystem.NODE]
            assert r.readiness.programmed, "traffic goes on: a supervisor must not wait for it"
            assert not r.health.healthz().ok, "as kube-proxy: no Node, not eligible"
            r.api.put(node("172.31.250.2"))
            await r.until(lambda: r.health.healthz().ok, "the Node that came late")
            assert r.readiness.ready

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["ClusterCIDR", "NodeCIDR"])
@pytest.mark.usefixtures("loop")
def test_a_node_that_is_completed_while_we_wait_ends_nothing(tmp_path: Path, mode: str) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, mode=mode) as r:
            await r.until(lambda: r.api.asked("Node", "watch"), "a watch of the missing Node")
            bare = node("172.31.250.2", pod_cidr="") if mode == "NodeCIDR" else node()
            r.api.put(bare)
            await r.until(lambda: r.health.healthz().ok, "the Node that lacks something")
            assert r.kernel.restores == []
            r.api.put(node("172.31.250.2"))
            await r.until(lambda: r.kernel.restores, "a first sync")
            assert not r.running["node"].done()

    asyncio.run(scenario())


@pytest.mark.usefixtures("loop")
def test_a_node_that_comes_back_is_eligible_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2")) as r:
            await r.until(lambda: r.kernel.restores, "a first sync")
            r.api.delete("Node", "node-1")
            await r.until(lambda: not r.health.healthz().ok, "the deletion")
            assert Subsystem.NODE in r.readiness.reasons
            await r.source.ingest("Node", b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"99"}}}\n')
            assert not r.health.healthz().ok, "a bookmark does not bring it back"
            assert Subsystem.NODE in r.readiness.reasons
            r.api.put(node("172.31.250.2"))
            await r.until(lambda: r.health.healthz().ok, "the return")
            assert r.readiness.ready
            assert not r.running["node"].done()

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["ClusterCIDR", "NodeCIDR"])
@pytest.mark.usefixtures("loop")
def test_a_changed_node_ip_ends_the_process(tmp_path: Path, mode: str) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2"), mode=mode) as r:
            await r.until(lambda: r.kernel.restores, "a first sync")
            r.api.put(node("172.31.250.2", labels={"topology.kubernetes.io/zone": "b"}))
            r.api.put(node("172.31.250.3"))
            error = await r.end_of("node")
            assert isinstance(error, NodeChanged)
            assert "172.31.250.2 to 172.31.250.3" in str(error)

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "ends"), [("ClusterCIDR", False), ("NodeCIDR", True)])
@pytest.mark.usefixtures("loop")
def test_changed_pod_cidrs_end_the_process_where_rules_depend_on_them(tmp_path: Path, mode: str, ends: bool) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2"), mode=mode) as r:
            await r.until(lambda: r.kernel.restores, "a first sync")
            r.api.put(node("172.31.250.2", pod_cidr="10.128.9.0/24"))
            if ends:
                assert "10.128.1.0/24 to 10.128.9.0/24" in str(await r.end_of("node"))
                return
            r.api.put(service("late", clusterIP="10.96.0.99", clusterIPs=["10.96.0.99"], ipFamilies=["IPv4"]))
            r.api.put(endpoint_slice([endpoint("10.128.1.10")], of="late"))
            await r.until(lambda: "10.96.0.99" in r.kernel.text(), "a later change")
            assert not r.running["node"].done()

    asyncio.run(scenario())


@pytest.mark.usefixtures("loop")
def test_node_cidr_mode_ends_without_pod_cidrs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        limits = Limits(monkeypatch, POD_CIDR_SECONDS)
        async with rig(tmp_path, *WEB, node("172.31.250.2", pod_cidr=""), mode="NodeCIDR") as r:
            await r.until(lambda: r.readiness.reasons[Subsystem.LISTS] == MISSING_NODE, "the lists")
            await limits.expire()
            error = await r.end_of("node")
            assert "no podCIDRs after 300 s" in str(error)
            assert r.kernel.restores == []

    asyncio.run(scenario())


@pytest.mark.usefixtures("loop")
def test_a_draining_or_deleted_node_keeps_its_rules(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with rig(tmp_path, *WEB, node("172.31.250.2")) as r:
            await r.until(lambda: r.kernel.restores, "a first sync")
            assert r.health.healthz().ok
            draining = node("172.31.250.2")
            draining["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
            r.api.put(draining)
            await r.until(lambda: not r.health.healthz().ok, "the taint")
            assert r.health.livez().ok
            written = len(r.kernel.restores)
            r.api.delete("Node", "node-1")
            r.api.put(service("late", clusterIP="10.96.0.99", clusterIPs=["10.96.0.99"], ipFamilies=["IPv4"]))
            await r.until(lambda: len(r.kernel.restores) > written, "a change after the Node went")
            assert "10.128.1.10:8080" in r.kernel.text()
            assert not r.running["node"].done()

    asyncio.run(scenario())
