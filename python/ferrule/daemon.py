"""The composition root of `ferrule run`: probes the host, builds engine and loop, starts the tasks, ends them.

Every eternal task has a name; one that ends takes the daemon with it and says why. Nothing is cleaned up on the way
out: the rules stay, because traffic does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ferrule._engine import Engine, Problem, build_info
from ferrule.cleanup import cleanup
from ferrule.config.schema import SYNC_PERIOD_DEFAULT, Settings
from ferrule.dataplane import backend as backends
from ferrule.dataplane import nfacct
from ferrule.dataplane.addresses import address_changes, local_addresses
from ferrule.dataplane.instance import InstanceLock
from ferrule.dataplane.iptables import Dataplane, IptablesDataplane
from ferrule.dataplane.process import Runner
from ferrule.dataplane.sysctl import ROUTE_LOCALNET, TCP_BE_LIBERAL, Sysctls
from ferrule.errors import BugError, DataplaneError, FerruleError, InputError
from ferrule.manifests.documents import Complaint
from ferrule.manifests.folder import FolderState, ManifestFolder
from ferrule.observe.logs import kv
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import Changes, SyncLoop, SyncReport
from ferrule.sync.options import HostFacts, engine_options
from ferrule.types import Backend, Family

log = logging.getLogger(__name__)

REREAD_SECONDS = 3600.0
"""A small rule set is read back and compared whole this often, as kube-proxy rewrites its own hourly. Above a thousand
endpoints only the canaries are asked: there a read-back costs seconds."""

SHUTDOWN_SECONDS = 0.8
"""How long tasks may take to end after SIGTERM; the promise to the outside is one second."""


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """What `ferrule run` was asked for."""

    manifests: Path
    settings: Settings
    hostname_override: str = ""
    once: bool = False
    backend: Backend | None = None


def run(options: DaemonOptions) -> int:
    """Serve until a signal, or once. Gives the exit code; raises `FerruleError` where it cannot start."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(options))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: everything works without it
    except ImportError:
        return None
    return uvloop.new_event_loop


def node_name(options: DaemonOptions) -> str:
    """As kube-proxy finds it: flag, configuration, host name; lower case."""
    name = (options.hostname_override or options.settings.hostname_override or socket.gethostname()).strip().lower()
    if not name:
        raise InputError("the node's name is empty: set --hostname-override")
    return name


async def _main(options: DaemonOptions) -> int:
    folder = ManifestFolder(options.manifests)
    with InstanceLock():
        daemon = await Daemon.build(options, folder)
        if options.once:
            return await daemon.once()
        return await daemon.serve()


