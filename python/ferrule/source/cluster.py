"""The API server as a source of cluster state, and the dependence of this process on its Node.

ferrule waits for the Node as kube-proxy does: 30 s for its addresses, 5 min for its podCIDRs if detectLocalMode needs
them. When its addresses or podCIDRs change later, every rule may be wrong, and the process ends in order to be
restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from ferrule._engine import Engine, IngestReport, OwnNode, Problem, build_info
from ferrule.config.advice import MODE_UNSET
from ferrule.config.schema import Settings
from ferrule.errors import FerruleError
from ferrule.observe.health import Subsystem
from ferrule.observe.logs import kv
from ferrule.observe.status import Status
from ferrule.source.api import own_node
from ferrule.source.api.access import Access
from ferrule.source.api.client import ApiClient, RequestSeen
from ferrule.source.api.credentials import Credentials
from ferrule.source.api.events import EventRecorder
from ferrule.source.api.follow import Follower
from ferrule.source.api.resources import resources
from ferrule.source.protocol import Source
from ferrule.sync.intake import Batch, Intake
from ferrule.sync.loop import SyncLoop
from ferrule.types import Kind, Stage

log = logging.getLogger(__name__)

NODE_SECONDS = 30.0
"""Seconds to wait for the Node. Then ferrule continues without it: rules without a zone are better than none."""

POD_CIDR_SECONDS = 300.0
"""Seconds to wait for podCIDRs. Then the process ends: without podCIDRs, NodeCIDR mode would masquerade the wrong
traffic."""


class NodeChanged(FerruleError):
    """The Node differs from the one this process was configured for."""


class ClusterSource(Source):
    """Follows Services, EndpointSlices and this Node. Implements `source.api.follow.Sink` and its `Observer`."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        node: str,
        engine: Engine,
        loop: SyncLoop,
        status: Status,
    ) -> None:
        for warning in access.warnings:
            log.warning("Access to the API server", extra=kv(reason=warning, origin=access.origin))
        self.client = ApiClient(
            Credentials(access),
            version=build_info()["version"],
            limits=settings.client_connection,
            observer=self._request_seen,
        )
        self.events = EventRecorder(self.client, node)
        self._node_name = node
        self._loop = loop
        self._metrics = status.metrics
        self._health = status.health
        self._readiness = status.readiness
        self._intake = Intake(engine, loop.engine_lock, self._taken, clock=time.monotonic)
        self._needs_pod_cidrs = settings.detect_local_mode == "NodeCIDR"
        self._node: OwnNode | None = None
        """The latest Node object; a deleted one is remembered."""
        self._seen: OwnNode | None = None
        """The same, None after a deletion."""
        self._looked = False
        self._node_is_there = asyncio.Event()
        self._going_without = False
        self._ends: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._failing: dict[Kind, str] = {}
        self._mode_unset = not settings.mode
        self._report_missing()

    async def __aenter__(self) -> Self:
        """Opens the HTTP client, and records the start."""
        await self.client.__aenter__()
        self.events.starting()
        if self._mode_unset:
            self.events.default_mode(MODE_UNSET)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, value, trace)

    def tasks(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Returns the permanent tasks by name."""
        follower = Follower(self.client, self, self)
        kinds = resources(self._node_name)
        return {
            **{f"watch {kind}": lambda r=resource: follower.run(r) for kind, resource in kinds.items()},  # type: ignore[misc]
            "node": self._mind_node,
            "events": self.events.run,
        }

    def problem_found(self, problem: Problem) -> None:
        """Records an Event for a Service with a problem."""
        kind, _, key = problem.object.partition(" ")
        namespace, slash, name = key.partition("/")
        if kind == "Service" and slash:
            self.events.not_programmed(
                namespace, name, f"{problem.field}: {problem.value!r} {problem.reason} ({problem.kind})"
            )

    def listen_failed(self, reason: str, message: str) -> None:
        """Records an Event for a port of this process that could not be opened."""
        self.events.failed_to_listen(reason, message)

    def port_failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        """Records an Event for a healthCheckNodePort that could not be opened."""
        self.events.health_check_failed(namespace, name, f"port {port}: {reason}")

    # ------------------------------------------------------------------ Node

    async def _mind_node(self) -> None:
        """Opens the sync loop once the Node exists or the wait is over. Raises `NodeChanged`."""
        seconds = POD_CIDR_SECONDS if self._needs_pod_cidrs else NODE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._node_is_there.wait()
        except TimeoutError:
            lacks = "no podCIDRs" if self._seen is not None else "not there"
            if self._needs_pod_cidrs:
                raise NodeChanged(
                    f"Node {self._node_name}: {lacks} after {seconds:.0f} s, and detectLocalMode NodeCIDR needs them"
                ) from None
            log.warning(
                "Node not found, using the addresses of the host",
                extra=kv(node=self._node_name, waited=f"{seconds:.0f}s"),
            )
            self._going_without = True
            self._report_node(self._seen)
            await self._intake.go_without("Node")
            self._open_if_ready()
        raise NodeChanged(await self._ends)

    async def _look_at_node(self) -> None:
        """Compares the Node with the one seen before, after a list of Nodes or watch frames."""
        node = await self._intake.own_node()
        if self._looked and node == self._seen:
            return
        self._looked, self._seen = True, node
        self._health.set_node_eligible(node is not None and node.eligible)
        self._report_node(node)
        before, waited = self._node, not self._node_is_there.is_set()
        if node is None:
            if waited:
                self._node = None
            elif before is not None:
                # kubelet creates a deleted Node object again, which is compared with the remembered one.
                log.warning("Node deleted, rules stay in place", extra=kv(node=self._node_name))
            return
        self._node = node
        if node.pod_cidrs if self._needs_pod_cidrs else node.node_ips:
            self._node_is_there.set()
        # A Node that receives its addresses during the wait changes nothing that depends on it.
        if before is None or waited:
            return
        reasons = own_node.differences(self._node_name, before, node, pod_cidrs=self._needs_pod_cidrs)
        if reasons and not self._ends.done():
            self._ends.set_result("; ".join(reasons) + ": ending, so that the next start takes it in")

    def _report_node(self, node: OwnNode | None) -> None:
        """Reports a missing Node in readiness once the wait is over: traffic continues without it."""
        waiting = not self._node_is_there.is_set() and not self._going_without
        reason = (
            f"no Node is named {self._node_name}: only endpoints with that nodeName count as local; if the name is "
            "wrong, see --hostname-override"
        )
        self._readiness.report(Subsystem.NODE, reason if node is None and not waiting else None)

    # ------------------------------------------------------------------ Sink

    async def begin_list(self, kind: Kind) -> None:
        """Implements `Sink` with `Intake`."""
        await self._intake.begin_list(kind)

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """Implements `Sink` with `Intake`."""
        await self._intake.feed_list(kind, chunk)

    async def end_list(self, kind: Kind) -> IngestReport:
        """Implements `Sink` with `Intake`."""
        report = await self._intake.end_list(kind)
        if kind == "Node":
            await self._look_at_node()
        self._open_if_ready()
        return report

    async def abort_list(self, kind: Kind) -> None:
        """Implements `Sink` with `Intake`."""
        await self._intake.abort_list(kind)

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """Implements `Sink` with `Intake`."""
        report = await self._intake.ingest(kind, frames)
        if kind == "Node":
            await self._look_at_node()
            self._open_if_ready()
        return report

    def _taken(self, batch: Batch, report: IngestReport) -> None:
        kind = batch.kind
        self._metrics.stage(Stage.INGEST, batch.seconds)
        if report.rejected:
            self._metrics.rejected(kind, report.rejected)
        if not report.changed:
            return
        self._metrics.changes_seen(
            services=report.changed if kind == "Service" else 0,
            endpoint_slices=report.changed if kind == "EndpointSlice" else 0,
        )
        self._loop.changed(batch.arrived_at)

    def _open_if_ready(self) -> None:
        if not self._report_missing():
            self._loop.open()

    def _missing(self) -> list[str]:
        missing = [
            f"{kind} list" + (f" ({self._failing[kind]})" if kind in self._failing else "")
            for kind in self._intake.missing
        ]
        if not self._node_is_there.is_set() and not self._going_without:
            missing.append(f"Node {self._node_name} itself")
        return missing

    def _report_missing(self) -> bool:
        """Reports the kinds that are not listed. Returns whether there is any."""
        missing = self._missing()
        self._readiness.report(Subsystem.LISTS, f"waiting for: {', '.join(missing)}" if missing else None)
        return bool(missing)

    # ------------------------------------------------------------------ Observer

    def listed(self, kind: Kind, seconds: float, version: str) -> None:
        """Implements `Observer.listed`."""
        log.info("Listed", extra=kv(kind=kind, resourceVersion=version, ms=round(seconds * 1000, 1)))

    def relist(self, kind: Kind, trouble: str) -> None:
        """Implements `Observer.relist`."""
        self._metrics.relisted(kind, trouble)

    def reconnect(self, kind: Kind, trouble: str) -> None:
        """Implements `Observer.reconnect`."""
        self._metrics.reconnected(kind, trouble)

    def failing(self, kind: Kind, reason: str, since: float) -> None:
        """Implements `Observer.failing`."""
        del since
        self._failing[kind] = reason
        self._report_missing()

    def ok(self, kind: Kind) -> None:
        """Implements `Observer.ok`."""
        self._failing.pop(kind, None)
        self._report_missing()

    def auth_failed(self, reason: str) -> None:
        """Implements `Observer.auth_failed`."""
        self._readiness.hold(Subsystem.API_ACCESS, reason)

    def auth_ok(self) -> None:
        """Implements `Observer.auth_ok`."""
        self._readiness.release(Subsystem.API_ACCESS)

    def _request_seen(self, seen: RequestSeen) -> None:
        self._metrics.request(seen.code, seen.method, seen.host, seen.seconds)
