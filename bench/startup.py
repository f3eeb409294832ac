"""Measures a start and mass changes of a large cluster: engine, sync loop and real tools in a namespace, without an API
server.

    hack/in-namespaces .venv/bin/python -m bench.startup --services 30000 --backend nft

Rows: seconds by stage of the first sync and of changes after it, processor seconds of this process and of the tools,
and what this process holds and held at most (VmRSS, VmHWM); with `--alone`, the tool alone with a full plan's text.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import resource
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ferrule._engine import Engine, Plan
from ferrule.config.schema import Settings
from ferrule.daemon import lifetime  # noqa: F401 - what the daemon has loaded counts
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.dataplane.nftables import NetlinkFallback
from ferrule.host import memory
from ferrule.process.runner import Runner, ToolRun
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.sync.options import HostFacts, engine_options
from ferrule.sync.report import SyncReport
from ferrule.testing.netns import NetNs
from ferrule.types import Backend, Kind

DNS = ("kube-system", "kube-dns")


def address(number: int) -> str:
    """Returns the n-th Pod's address."""
    return str(ipaddress.IPv4Address("10.129.0.1") + number)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of `services` with one port and `endpoints` each; the last is DNS."""

    services: int
    endpoints: int

    def key(self, n: int) -> tuple[str, str]:
        """Returns namespace and name of the n-th Service."""
        return DNS if n == self.services - 1 else (f"team-{n % 50}", f"svc-{n:05d}")

    def service(self, n: int) -> dict[str, Any]:
        """Returns a Service with the fields of the API that a proxy reads."""
        namespace, called = self.key(n)
        spec = {
            "clusterIP": f"10.{96 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}",
            "ports": [{"name": "http", "port": 80}],
        }
        return {"kind": "Service", "metadata": {"name": called, "namespace": namespace}, "spec": spec}

    def slice(self, n: int, shift: int = 0) -> dict[str, Any]:
        """Returns the n-th Service's slice with `shift` endpoints replaced."""
        namespace, called = self.key(n)
        ips = [address(n * self.endpoints + i + (500_000 if i < shift else 0)) for i in range(self.endpoints)]
        metadata = {"name": f"{called}-0", "namespace": namespace, "labels": {"kubernetes.io/service-name": called}}
        return {
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in ips],
        }