class Daemon:
    """The parts of a running ferrule."""

    def __init__(
        self,
        options: DaemonOptions,
        folder: ManifestFolder,
        engine: Engine,
        planes: Sequence[Dataplane],
        runner: Runner,
        choice: backends.Choice,
    ) -> None:
        settings = options.settings
        self._options = options
        self._folder = folder
        self._engine = engine
        self._planes = planes
        self._runner = runner
        self._choice = choice
        self._sysctls = Sysctls()
        self._sync_period = settings.iptables.sync_period or SYNC_PERIOD_DEFAULT
        self._loop = SyncLoop(
            engine, planes, Cadence(settings.iptables.min_sync_period), clock=time.monotonic, on_sync=self._after_sync
        )
        self._state: FolderState | None = None
        self._reported: dict[str, dict[str, object]] = {}
        self._noted: set[Complaint] = set()
        self._complete: set[Family] = set()
        self._problems: list[Problem] = []
        self._cleaning: asyncio.Task[None] | None = None

    @classmethod
    async def build(cls, options: DaemonOptions, folder: ManifestFolder) -> Daemon:
        """Probe the host and put the parts together."""
        settings, runner = options.settings, Runner()
        name = node_name(options)
        override = options.backend or (
            None if settings.ferrule.backend == "auto" else Backend(settings.ferrule.backend)
        )
        choice = await backends.choose(runner, override)
        planes = await _planes(runner, choice.backend)
        sysctls = Sysctls()
        if settings.conntrack.tcp_be_liberal:
            _warn(sysctls.ensure(TCP_BE_LIBERAL, 1))
        counters = {name: nfacct.ensure(name) for name in (nfacct.INVALID_DROPPED, nfacct.LOCALHOST_ACCEPTED)}
        addresses = local_addresses()
        facts = HostFacts(
            node_name=name,
            node_ips=node_ips(settings.bind_address, addresses),
            ordered_blocks=choice.backend is Backend.NFT,
            random_fully=await planes[0].supports_random_fully(),
            nfacct_invalid_dropped=counters[nfacct.INVALID_DROPPED] is nfacct.Outcome.YES,
            nfacct_localhost_accepted=counters[nfacct.LOCALHOST_ACCEPTED] is nfacct.Outcome.YES,
            conntrack_tcp_be_liberal=sysctls.read(TCP_BE_LIBERAL) == 1,
        )
        engine = Engine(engine_options(settings, facts, digest_key=os.urandom(16)))
        log.info(
            "Starting ferrule",
            extra=kv(
                version=build_info()["version"],
                profile=build_info()["profile"],
                node=name,
                backend=choice.backend.value,
                because=choice.reason,
                families=[plane.family for plane in planes],
                nfacct={name: outcome.value for name, outcome in counters.items()},
            ),
        )
        daemon = cls(options, folder, engine, planes, runner, choice)
        daemon._loop.set_local_addresses(addresses)
        return daemon

    # ------------------------------------------------------------------ once

    async def once(self) -> int:
        """One scan, one sync. 0: everything the manifests say is in the kernel."""
        self._take(await asyncio.to_thread(self._folder.scan))
        report = await self._loop.sync()
        await self._clean_other_backend()
        bad = len(self._problems) + len(self._state.complaints if self._state else ())
        if report.failures or bad:
            log.error(
                "Not everything is in the kernel",
                extra=kv(failedFamilies=sorted(report.failures), problemsInManifests=bad),
            )
            return 1
        return 0

    # ------------------------------------------------------------------ serve

    async def serve(self) -> int:
        """Until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._take(await asyncio.to_thread(self._folder.scan))
        tasks = {
            asyncio.create_task(_guard(name, coroutine), name=name)
            for name, coroutine in (
                ("sync", self._loop.run()),
                ("manifests", self._follow_folder()),
                ("addresses", self._follow_addresses()),
                ("canary", self._watch_canaries()),
            )
        }
        stopping = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.wait((*tasks, stopping), timeout=SHUTDOWN_SECONDS)
        failed = [task for task in done if task is not stopping]
        for task in failed:
            error = task.exception()
            raise (
                error if isinstance(error, FerruleError) else BugError(f"task {task.get_name()!r} failed: {error!r}")
            ) from error
        log.info("Ending on request; the rules stay in place")
        return 0

    async def _follow_folder(self) -> None:
        async for state in self._folder.follow():
            self._take(state)

    def _take(self, state: FolderState) -> None:
        first = self._state is None
        self._state = state
        for note in state.notes:
            if note not in self._noted:
                log.info("Ignored", extra=kv(file=note.file, document=note.document, reason=note.reason))
        self._noted = set(state.notes)
        self._report_problems()
        kinds = state.changed if not first else frozenset(state.lists)
        # Files that were there before us say nothing about how long a change takes.
        changed_at = None if first else state.changed_at
        self._loop.submit(Changes({kind: state.lists[kind] for kind in kinds}, changed_at))

    async def _follow_addresses(self) -> None:
        known = local_addresses()
        async for _ in address_changes():
            found = await asyncio.to_thread(local_addresses)
            if found != known:
                known = found
                self._loop.set_local_addresses(found)

    async def _watch_canaries(self) -> None:
        reread_at = time.monotonic() + REREAD_SECONDS
        while True:
            await asyncio.sleep(self._sync_period)
            if time.monotonic() >= reread_at:
                reread_at = time.monotonic() + REREAD_SECONDS
                for family in self._small_families():
                    self._loop.recheck(family)
            for plane in self._planes:
                try:
                    present = await plane.canary_present()
                except DataplaneError as error:
                    log.warning(
                        "Cannot tell whether the rules are still there", extra=kv(ipFamily=plane.family, err=str(error))
                    )
                    continue
                if not present and plane.family in self._complete:
                    log.warning("Somebody flushed our tables: writing them again", extra=kv(ipFamily=plane.family))
                    self._loop.recheck(plane.family)

    def _small_families(self) -> list[Family]:
        families = orjson.loads(self._engine.snapshot())["families"]
        return [plane.family for plane in self._planes if not families[plane.family]["largeMode"]]

    # ------------------------------------------------------------------ after a sync

    def _after_sync(self, report: SyncReport) -> None:
        complete = {p.family for p in self._planes} - report.failures.keys()
        for family in sorted(complete - self._complete - report.plans.keys()):
            log.info("Synced: the kernel had everything already", extra=kv(ipFamily=family))
        self._complete |= complete
        for family, plan in report.plans.items():
            since = None if report.changed_at is None else round((time.time() - report.changed_at) * 1000, 1)
            log.info(
                "Synced",
                extra=kv(
                    ipFamily=family,
                    chainsWritten=len(plan.chains_written),
                    chainsDeleted=len(plan.chains_deleted),
                    rules=plan.rules_written,
                    bytes=plan.payload_size,
                    blocks=plan.blocks,
                    ms=round(report.seconds * 1000, 1),
                    msSinceChange=since,
                ),
            )
            log.debug(
                "Chains",
                extra=kv(ipFamily=family, written=list(plan.chains_written), deleted=list(plan.chains_deleted)),
            )
        self._problems = self._engine.problems()
        self._report_problems()
        # Only with the guard in KUBE-FIREWALL in place: before that, a neighbour could reach 127.0.0.1 (CVE-2020-8558).
        if "ipv4" in self._complete and self._engine.localhost_node_ports():
            _warn(self._sysctls.ensure(ROUTE_LOCALNET, 1))
        if report.ok and self._choice.other_holds_rules and not self._options.once:
            self._cleaning = asyncio.get_running_loop().create_task(self._clean_other_backend(), name="other backend")

    async def _clean_other_backend(self) -> None:
        """Ours are in place; the other backend's copy would go on deciding, so it goes."""
        if not self._choice.other_holds_rules:
            return
        other = Backend.LEGACY if self._choice.backend is Backend.NFT else Backend.NFT
        self._choice = backends.Choice(self._choice.backend, self._choice.reason)
        report = await cleanup(self._runner, (other,))
        removed = sum(r.chains for r in report.removed)
        log.warning(
            "The other backend held Service rules, which would shadow ours: removed",
            extra=kv(backend=other.value, chains=removed),
        )
        for problem in report.problems:
            log.error("Not removed", extra=kv(backend=other.value, err=problem))

    def _report_problems(self) -> None:
        """Say each problem once when it appears and once when it is gone."""
        now: dict[str, dict[str, object]] = {}
        origin = self._state.origin if self._state else {}
        for complaint in self._state.complaints if self._state else ():
            now[f"file {complaint}"] = _complaint_pairs(complaint)
        for p in self._problems:
            pairs: dict[str, object] = {
                "object": p.object,
                "field": p.field,
                "value": p.value,
                "reason": p.reason,
                "cost": p.kind,
            }
            now[f"object {sorted(pairs.items())}"] = pairs | {"file": origin.get(p.object, "")}
        for key in now.keys() - self._reported.keys():
            log.warning("Bad input", extra=kv(**now[key]))
        for key in self._reported.keys() - now.keys():
            log.info("Bad input is gone", extra=kv(**self._reported[key]))
        self._reported = now


