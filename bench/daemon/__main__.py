"""`make bench-daemon`: stock kube-proxy and ferrule on one API server, same configuration, same node, in one run.

    python -m bench.daemon --shape 1000x4 --subjects stock,stock-nftables,ferrule --rows start,change

Rows: `start` (empty kernel → first sync of both families), `restart` (over its own rules), `change` (API write → a new
connection reaches the new Pod), `churn` (endpoint changes as fast as the API takes them, and what they leave behind),
`idle` (CPU and growth while nothing happens). A row whose result is wrong ends the run with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.daemon import shapes
from bench.daemon.shapes import Request, Shape
from tests.e2e.harness.cluster import LOCALHOST, PORT, Cluster
from tests.e2e.harness.fabric import Fabric, NodeHost
from tests.e2e.harness.subject import Proxy, Subject, proxy_config, rules
from tests.e2e.harness.world import World

HERE = Path(__file__).parent
MIB = 1 << 20
CALM = 45.0
"""Seconds. ferrule gives memory back once it has been calm for some twenty."""

PATIENCE = 1800.0
"""Seconds. Stock needs minutes for what is measured here."""


@dataclass(slots=True)
class Row:
    """One measurement. Seconds, bytes, counts: the unit is in the name."""

    row: str
    subject: str
    backend: str
    shape: str
    values: dict[str, float] = field(default_factory=dict)

    def markdown(self) -> str:
        """A table line."""
        shown = ", ".join(
            f"{name} {value:,.3g}" if value < 100 else f"{name} {value:,.0f}" for name, value in self.values.items()
        )
        return f"| {self.row} | {self.shape} | {self.backend} | {self.subject} | {shown} |"


class Bench:
    """The running cluster and what was measured in it."""

    def __init__(self, cluster: Cluster, folder: Path, shape: Shape) -> None:
        self.cluster, self.folder, self.shape = cluster, folder, shape
        self.rows: list[Row] = []

    def send(self, requests: Iterator[Request] | Sequence[Request]) -> float:
        """All of them through a loader in the control plane's namespace; seconds."""
        access = [
            f"https://{LOCALHOST}:{PORT}",
            str(self.cluster.ca),
            str(self.cluster.admin_cert.cert),
            str(self.cluster.admin_cert.key),
        ]
        text = "\n".join(json.dumps(line) for line in (access, *requests)) + "\n"
        begun = time.monotonic()
        self.cluster.host.netns.run(sys.executable, "-m", "bench.daemon.load", stdin=text, timeout=PATIENCE)
        return time.monotonic() - begun

    def add(self, row: Row) -> None:
        """Shown at once."""
        self.rows.append(row)
        print(row.markdown(), flush=True)


@dataclass(slots=True)
class Setting:
    """Who proxies, and on what."""

    bench: Bench
    world: World
    node: NodeHost
    name: str
    backend: str

    @property
    def subject(self) -> Subject:
        """The program."""
        return Subject.FERRULE if self.name == "ferrule" else Subject.STOCK

    def row(self, name: str) -> Row:
        """An empty one."""
        return Row(name, self.name, self.backend, self.bench.shape.label)

    @contextmanager
    def proxy(self) -> Iterator[Proxy]:
        """Not started yet; killed at the end."""
        folder = self.bench.folder / f"{self.name}-{self.backend}"
        folder.mkdir(exist_ok=True)
        mode = "nftables" if self.name == "stock-nftables" else "iptables"
        gap = {"minSyncPeriod": "1s"}
        config = proxy_config(
            folder / "config",
            self.bench.cluster.kubeconfig(folder / "kubeconfig"),
            mode=mode,
            iptables=gap,
            nftables=gap,
            clusterCIDR="10.128.0.0/10",
        )
        proxy = Proxy(self.subject, self.node, self.bench.cluster, folder, backend=self.backend, config=config)
        try:
            yield proxy
        finally:
            proxy.kill()

    def check(self) -> int:
        """Rules are there for every endpoint; gives the number of endpoint chains."""
        if self.name == "stock-nftables":
            listed = self.node.netns.run("nft", "list", "chains", "ip").stdout
            found = len(re.findall(r"chain endpoint-", listed))
        else:
            found = rules(self.node, self.backend).count(":KUBE-SEP-")
        wanted = self.bench.shape.services * self.bench.shape.endpoints
        if found < wanted:
            raise SystemExit(f"{self.name} on {self.backend}: {found} endpoint chains, {wanted} are wanted")
        return found


