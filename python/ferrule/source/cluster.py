"""Cluster state from the API server, and what of our own Node decides over this process.

The Node is waited for, as kube-proxy does: 30 s for its addresses, 5 min for its podCIDRs where detectLocalMode needs
them. When its addresses or podCIDRs change later, every rule may be wrong, and the process ends to start afresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ferrule._engine import Engine, IngestReport, Problem, build_info
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
from ferrule.source.api.own_node import OwnNode
from ferrule.source.api.resources import resources
from ferrule.sync.intake import Batch, Intake
from ferrule.sync.loop import SyncLoop
from ferrule.types import Kind, Stage

log = logging.getLogger(__name__)

NODE_SECONDS = 30.0
"""Then we go on without our Node: rules that lack a zone are better than none."""

POD_CIDR_SECONDS = 300.0
"""Then the process ends: without podCIDRs NodeCIDR mode would masquerade what it must not."""


class NodeChanged(FerruleError):
    """Our Node is another than the one this process was built for."""


class ClusterSource:
    """Follows Services, EndpointSlices and our Node. Also the `source.api.follow.Sink` and `Observer`."""

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
        self._node_list = bytearray()
        self._node_is_there = asyncio.Event()
        self._going_without = False
        self._ends: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._failing: dict[Kind, str] = {}
        self._tell_missing()

    def tasks(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Eternal tasks by name."""
        follower = Follower(self.client, self, self)
        kinds = resources(self._node_name)
        return {
            **{f"watch {kind}": lambda r=resource: follower.run(r) for kind, resource in kinds.items()},  # type: ignore[misc]
            "node": self._mind_node,
            "events": self.events.run,
        }

    def problem_found(self, problem: Problem) -> None:
        """Tell the Service's owner what of it is not programmed."""
        kind, _, key = problem.object.partition(" ")
        namespace, slash, name = key.partition("/")
        if kind == "Service" and slash:
            self.events.not_programmed(
                namespace, name, f"{problem.field}: {problem.value!r} {problem.reason} ({problem.kind})"
            )

    def port_failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        """A healthCheckNodePort could not be opened."""
        self.events.health_check_failed(namespace, name, f"port {port}: {reason}")

    # ------------------------------------------------------------------ our Node

    async def _mind_node(self) -> None:
        """Opens the sync loop once our Node is there or was waited for; raises `NodeChanged`."""
        seconds = POD_CIDR_SECONDS if self._needs_pod_cidrs else NODE_SECONDS
        try:
            await asyncio.wait_for(self._node_is_there.wait(), seconds)
        except TimeoutError:
            lacks = "no podCIDRs" if self._node is not None else "not there"
            if self._needs_pod_cidrs:
                raise NodeChanged(
                    f"Node {self._node_name}: {lacks} after {seconds:.0f} s, and detectLocalMode NodeCIDR needs them"
                ) from None
            log.warning(
                "Our Node is not there: going on with what this host tells of itself",
                extra=kv(node=self._node_name, waited=f"{seconds:.0f}s"),
            )
            self._going_without = True
            self._report_node(self._node)
            await self._intake.go_without("Node")
            self._open_if_ready()
        raise NodeChanged(await self._ends)

    def _node_seen(self, node: OwnNode | None) -> None:
        before, self._node = self._node, node
        # Each time: one that was deleted and comes back as it was differs in nothing from what we remember.
        self._health.set_node_eligible(node is not None and node.eligible)
        self._report_node(node)
        waited = not self._node_is_there.is_set()
        if node is not None and (node.pod_cidrs if self._needs_pod_cidrs else node.addresses):
            self._node_is_there.set()
        # A Node that gets its addresses while we wait for them changed nothing that we built on.
        if before is None or waited:
            return
        reasons = own_node.differences(before, node, pod_cidrs=self._needs_pod_cidrs)
        if node is None:
            # A Node object comes back (kubelet writes it again); the rules it shaped stay until then.
            log.warning("Our Node was deleted; the rules stay as they are", extra=kv(node=self._node_name))
            self._node = before
        elif reasons and not self._ends.done():
            self._ends.set_result("; ".join(reasons) + ": ending, so that the next start takes it in")

    def _report_node(self, node: OwnNode | None) -> None:
        """Readiness tells of a missing Node once it is not waited for any more: traffic goes on without it."""
        waiting = not self._node_is_there.is_set() and not self._going_without
        reason = (
            f"no Node is named {self._node_name}: only endpoints with that nodeName count as local; if the name is "
            "wrong, see --hostname-override"
        )
        self._readiness.report(Subsystem.NODE, reason if node is None and not waiting else None)

    # ------------------------------------------------------------------ Sink

    async def begin_list(self, kind: Kind) -> None:
        """See `Intake`."""
        if kind == "Node":
            self._node_list.clear()
        await self._intake.begin_list(kind)

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        """See `Intake`."""
        if kind == "Node":
            self._node_list += chunk
        await self._intake.feed_list(kind, chunk)

    async def end_list(self, kind: Kind) -> IngestReport:
        """See `Intake`."""
        report = await self._intake.end_list(kind)
        if kind == "Node":
            self._node_seen(own_node.from_list(bytes(self._node_list)))
            self._node_list.clear()
        self._open_if_ready()
        return report

    async def abort_list(self, kind: Kind) -> None:
        """See `Intake`."""
        await self._intake.abort_list(kind)

    async def ingest(self, kind: Kind, frames: bytes) -> IngestReport:
        """See `Intake`."""
        report = await self._intake.ingest(kind, frames)
        if kind == "Node":
            self._node_seen(own_node.from_frames(frames, self._node))
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
        if not self._tell_missing():
            self._loop.open()

    def _missing(self) -> list[str]:
        missing = [
            f"{kind} list" + (f" ({self._failing[kind]})" if kind in self._failing else "")
            for kind in self._intake.missing
        ]
        if not self._node_is_there.is_set() and not self._going_without:
            missing.append(f"Node {self._node_name} itself")
        return missing

    def _tell_missing(self) -> bool:
        """Whether anything is."""
        missing = self._missing()
        self._readiness.report(Subsystem.LISTS, f"waiting for: {', '.join(missing)}" if missing else None)
        return bool(missing)

    # ------------------------------------------------------------------ Observer

    def listed(self, kind: Kind, seconds: float, version: str) -> None:
        """A whole list was taken over."""
        log.info("Listed", extra=kv(kind=kind, resourceVersion=version, ms=round(seconds * 1000, 1)))

    def relist(self, kind: Kind, trouble: str) -> None:
        """A list that is not the first begins."""
        self._metrics.relisted(kind, trouble)

    def reconnect(self, kind: Kind, trouble: str) -> None:
        """A watch begins again after a failure."""
        self._metrics.reconnected(kind, trouble)

    def failing(self, kind: Kind, reason: str, since: float) -> None:
        """What we know of this kind may be old."""
        del since
        self._failing[kind] = reason
        self._tell_missing()

    def ok(self, kind: Kind) -> None:
        """It is up to date again."""
        self._failing.pop(kind, None)
        self._tell_missing()

    def auth_failed(self, reason: str) -> None:
        """The server does not let us in."""
        self._readiness.hold(Subsystem.API_ACCESS, reason)

    def auth_ok(self) -> None:
        """It does again."""
        self._readiness.release(Subsystem.API_ACCESS)

    def _request_seen(self, seen: RequestSeen) -> None:
        self._metrics.request(seen.code, seen.method, seen.host, seen.seconds)
