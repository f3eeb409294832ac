"""Measures the event loop's lag while the daemon processes a large cluster: `python -m bench.loop_lag [--services
30000]`.

The daemon's own parts (intake, engine, sync loop, effects, endpoints) process synthetic lists and watches; scripts
replace the tools, so that payloads and read-backs are transferred as on a node. A task that should run every two
milliseconds records its delay in each phase. Time in which the kernel made the thread wait for a core is subtracted,
and the best of several rounds counts: a delay in every round is caused by the daemon, not by the machine. Exits with 1
if a phase blocked the loop for more than 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferrule._engine import Engine, EngineOptions, IngestReport, build_info
from ferrule.config.schema import Settings
from ferrule.daemon.after_sync import AfterSync
from ferrule.daemon.endpoints import Endpoints
from ferrule.dataplane.backend import Choice
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.host import memory
from ferrule.host.probe import Host
from ferrule.observe import logs
from ferrule.observe.exposition import render
from ferrule.observe.health import ProxyHealth, Readiness
from ferrule.observe.metrics import Metrics
from ferrule.observe.status import Status
from ferrule.process.runner import Runner
from ferrule.source.api.frames import FrameCutter
from ferrule.source.problems import ProblemBook
from ferrule.sync.cadence import Cadence
from ferrule.sync.intake import Batch, Intake
from ferrule.sync.loop import SyncLoop
from ferrule.sync.report import SyncReport
from ferrule.testing.fake_dataplane import FakeDataplane
from ferrule.types import FAMILIES, Backend, Family, Kind

BAR = 0.050
"""Seconds."""

PERIOD = 0.002
READ_BYTES = 128 * 1024
"""Maximum bytes that the HTTP client passes on at a time."""

ENDPOINTS = 4
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
BURST = 1000
MANAGED = [
    {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}, "f:selector": {}}},
    }
]


def ip(base: int, n: int) -> str:
    """Returns the n-th address from 10.BASE.0.0 on."""
    return f"10.{base + n // 62_500}.{n // 250 % 250}.{n % 250 + 1}"


def meta(n: int, suffix: str = "", **more: Any) -> dict[str, Any]:
    """Returns metadata of a realistic size."""
    name = {"name": f"service-{n}{suffix}", "namespace": f"team-{n % 50}", "uid": f"{n:032x}"}
    return {**name, "resourceVersion": "12345", "managedFields": MANAGED, **more}


def service(n: int) -> dict[str, Any]:
    """Returns a Service: every tenth is UDP, every tenth has a node port, every hundredth has a health check port,
    and every hundredth has an invalid address."""
    spec: dict[str, Any] = {
        "ports": [{"name": "main", "protocol": "UDP" if n % 10 == 1 else "TCP", "port": 80, "targetPort": 8080}],
        "selector": {"app": f"service-{n}"},
        "clusterIP": ip(96, n),
        "clusterIPs": [ip(96, n)],
        "ipFamilies": ["IPv4"],
    }
    if n % 10 == 0:
        spec["type"] = "NodePort"
        spec["ports"][0]["nodePort"] = 20_000 + n % 40_000
    if n % 100 == 0:
        spec |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 1024 + n % 15_000}
    if n % 100 == 2:
        spec["externalIPs"] = ["10.1.2.300"]
    return {"metadata": meta(n), "spec": spec, "status": {"loadBalancer": {}}}


def endpoint_slice(n: int, generation: int = 0) -> dict[str, Any]:
    """Returns a Service's slice; each generation has other endpoints."""
    labels = {"kubernetes.io/service-name": f"service-{n}"}
    protocol = "UDP" if n % 10 == 1 else "TCP"
    return {
        "metadata": meta(
            n, "-abcde", labels=labels, annotations={TRIGGER: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        ),
        "addressType": "IPv4",
        "ports": [{"name": "main", "protocol": protocol, "port": 8080}],
        "endpoints": [
            {
                "addresses": [ip(128 + 4 * generation, n * ENDPOINTS + i)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{i}",
            }
            for i in range(ENDPOINTS)
        ],
    }


def as_list(items: Iterator[dict[str, Any]]) -> bytes:
    """Returns a List response."""
    return json.dumps({"metadata": {"resourceVersion": "12350"}, "items": list(items)}).encode()


def as_frames(numbers: range, generation: int) -> bytes:
    """Returns watch frames that change these slices."""
    changes = ({"type": "MODIFIED", "object": endpoint_slice(n, generation)} for n in numbers)
    return b"".join(json.dumps(change).encode() + b"\n" for change in changes)


@dataclass(slots=True)
class Phase:
    """The lag of one phase, in seconds."""

    name: str
    seconds: float = 0.0
    worst: float = 0.0
    """Worst lag without the time of waiting for a core."""
    core: float = 0.0
    """Time of waiting for a core, within the worst lag."""
    over: int = 0
    where: set[str] = field(default_factory=set)
    """Lines that ran when the loop was late (`--where`)."""


class Probe:
    """Measures the loop's lag, phase by phase."""

    def __init__(self, where: bool) -> None:
        self.phases: list[Phase] = []
        self._current: Phase | None = None
        self._due = float("inf")
        self._thread = threading.get_ident()
        self._waits = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        if where:
            threading.Thread(target=self._look, daemon=True).start()

    async def run(self) -> None:
        """Samples the lag, for ever."""
        clock = time.monotonic
        waited = self._core()
        while True:
            self._due = clock() + PERIOD
            await asyncio.sleep(PERIOD)
            late, before, waited = clock() - self._due, waited, self._core()
            phase, core = self._current, min(waited - before, late)
            if phase is not None and late - core > phase.worst:
                phase.worst, phase.core = late - core, core
            if phase is not None and late - core > BAR:
                phase.over += 1

    @contextlib.asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[None]:
        """Attributes the lag of the block to `name`."""
        await asyncio.sleep(10 * PERIOD)
        self._current = Phase(name)
        self.phases.append(self._current)
        begun = time.monotonic()
        try:
            yield
            self._current.seconds = time.monotonic() - begun
            await asyncio.sleep(10 * PERIOD)
        finally:
            phase, self._current = self._current, None
            print(row(phase), flush=True)

    def _core(self) -> float:
        """Returns the seconds for which this thread was runnable without a core; 0 if the kernel does not count
        them."""
        try:
            return int(self._waits.read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def _look(self) -> None:
        while True:
            time.sleep(PERIOD)
            phase = self._current
            if phase is not None and time.monotonic() - self._due > BAR / 2:
                frame = sys._current_frames().get(self._thread)
                ours = [f for f in traceback.extract_stack(frame) if "ferrule" in f.filename or "bench" in f.filename]
                phase.where.update(f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in ours[-1:])


def row(phase: Phase) -> str:
    """Returns a table line, with the code that blocked the loop, if it is known."""
    verdict = "ok" if phase.worst <= BAR else f"{phase.over} x over {BAR * 1000:.0f} ms"
    text = (
        f"{phase.name:<44} {phase.seconds * 1000:>9.0f} ms {phase.worst * 1000:>9.1f} ms "
        f"{phase.core * 1000:>9.1f} ms   {verdict}"
    )
    return "\n".join((text, *(f"    {line}" for line in sorted(phase.where))))


@dataclass(frozen=True, slots=True)
class StandIn(IptablesDataplane):
    """A data plane with fake programs: restore keeps the text, save prints a file."""

    folder: Path = Path()

    def tool(self, verb: str = "") -> str:
        """Returns the path of a script."""
        path = self.folder / f"{self.family}-{verb}"
        text = {"save": f"cat {path}.text", "restore": f"cat > {self.payload}"}[verb]
        if not path.exists():
            path.write_text(f"#!/bin/sh\nexec {text}\n")
            path.chmod(0o755)
            Path(f"{path}.text").touch()
        return str(path)

    @property
    def payload(self) -> Path:
        """The last input of restore."""
        return self.folder / f"{self.family}-payload"

    def take_over(self) -> None:
        """Makes save print the last input of restore. Takes seconds."""
        kernel = FakeDataplane(self.family)
        asyncio.run(kernel.restore(self.payload.read_bytes()))
        Path(f"{self.tool('save')}.text").write_text(kernel.text())


class Daemon:
    """The daemon's parts, composed as in `ferrule.daemon`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        runner = Runner()
        self.planes = [StandIn(family, Backend.LEGACY, runner, folder=folder) for family in FAMILIES]
        self.engine = Engine(EngineOptions(node_name="node-1", digest_key=os.urandom(16)))
        host = Host("node-1", runner, Choice(Backend.LEGACY, ""), self.planes, self.engine, ["172.31.0.2"], ())
        self.metrics = Metrics(build_info())
        health = ProxyHealth(60.0, clock=time.monotonic, wall_ns=time.time_ns)
        readiness = Readiness({}, on_change=self.metrics.readiness)
        status = Status(self.metrics, health, readiness)
        endpoints = Endpoints(Settings(), status, host, flags={})
        self.effects = AfterSync(host, ProblemBook(), status, on_synced=endpoints.after_sync)
        self.loop = SyncLoop(
            self.engine,
            self.planes,
            Cadence(0.0),
            clock=time.monotonic,
            on_sync=self._after_sync,
            on_request=self.effects.requested,
        )
        self.intake = Intake(self.engine, self.loop.engine_lock, self._taken, clock=time.monotonic)

    def _after_sync(self, report: SyncReport) -> None:
        self.effects.after_sync(report, pending=False)

    def _taken(self, batch: Batch, report: IngestReport) -> None:
        if report.changed:
            self.loop.changed(batch.arrived_at)

    async def list(self, kind: Kind, text: bytes) -> None:
        """Passes bytes on as they arrive from the API."""
        await self.intake.begin_list(kind)
        for at in range(0, len(text), READ_BYTES):
            await self.intake.feed_list(kind, text[at : at + READ_BYTES])
            await asyncio.sleep(0)
        await self.intake.end_list(kind)

    async def watch(self, kind: Kind, frames: bytes, read_bytes: int = READ_BYTES) -> None:
        """Passes bytes on as they arrive from the API."""
        cutter = FrameCutter(1 << 20)
        for at in range(0, len(frames), read_bytes):
            whole = cutter.feed(frames[at : at + read_bytes])
            if whole:
                await self.intake.ingest(kind, whole)
            await asyncio.sleep(0)

    async def sync(self, *families: Family) -> SyncReport:
        """Performs one sync; checks that it wrote for these families."""
        report = await self.loop.sync()
        assert report.ok, report.failures
        assert set(report.plans) == set(families), report.plans.keys()
        return report


async def measure(services: int, probe: Probe, folder: Path) -> None:
    """Measures every phase."""
    print(f"{'phase':<44} {'took':>12} {'worst lag':>12} {'no core':>12}", flush=True)
    lists = {
        "Service": as_list(service(n) for n in range(services)),
        "EndpointSlice": as_list(endpoint_slice(n) for n in range(services)),
    }
    everything, burst = as_frames(range(services), 1), as_frames(range(BURST), 2)
    daemon = Daemon(folder)
    probing = asyncio.create_task(probe.run())
    kinds: tuple[Kind, Kind] = ("Service", "EndpointSlice")
    for kind in kinds:
        async with probe.phase(f"list {services} {kind}s"):
            await daemon.list(kind, lists[kind])
    await daemon.list("Node", b'{"metadata": {"resourceVersion": "1"}, "items": []}')
    async with probe.phase("first sync: everything"):
        await daemon.sync(*FAMILIES)
    for plane in daemon.planes:
        await asyncio.to_thread(plane.take_over)
    async with probe.phase("read back, nothing differs"):
        for family in FAMILIES:
            daemon.loop.recheck(family)
        drift = (await daemon.sync()).drift["ipv4"]
        assert not (drift.differing or drift.missing or drift.stale), (
            "the fake data plane does not hold what was written"
        )
    async with probe.phase("list again, nothing differs"):
        for kind in kinds:
            await daemon.list(kind, lists[kind])
        await daemon.sync()
    async with probe.phase("one endpoint, twenty times"):
        for n in range(20):
            await daemon.watch("EndpointSlice", as_frames(range(n, n + 1), 3))
            await daemon.sync("ipv4")
    async with probe.phase(f"{BURST} slices, read by read"):
        await daemon.watch("EndpointSlice", burst)
        await daemon.sync("ipv4")
    burst = as_frames(range(BURST), 0)
    async with probe.phase(f"{BURST} slices in one read"):
        await daemon.watch("EndpointSlice", burst, len(burst))
        await daemon.sync("ipv4")
    async with probe.phase("every endpoint changes"):
        await daemon.watch("EndpointSlice", everything)
        await daemon.sync("ipv4")
    async with probe.phase("read back, everything differs"):
        daemon.loop.recheck("ipv4")
        await daemon.sync("ipv4")
    async with probe.phase("a scrape"):
        await asyncio.to_thread(render, daemon.metrics.registry)
    async with probe.phase("memory given back"):
        await asyncio.to_thread(memory.give_back)
    probing.cancel()


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop_lag", description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--where", action="store_true", help="say which line held the loop up (disturbs a little)")
    asked = parser.parse_args()
    if build_info()["profile"] != "release":
        print("a debug build measures nothing: run `make build`", file=sys.stderr)
        return 2
    import uvloop  # noqa: PLC0415 - as the daemon does

    log = tempfile.TemporaryFile("w")  # noqa: SIM115 - lines are formatted and written, and not read
    with log, tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(log):
        logs.set_up(logs.LogOptions())
        probe = Probe(asked.where)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for n in range(asked.rounds):
                runner.run(measure(asked.services, probe, Path(folder) / str(n)))
    print(f"the best of {asked.rounds}:")
    rounds: dict[str, list[Phase]] = {}
    for phase in probe.phases:
        rounds.setdefault(phase.name, []).append(phase)
    best = [min(phases, key=lambda phase: phase.worst) for phases in rounds.values()]
    for phase in best:
        print(row(phase))
    return int(any(phase.worst > BAR for phase in best))


if __name__ == "__main__":
    sys.exit(main())