def tree_rss(pid: int) -> int:
    """Bytes of a process's children and theirs."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            try:
                total += int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
            total += tree_rss(int(child))
    return total


def wait_synced(proxy: Proxy) -> tuple[float, int]:
    """Seconds from now to the first sync of both families, and the children's peak in bytes."""
    begun, peak = time.monotonic(), 0
    while True:
        peak = max(peak, tree_rss(proxy.running.pid))
        if not proxy.running.alive:
            raise SystemExit(f"{proxy.subject.value} ended:\n{proxy.running.tail()}")
        if proxy.last_sync("IPv4") > 0 and proxy.last_sync("IPv6") > 0:
            return time.monotonic() - begun, peak
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit(f"{proxy.subject.value} made no sync:\n{proxy.running.tail()}")
        time.sleep(0.02)


def start(setting: Setting, label: str = "start") -> None:
    """Process start → both families synced."""
    with setting.proxy() as proxy:
        begun = time.monotonic()
        proxy.start()
        _, children = wait_synced(proxy)
        seconds = time.monotonic() - begun
        time.sleep(1.0)
        row = setting.row(label)
        row.values = {
            "seconds": seconds,
            "CPU seconds": proxy.running.cpu_seconds(),
            "RSS MiB": proxy.running.rss_bytes() / MIB,
            "children's peak MiB": children / MIB,
            "endpoint chains": setting.check(),
        }
        setting.bench.add(row)
        proxy.stop()


def restart(setting: Setting) -> None:
    """The same over the rules of the run before."""
    start(setting, "restart")


