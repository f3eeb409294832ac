"""From start to end: build the parts, start the tasks, wait for a signal or a fault.

Every eternal task has a name; one that ends takes the daemon with it and says why. Nothing is cleaned up on the way
out: the rules stay, because traffic does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NoReturn

from ferrule._engine import ConntrackView, build_info
from ferrule.config import watch
from ferrule.config.advice import MODE_UNSET
from ferrule.config.load import parse_config
from ferrule.config.schema import SYNC_PERIOD_DEFAULT
from ferrule.daemon.after_sync import AfterSync
from ferrule.daemon.endpoints import Endpoints
from ferrule.daemon.options import DaemonOptions, node_name
from ferrule.daemon.other_backend import OtherBackend
from ferrule.dataplane import nfacct
from ferrule.dataplane.instance import InstanceLock
from ferrule.errors import BugError, ConfigError, DataplaneError, FerruleError, InputError
from ferrule.host import kernel_settings, memory
from ferrule.host.addresses import follow_addresses
from ferrule.host.probe import Host, log_report, probe
from ferrule.observe.health import FIRST_SYNC, ProxyHealth, Readiness, Subsystem
from ferrule.observe.logs import kv
from ferrule.observe.metrics import Metrics, sample_loop_lag
from ferrule.observe.notify import Notifier
from ferrule.observe.status import Status
from ferrule.process.runner import ToolRun
from ferrule.process.shutdown import ORDERLY_SECONDS, Shutdown, leave
from ferrule.source.api.access import Access
from ferrule.source.folder import FolderSource
from ferrule.source.manifests import folder
from ferrule.source.problems import ProblemBook
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import SyncReport
from ferrule.types import Family

log = logging.getLogger(__name__)

REREAD_SECONDS = 3600.0
"""A small rule set is read back and compared whole this often, as kube-proxy rewrites its own hourly. Above a thousand
endpoints only the canaries are asked: there a read-back costs seconds."""

CALM_SECONDS = 20.0
"""After so long without a sync, memory that a storm of changes left behind goes back to the host."""

STORM_BYTES = 1 << 20
"""Restore text since the last time. Less leaves nothing worth the walk over the heap."""

Task = Callable[[], Coroutine[Any, Any, Any]]


def run(options: DaemonOptions, shutdown: Shutdown) -> int:
    """Serves until a signal, or syncs once. Returns the exit code; raises `FerruleError` where it cannot start or go
    on."""
    if options.init_only:
        return _init(options)
    memory.keep_large_apart()
    runner = asyncio.Runner(loop_factory=_loop_factory())
    code = runner.run(_main(options, shutdown))
    # Not after an error: closing joins the worker threads, and one of them may be in a write of many seconds.
    runner.close()
    return code


def _init(options: DaemonOptions) -> int:
    """What needs every right, so that the daemon needs only CAP_NET_ADMIN."""
    report = kernel_settings.prepare(options.settings, route_localnet=True)
    log_report(report, logging.ERROR)
    log.info("Initialised", extra=kv(changed=len(report.changed), faults=len(report.faults)))
    return 1 if report.faults else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: everything works without it
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _main(options: DaemonOptions, shutdown: Shutdown) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with shutdown.announced(lambda: loop.call_soon_threadsafe(stop.set)):
        work = asyncio.create_task(_work(options), name="work")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await _end(work, shutdown)
        stopping.cancel()
        return work.result()


async def _end(work: asyncio.Task[int], shutdown: Shutdown) -> NoReturn:
    """Ends the process after a signal."""
    work.cancel()
    await asyncio.wait({work}, timeout=ORDERLY_SECONDS)
    if shutdown.code:
        log.error("Ended by a signal before the work was complete", extra=kv(signal=shutdown.signal_name))
    else:
        log.info("Ending on request; the rules stay in place")
    leave(shutdown.code)


async def _work(options: DaemonOptions) -> int:
    if options.once and options.manifests is None:
        raise InputError("--once needs --manifests: with an API server there is no last object to wait for")
    # Before anything is touched: what cannot be used must leave the kernel's settings as they were.
    access = None
    if options.manifests is None:
        access = _find_access(options)
    else:
        folder.require(options.manifests)
    with InstanceLock():
        host = await probe(options.settings, node_name(options.settings), options.backend)
        daemon = Daemon(options, host, access)
        if options.once:
            return await daemon.once()
        async with contextlib.AsyncExitStack() as stack:
            raise await daemon.serve(stack)


def _find_access(options: DaemonOptions) -> Access:
    # Imported where it is used: a folder needs none of it.
    from ferrule.source.api.kubeconfig import find_access  # noqa: PLC0415

    return find_access(options.settings.client_connection.kubeconfig, options.master)


class Daemon:
    """The parts of a running ferrule."""

    def __init__(self, options: DaemonOptions, host: Host, access: Access | None) -> None:
        settings = options.settings
        self._options = options
        self._access = access
        self._host = host
        self._sync_period = settings.iptables.sync_period or SYNC_PERIOD_DEFAULT
        self._metrics = Metrics(
            build_info(),
            families=host.families,
            invalid_dropped=lambda: _packets(nfacct.INVALID_DROPPED),
            localhost_accepted=lambda: _packets(nfacct.LOCALHOST_ACCEPTED),
        )
        self._metrics.feature_gates(settings.feature_gates)
        host.runner.observers.append(self._tool_ran)
        self._health = ProxyHealth(2 * self._sync_period, clock=time.monotonic, wall_ns=time.time_ns)
        held = {FIRST_SYNC[family]: "the first sync has not happened" for family in host.families}
        self._readiness = Readiness(
            {Subsystem.LISTS: "nothing was listed yet", **held}, on_change=self._metrics.readiness
        )
        self._status = Status(self._metrics, self._health, self._readiness)
        self._problems = ProblemBook()
        self._effects = AfterSync(host, self._problems, self._status, on_synced=self._synced)
        self._other_backend = OtherBackend(host, self._metrics)
        self._endpoints: Endpoints | None = None
        self._notifier = Notifier()
        self._written, self._synced_at = 0, 0.0
        self._loop = SyncLoop(
            host.engine,
            host.planes,
            Cadence(settings.iptables.min_sync_period),
            clock=time.monotonic,
            on_sync=self._after_sync,
            on_request=self._effects.requested,
        )
        self._loop.set_local_addresses(host.addresses)

    def _tool_ran(self, run: ToolRun) -> None:
        used = run.usage
        self._metrics.tool_ran(
            run.tool, run.exit_code, seconds=used.seconds, cpu_seconds=used.cpu_seconds, max_rss=used.max_rss
        )

    # ------------------------------------------------------------------ once

    async def once(self) -> int:
        """One scan, one sync. 0: everything the manifests say is in the kernel."""
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

    def _folder(self) -> FolderSource:
        path = self._options.manifests
        if path is None:
            raise BugError("there is no folder to follow")
        return FolderSource(path, self._host.node, self._loop, self._problems, self._status)

    # ------------------------------------------------------------------ serve

    async def serve(self, stack: contextlib.AsyncExitStack) -> FerruleError:
        """Runs until it is cancelled, or until a task fails or ends. Returns why."""
        tasks = await self._tasks(stack)
        running = {asyncio.create_task(_guard(name, start()), name=name) for name, start in tasks.items()}
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._notifier.stopping()
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=ORDERLY_SECONDS)
        task = done.pop()
        error = task.exception()
        if isinstance(error, FerruleError):
            return error
        failure = BugError(f"task {task.get_name()!r} failed: {error!r}")
        failure.__cause__ = error
        return failure

    async def _tasks(self, stack: contextlib.AsyncExitStack) -> dict[str, Task]:
        """Every eternal task, by name."""
        options = self._options
        endpoints = partial(Endpoints, options.settings, self._status, self._host, flags=options.flags)
        tasks: dict[str, Task] = {"sync": self._loop.run}
        if self._access is None:
            source = self._folder()
            await source.scan()
            tasks["manifests"] = source.follow
            self._endpoints = endpoints()
        else:
            # Imported where it is used: a folder needs no HTTP client.
            from ferrule.source.cluster import ClusterSource  # noqa: PLC0415

            cluster = ClusterSource(
                options.settings,
                self._access,
                self._host.node,
                self._host.engine,
                self._loop,
                self._status,
            )
            await stack.enter_async_context(cluster.client)
            self._problems.on_new = cluster.problem_found
            self._endpoints = endpoints(on_failure=cluster.events.failed_to_listen, on_port_failure=cluster.port_failed)
            tasks |= cluster.tasks()
            cluster.events.starting()
            if not options.settings.mode:
                cluster.events.default_mode(MODE_UNSET)
        tasks |= self._endpoints.tasks()
        tasks |= {
            "addresses": lambda: follow_addresses(self._host.addresses, self._set_addresses),
            "canary": self._watch_canaries,
            "memory": self._give_memory_back,
            "other backend": self._other_backend.run,
            "event loop lag": lambda: sample_loop_lag(self._metrics),
            "watchdog": self._notifier.watch,
        }
        if options.config_file is not None:
            tasks["configuration file"] = self._watch_config
        return tasks

    async def _watch_config(self) -> None:
        path = self._options.config_file
        if path is not None:
            # As a start reads it: unknown and repeated fields are passed over, everything else must be right.
            check = partial(parse_config, source=str(path), strict=False)
            reason = await watch.changed(path, check, _keep_running, known=self._options.config_content)
            raise ConfigError([reason])

    def _set_addresses(self, addresses: list[str]) -> None:
        self._loop.set_local_addresses(addresses)
        if self._endpoints is not None:
            self._endpoints.set_addresses(addresses)

    async def _give_memory_back(self) -> None:
        while True:
            await asyncio.sleep(CALM_SECONDS)
            if self._written >= STORM_BYTES and time.monotonic() - self._synced_at >= CALM_SECONDS:
                self._written = 0
                await asyncio.to_thread(memory.give_back)

    async def _watch_canaries(self) -> None:
        reread_at = time.monotonic() + REREAD_SECONDS
        while True:
            await asyncio.sleep(self._sync_period)
            due = time.monotonic() >= reread_at
            if due:
                reread_at = time.monotonic() + REREAD_SECONDS
            async with self._loop.engine_lock:
                facts = {family: self._host.engine.facts(family) for family in self._host.families}
            for family, found in facts.items():
                # A read-back alone shows whether a foreign rule still keeps chains from deletion. It takes seconds for
                # a large rule set, so there it is done rarely.
                if (due or not found.large_mode) if found.held else (due and not found.large_mode):
                    self._loop.recheck(family)
            for plane in self._host.planes:
                try:
                    present = await plane.canary_present()
                except DataplaneError as error:
                    log.warning(
                        "Cannot tell whether the rules are still there", extra=kv(ipFamily=plane.family, err=str(error))
                    )
                    continue
                if not present and plane.family in self._effects.complete:
                    log.warning("Somebody flushed our tables: writing them again", extra=kv(ipFamily=plane.family))
                    self._loop.recheck(plane.family)

    # ------------------------------------------------------------------ after a sync

    def _after_sync(self, report: SyncReport) -> None:
        self._effects.after_sync(report, pending=self._loop.pending)
        plans = (*report.stages_before, *report.plans.values(), *report.unwritten.values())
        self._written += sum(plan.payload_size for plan in plans)
        self._synced_at = time.monotonic()
        if report.ok and not self._options.once:
            self._other_backend.due()
            if self._readiness.programmed:
                self._notifier.ready("every Service is programmed")

    def _synced(self, views: Mapping[Family, ConntrackView | None]) -> None:
        if self._endpoints is not None and views:
            self._endpoints.after_sync(views)


def _packets(counter: str) -> int | None:
    count = nfacct.read(counter)
    return None if count is None else count.packets


def _keep_running(error: ConfigError) -> None:
    log.error("Changed configuration is not valid, keeping the running one", extra=kv(err=str(error)))


async def _guard(name: str, forever: Coroutine[Any, Any, Any]) -> None:
    """An eternal task that ends, however politely, is an incident."""
    await forever
    raise BugError(f"task {name!r} ended, which it never should")
