"""Composition: builds the parts of a running daemon and connects them."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial

from ferrule._engine import build_info
from ferrule.config.schema import SYNC_PERIOD_DEFAULT
from ferrule.daemon.after_sync import AfterSync
from ferrule.daemon.endpoints import Endpoints
from ferrule.daemon.options import DaemonOptions
from ferrule.daemon.other_backend import OtherBackend
from ferrule.daemon.supervision import Task, supervise
from ferrule.daemon.upkeep import DriftWatch, MemoryRelease, watch_config
from ferrule.dataplane import nfacct
from ferrule.errors import BugError, FerruleError
from ferrule.host.addresses import follow_addresses
from ferrule.host.probe import Host
from ferrule.observe.health import FIRST_SYNC, ProxyHealth, Readiness, Subsystem
from ferrule.observe.logs import kv
from ferrule.observe.metrics import Metrics, sample_loop_lag
from ferrule.observe.notify import Notifier
from ferrule.observe.status import Status
from ferrule.process.runner import ToolRun
from ferrule.source.api.access import Access
from ferrule.source.folder import FolderSource
from ferrule.source.problems import ProblemBook
from ferrule.source.protocol import Source
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import SyncReport

log = logging.getLogger(__name__)


class Daemon:
    """The parts of a running daemon. `once` or `serve` is called once."""

    def __init__(self, options: DaemonOptions, host: Host, access: Access | None) -> None:
        settings = options.settings
        self._options = options
        self._access = access
        self._host = host
        sync_period = settings.iptables.sync_period or SYNC_PERIOD_DEFAULT
        self._metrics = Metrics(
            build_info(),
            families=host.families,
            invalid_dropped=lambda: _packets(nfacct.INVALID_DROPPED),
            localhost_accepted=lambda: _packets(nfacct.LOCALHOST_ACCEPTED),
        )
        self._metrics.feature_gates(settings.feature_gates)
        host.runner.observers.append(self._tool_ran)
        self._health = ProxyHealth(2 * sync_period, clock=time.monotonic, wall_ns=time.time_ns)
        held = {FIRST_SYNC[family]: "the first sync has not happened" for family in host.families}
        self._readiness = Readiness(
            {Subsystem.LISTS: "no kind is listed yet", **held}, on_change=self._metrics.readiness
        )
        self._status = Status(self._metrics, self._health, self._readiness)
        self._problems = ProblemBook()
        self._effects = AfterSync(host, self._problems, self._status, on_synced=self._synced)
        self._other_backend = OtherBackend(host, self._metrics)
        self._endpoints: Endpoints | None = None
        self._notifier = Notifier()
        self._memory = MemoryRelease()
        self._loop = SyncLoop(
            host.engine,
            host.planes,
            Cadence(settings.iptables.min_sync_period),
            clock=time.monotonic,
            on_sync=self._after_sync,
            on_request=self._effects.requested,
        )
        self._loop.set_local_addresses(host.addresses)
        self._drift = DriftWatch(host, self._loop, lambda: self._effects.complete, sync_period)

    def _tool_ran(self, run: ToolRun) -> None:
        used = run.usage
        self._metrics.tool_ran(
            run.tool, run.exit_code, seconds=used.seconds, cpu_seconds=used.cpu_seconds, max_rss=used.max_rss
        )

    # ------------------------------------------------------------------ once

    async def once(self) -> int:
        """Performs one scan and one sync. Returns 0 if everything in the manifests is in the kernel."""
        await self._folder().scan()
        report = await self._loop.sync()
        await self._other_backend.remove_once()
        if report.failures or self._problems.count:
            log.error(
                "Not everything is in the kernel",
                extra=kv(failedFamilies=sorted(report.failures), problemsInManifests=self._problems.count),
            )
            return 1
        return 0

    def _source(self) -> Source:
        if self._access is None:
            return self._folder()
        # Imported where it is used: a folder needs no HTTP client.
        from ferrule.source.cluster import ClusterSource  # noqa: PLC0415

        host = self._host
        return ClusterSource(self._options.settings, self._access, host.node, host.engine, self._loop, self._status)

    def _folder(self) -> FolderSource:
        path = self._options.manifests
        if path is None:
            raise BugError("there is no folder to follow")
        return FolderSource(path, self._host.node, self._loop, self._problems, self._status)

    # ------------------------------------------------------------------ serve

    async def serve(self, stack: contextlib.AsyncExitStack) -> FerruleError:
        """Runs until it is cancelled, or until a task fails or ends. Returns why."""
        return await supervise(await self._tasks(stack), self._notifier.stopping)

    async def _tasks(self, stack: contextlib.AsyncExitStack) -> dict[str, Task]:
        """Returns the permanent tasks by name."""
        options = self._options
        source = await stack.enter_async_context(self._source())
        self._problems.on_new = source.problem_found
        self._endpoints = Endpoints(
            options.settings,
            self._status,
            self._host,
            flags=options.flags,
            on_failure=source.listen_failed,
            on_port_failure=source.port_failed,
        )
        tasks: dict[str, Task] = {"sync": self._loop.run, **source.tasks()}
        tasks |= self._endpoints.tasks()
        tasks |= {
            "addresses": lambda: follow_addresses(self._host.addresses, self._set_addresses),
            "canary": self._drift.run,
            "memory": self._memory.run,
            "other backend": self._other_backend.run,
            "event loop lag": lambda: sample_loop_lag(self._metrics),
            "watchdog": self._notifier.watch,
        }
        if options.config_file is not None:
            tasks["configuration file"] = partial(watch_config, options.config_file, options.config_content)
        return tasks

    def _set_addresses(self, addresses: list[str]) -> None:
        self._loop.set_local_addresses(addresses)
        if self._endpoints is not None:
            self._endpoints.set_addresses(addresses)

    # ------------------------------------------------------------------ after a sync

    def _after_sync(self, report: SyncReport) -> None:
        self._effects.after_sync(report, pending=self._loop.pending)
        if self._access is None:
            # Without a Node in the folder, the node is eligible.
            self._health.set_node_eligible(report.own_node is None or report.own_node.eligible)
        self._memory.synced(report)
        if report.ok and not self._options.once:
            self._other_backend.due()
            if self._readiness.programmed:
                self._notifier.ready("every Service is programmed")

    def _synced(self, report: SyncReport) -> None:
        if self._endpoints is not None and report.views:
            self._endpoints.after_sync(report)


def _packets(counter: str) -> int | None:
    count = nfacct.read(counter)
    return None if count is None else count.packets
