"""The lifetime of `ferrule run`: checks before any change, the start, signals, the end.

Nothing is cleaned up at the end: the rules stay, because they carry traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NoReturn

from ferrule.daemon.composition import Daemon
from ferrule.daemon.options import DaemonOptions, node_name
from ferrule.dataplane.instance import InstanceLock
from ferrule.errors import InputError
from ferrule.host import descriptors, kernel_settings, memory
from ferrule.host.probe import log_report, probe
from ferrule.observe.logs import kv
from ferrule.process.shutdown import ORDERLY_SECONDS, Shutdown, leave
from ferrule.source.api.access import Access
from ferrule.source.manifests import folder

log = logging.getLogger(__name__)


def run(options: DaemonOptions, shutdown: Shutdown) -> int:
    """Serves until a signal, or syncs once. Returns the exit code; raises `FerruleError` if it cannot start or
    continue."""
    if options.init_only:
        return _init(options)
    memory.keep_large_apart()
    descriptors.raise_limit()
    runner = asyncio.Runner(loop_factory=_loop_factory())
    code = runner.run(_main(options, shutdown))
    # Not after an error: closing joins the worker threads, one of which may be in a long write.
    runner.close()
    return code


def _init(options: DaemonOptions) -> int:
    """Writes the settings that need all privileges, so that the daemon needs only CAP_NET_ADMIN."""
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
    # Validated before any change: invalid input must leave the kernel's settings unchanged.
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
    # Imported here because a folder of manifests does not need it.
    from ferrule.source.api.kubeconfig import find_access  # noqa: PLC0415

    return find_access(options.settings.client_connection.kubeconfig, options.master)