def change(setting: Setting, times: int = 20) -> None:
    """The probe Service's only endpoint moves between two real Pods; what counts is who answers."""
    bench, world = setting.bench, setting.world
    pods = [world.pod("probe-a", setting.node, app="probe"), world.pod("probe-b", setting.node, app="probe")]
    service = world.service("probe", selector={})
    client = world.client(setting.node, "pinger")
    target = Shape(1, 1, namespace=world.namespace)
    slice_ = shapes.endpoint_slice(0, 0, [pods[0].ip])
    slice_["metadata"]["labels"]["kubernetes.io/service-name"] = "probe"
    slice_["metadata"]["namespace"] = world.namespace
    # The Service's port is called main, as all of the harness.
    slice_["ports"] = [{"name": "main", "port": service["spec"]["ports"][0]["targetPort"], "protocol": "TCP"}]
    world.api.create(slice_)
    taken: list[float] = []
    with setting.proxy() as proxy:
        proxy.start()
        wait_synced(proxy)
        ping = client.netns.popen(
            (sys.executable, "-S", str(HERE / "ping.py"), service["spec"]["clusterIP"], "80"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert ping.stdout is not None
        try:
            said = (line.split() for line in ping.stdout)
            wait_for(said, "probe-a")
            cpu = proxy.running.cpu_seconds()
            for n in range(times):
                time.sleep(1.5)
                pod = pods[(n + 1) % 2]
                method, path, body, content = shapes.change(target, 0, [pod.ip])
                begun = time.monotonic()
                world.api.call(method, path, body, content=content)
                taken.append(wait_for(said, pod.name) - begun)
            cpu = proxy.running.cpu_seconds() - cpu
        finally:
            ping.kill()
            ping.communicate()
        proxy.stop()
    row = setting.row("change")
    milliseconds = sorted(1000 * t for t in taken)
    row.values = {
        "p50 ms": statistics.median(milliseconds),
        "p99 ms": milliseconds[-1],
        "CPU ms a change": 1000 * cpu / times,
        "changes": times,
    }
    bench.add(row)
    for pod in pods:
        pod.delete()
    world.api.delete("EndpointSlice", slice_["metadata"]["name"], world.namespace)
    world.api.delete("Service", "probe", world.namespace)


def wait_for(said: Iterator[list[str]], name: str) -> float:
    """When this Pod answered first."""
    for who, when in said:
        if who == name:
            return float(when)
    raise SystemExit(f"the pinger ended before {name} answered")


def churn(setting: Setting, changes: int) -> None:
    """Endpoints replaced as fast as the API takes it, then everything as before; what is left behind is looked at."""
    bench, shape = setting.bench, setting.bench.shape

    def there_and_back(count: int) -> Iterator[Request]:
        touched = min(count, shape.services)
        for n in range(count + touched):
            # The last round restores what the shape says.
            first = shape.services + n if n < count else n - count
            ips = [shapes.address(first * shape.endpoints + i) for i in range(shape.endpoints)]
            yield shapes.change(shape, n % shape.services if n < count else n - count, ips)

    with setting.proxy() as proxy:
        proxy.start()
        wait_synced(proxy)
        # A tenth of it first: what allocators and caches take once is no growth.
        bench.send(there_and_back(changes // 10))
        settle(proxy, CALM)
        before, cpu = proxy.running.rss_bytes(), proxy.running.cpu_seconds()
        chains = setting.check()
        sent = list(there_and_back(changes))
        seconds = bench.send(sent)
        settle(proxy, CALM)
        used = proxy.running.cpu_seconds() - cpu
        after = setting.check()
        if after != chains:
            raise SystemExit(f"{setting.name}: {chains} endpoint chains before the churn, {after} after it")
        row = setting.row("churn")
        row.values = {
            "changes": len(sent),
            "changes a second": len(sent) / seconds,
            "CPU seconds": used,
            "RSS before MiB": before / MIB,
            "RSS after MiB": proxy.running.rss_bytes() / MIB,
        }
        bench.add(row)
        proxy.stop()


def settle(proxy: Proxy, seconds: float) -> None:
    """Until no sync happened for so long."""
    last, since = proxy.last_sync(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.2)
        now = proxy.last_sync()
        if now != last:
            last, since = now, time.monotonic()


def idle(setting: Setting, seconds: float) -> None:
    """Nothing happens."""
    with setting.proxy() as proxy:
        proxy.start()
        wait_synced(proxy)
        time.sleep(10)
        before, cpu = proxy.running.rss_bytes(), proxy.running.cpu_seconds()
        time.sleep(seconds)
        row = setting.row("idle")
        row.values = {
            "seconds": seconds,
            "percent of a core": 100 * (proxy.running.cpu_seconds() - cpu) / seconds,
            "RSS before MiB": before / MIB,
            "RSS after MiB": proxy.running.rss_bytes() / MIB,
        }
        setting.bench.add(row)
        proxy.stop()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.daemon", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="1000x4", help="SERVICESxENDPOINTS (default: %(default)s)")
    parser.add_argument("--subjects", default="stock,ferrule", help="of stock, stock-nftables, ferrule")
    parser.add_argument("--backends", default="nft,legacy")
    parser.add_argument("--rows", default="start,restart,change")
    parser.add_argument("--idle-seconds", type=float, default=600.0)
    parser.add_argument("--churn", type=int, default=10_000, help="endpoint changes of the churn row")
    parser.add_argument("--json", type=Path, help="write the results there, with machine and versions")
    return parser.parse_args()


def main() -> None:
    """Rows as they come; JSON at the end."""
    asked = parse()
    services, endpoints = map(int, asked.shape.split("x"))
    shape = Shape(services, endpoints)
    measures: dict[str, Callable[[Setting], None]] = {
        "start": start,
        "restart": restart,
        "change": change,
        "churn": lambda s: churn(s, asked.churn),
        "idle": lambda s: idle(s, asked.idle_seconds),
    }
    with tempfile.TemporaryDirectory() as temporary, Fabric() as fabric:
        folder = Path(temporary)
        with Cluster(fabric, folder / "cluster") as cluster:
            bench = Bench(cluster, folder, shape)
            print(f"filling the API server with {shape.label}", file=sys.stderr, flush=True)
            seconds = bench.send(shapes.create(shape))
            print(f"filled in {seconds:.1f} s", file=sys.stderr, flush=True)
            print("| row | shape | backend | subject | |\n|---|---|---|---|---|")
            for subject in asked.subjects.split(","):
                for backend in ("nft",) if subject == "stock-nftables" else asked.backends.split(","):
                    (folder / f"world-{subject}-{backend}").mkdir()
                    with World(cluster, folder / f"world-{subject}-{backend}") as world:
                        # A namespace of its own each time: nobody starts over another's rules.
                        setting = Setting(bench, world, world.node("node-1"), subject, backend)
                        for name in asked.rows.split(","):
                            measures[name](setting)
            if asked.json:
                asked.json.write_text(json.dumps(report(bench), indent=1) + "\n")


def report(bench: Bench) -> dict[str, object]:
    """Rows, and what they were measured on."""
    cpu = next(
        (line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    iptables = bench.cluster.host.netns.run("iptables", "--version").stdout.strip()
    return {
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": {"iptables": iptables, "python": platform.python_version(), "kube-proxy": "1.37.2"},
        "rows": [asdict(row) for row in bench.rows],
    }


if __name__ == "__main__":
    main()