@dataclass
class Stages:
    """Prints durations and memory by stage."""

    used: list[Any] = field(default_factory=lambda: [None, None])

    def memory(self) -> str:
        """Returns current memory in MiB, and its peak since the last call."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        now, most = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
        return f"rss {now:6.1f} MiB, at most {most:6.1f} MiB"

    def processor(self) -> str:
        """Returns CPU seconds since the last call, which do not depend on other load."""
        before, self.used = (
            self.used,
            [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)],
        )
        own, child = (
            now.ru_utime + now.ru_stime - (then.ru_utime + then.ru_stime if then else 0)
            for now, then in zip(self.used, before, strict=True)
        )
        return f"cpu {own:6.2f} s, tools {child:6.2f} s"

    def row(self, label: str, text: str) -> None:
        """Prints one line."""
        print(f"{label:<28} {text:<84} {self.processor()}   {self.memory()}", flush=True)


def feed(engine: Engine, kind: Kind, objects: Iterable[dict[str, Any]]) -> None:
    """Feeds a list in pieces."""
    engine.begin_list(kind)
    engine.feed_list(kind, b'{"kind":"List","metadata":{"resourceVersion":"1"},"items":[')
    for n, one in enumerate(objects):
        engine.feed_list(kind, (b"," if n else b"") + orjson.dumps(one))
    engine.feed_list(kind, b"]}")
    engine.end_list(kind)


def frames(type_: str, objects: Iterable[dict[str, Any]]) -> bytes:
    """Returns watch frames."""
    return b"\n".join(orjson.dumps({"type": type_, "object": one}) for one in objects)


class Timed(IptablesDataplane):
    """A data plane that prints the duration of each write."""

    async def write(self, plan: Plan) -> None:
        """Writes a plan; DNS works from the end of the first stage on."""
        begun = time.monotonic()
        await super().write(plan)
        TOOK.append(time.monotonic() - begun)


TOOK: list[float] = []


def stages_of(report: SyncReport) -> str:
    """Returns the stages of one sync as text."""
    if not report.ok:
        raise SystemExit(f"failed: {report.failures}")
    plan = report.plans["ipv4"]
    first = f"first {TOOK[0]:.2f} s, " if report.stages_before else ""
    stages = ", ".join(f"{stage} {seconds:.2f}" for (stage, _), seconds in report.stages.items() if seconds >= 0.005)
    return f"{report.seconds:6.2f} s ({first}{stages}; {plan.blocks} blocks, {plan.payload_size / 1e6:.1f} MB)"


async def run(options: argparse.Namespace) -> None:
    """Measures all rows, in the namespace of the calling thread."""
    cluster, stages = Cluster(options.services, options.endpoints), Stages()
    facts = HostFacts(node_name="node-1", ordered_blocks=options.backend == "nft")
    settings = Settings()
    fallback = NetlinkFallback() if (options.backend, options.writes) == ("nft", "netlink") else None
    runs: list[ToolRun] = []
    plane = Timed("ipv4", Backend(options.backend), Runner(observers=[runs.append]), fallback)
    engine = Engine(engine_options(settings, facts, stages=True))
    loop = SyncLoop(engine, [plane], Cadence(0.0), clock=time.monotonic)
    stages.row("nothing", "")
    numbers = range(cluster.services)
    begun = time.monotonic()
    feed(engine, "Service", map(cluster.service, numbers))
    feed(engine, "EndpointSlice", map(cluster.slice, numbers))
    engine.replace("Node", [b"[]"])
    stages.row("lists", f"{time.monotonic() - begun:6.2f} s, generator included")
    stages.row("start", stages_of(await loop.sync()))

    async def change(label: str, *batches: tuple[Kind, bytes]) -> None:
        for kind, batch in batches:
            engine.ingest(kind, batch)
        TOOK.clear()
        stages.row(label, stages_of(await loop.sync()))

    for n in range(options.repeat):
        await change("one endpoint", ("EndpointSlice", frames("MODIFIED", [cluster.slice(7 + n, 1)])))
    some = range(0, cluster.services - 1, max(cluster.services // 1000, 1))[:1000]
    for shift, label in ((1, "one endpoint of each"), (cluster.endpoints, "all endpoints")):
        moved = frames("MODIFIED", (cluster.slice(n, shift) for n in some))
        await change(f"{len(some)}: {label}", ("EndpointSlice", moved))
    for type_, label in (("DELETED", "Services go"), ("ADDED", "Services come")):
        await change(
            f"{len(some)} {label}",
            ("EndpointSlice", frames(type_, map(cluster.slice, some))),
            ("Service", frames(type_, map(cluster.service, some))),
        )
    print(f"largest tool: {largest_tool(runs)}")


def largest_tool(runs: Sequence[ToolRun]) -> str:
    """Returns the tool that needed the most memory.

    The children's `ru_maxrss` is not used: the kernel includes this process's own peak at the fork.
    """
    if not runs:
        return "none ran"
    peaks = [(run.usage.max_rss, run.tool) for run in runs if run.usage.max_rss is not None]
    if not peaks:
        return f"below this process's own peak ({len(runs)} runs)"
    octets, tool = max(peaks)
    return f"{tool}, {octets / (1 << 20):.0f} MiB"


async def alone(options: argparse.Namespace, netns: NetNs) -> None:
    """Measures the tool with the text of a full plan as one input."""
    cluster = Cluster(options.services, options.endpoints)
    facts = HostFacts(node_name="node-1", ordered_blocks=options.backend == "nft")
    engine = Engine(engine_options(Settings(), facts))
    feed(engine, "Service", map(cluster.service, range(cluster.services)))
    feed(engine, "EndpointSlice", map(cluster.slice, range(cluster.services)))
    engine.replace("Node", [b"[]"])
    engine.observe("ipv4", b"")
    begun = time.monotonic()
    plan = engine.plan("ipv4")
    assert plan is not None
    planned = time.monotonic() - begun
    with tempfile.TemporaryFile() as text:
        text.write(plan.payload)
        text.seek(0)
        plane = IptablesDataplane("ipv4", Backend(options.backend))
        stages = Stages()
        stages.processor()
        begun = time.monotonic()
        command = ("ip", "netns", "exec", netns.name, plane.tool("restore"), "--noflush", "-w", "5")
        child = await asyncio.create_subprocess_exec(*command, stdin=text)
        if await child.wait():
            raise SystemExit("the tool failed")
        took = f"{time.monotonic() - begun:6.2f} s (plan {planned:.2f} s; {plan.strategy})"
        print(f"{'tool alone':<28} {took} {stages.processor()}", flush=True)
    for row in plan.phases:
        print("   ", *row)


def main() -> None:
    """Runs one measurement of the start, as configured by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=4)
    parser.add_argument("--backend", choices=("nft", "legacy"), default="nft")
    parser.add_argument("--writes", choices=("netlink", "tool"), default="netlink", help="on nft")
    parser.add_argument("--repeat", type=int, default=5, help="single changes")
    parser.add_argument("--alone", action="store_true", help="the tool alone, too")
    options = parser.parse_args()
    memory.keep_large_apart()
    with NetNs("startup") as netns:
        netns.call(lambda: asyncio.run(run(options)))
    if options.alone:
        with NetNs("alone") as netns:
            asyncio.run(alone(options, netns))


if __name__ == "__main__":
    main()