def _complaint_pairs(complaint: Complaint) -> dict[str, object]:
    return {
        "file": complaint.file,
        "document": complaint.document,
        "field": complaint.field,
        "reason": complaint.reason,
        "cost": "its objects keep their last good state",
    }


async def _planes(runner: Runner, backend: Backend) -> list[IptablesDataplane]:
    """The families this host has; raises `DataplaneError` when it has none."""
    works = await backends.families(runner, backend)
    planes = [IptablesDataplane(family, backend, runner) for family, why_not in works.items() if why_not is None]
    for family, why_not in works.items():
        if why_not is None:
            continue
        if not planes:
            raise why_not
        log.info("One family only: this host has no rules of the other", extra=kv(without=family, reason=str(why_not)))
    return planes


def node_ips(bind_address: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The node's likely addresses where no Node object tells: bindAddress if it is one, else the first that others
    could reach, at most one a family."""
    found: dict[int, str] = {}
    for text in (bind_address, *addresses):
        ip = ipaddress.ip_address(text)
        if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast):
            found.setdefault(ip.version, text)
    return tuple(found.values())


async def _guard(name: str, forever: Coroutine[Any, Any, None] | Awaitable[None]) -> None:
    """An eternal task that ends, however politely, is an incident."""
    await forever
    raise BugError(f"task {name!r} ended, which it never should")


def _warn(problem: str | None) -> None:
    if problem is not None:
        log.warning("Kernel setting", extra=kv(reason=problem))
