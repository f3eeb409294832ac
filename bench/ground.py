"""The environment of whole daemons: a real API server filled with a shape, a node, a probe Service with real Pods."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness.cluster import ETCD_PORT, LOCALHOST, PORT, Cluster
from tests.e2e.harness.fabric import Fabric
from tests.e2e.harness.subject import Proxy, Subject, proxy_config
from tests.e2e.harness.world import World

from bench import shapes, verify
from bench.probe import Probe, Writer
from bench.shapes import Request, Shape
from bench.verify import WrongRules

MIB = 1 << 20
FILL_SECONDS = 600.0
CLUSTER_CIDR = "10.128.0.0/9"
"""A network of one family, large enough for the Pods of every shape."""


class Ground:
    """The API server of a run. Objects are added where the next shape extends the current one; otherwise it is
    started anew."""

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self.fabric, self.folder = fabric, folder
        self.shape: Shape | None = None
        self._cluster: Cluster | None = None
        self._count = 0

    @property
    def cluster(self) -> Cluster:
        """The running cluster."""
        assert self._cluster is not None, "not filled"
        return self._cluster

    def close(self) -> None:
        """Idempotent."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def fill(self, shape: Shape) -> float:
        """Fills the API server with exactly this shape. Returns the seconds."""
        before = self.shape
        if before is None or not before.grows_into(shape):
            self.close()
            self._count += 1
            self._cluster = Cluster(self.fabric, self.folder / f"cluster-{self._count}").__enter__()
            self.cluster.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": shape.namespace}})
            before = None
        self.shape = None  # until all of it is there
        seconds = self._store(shapes.members(shape, before.services if before else 0))
        self.shape = shape
        return seconds

    def _store(self, objects: Iterable[dict[str, Any]]) -> float:
        etcd = f"http://{LOCALHOST}:{ETCD_PORT}"
        return self._run("bench.store", [[*self._access(), etcd], *objects])

    def send(self, requests: Iterable[Request]) -> float:
        """Sends all requests, as fast as the server accepts them. Returns the seconds."""
        return self._run("bench.load", [[*self._access(), None], *requests])

    def _run(self, module: str, lines: Iterable[object]) -> float:
        argv = (sys.executable, "-m", module)
        return float(self.cluster.host.netns.run(*argv, stdin=_text(lines), timeout=FILL_SECONDS).stdout)

    @contextmanager
    def sending(self, requests: Iterable[Request], rate: float) -> Iterator[subprocess.Popen[str]]:
        """Sends requests at a steady rate while the block runs; ends by itself, or with the block."""
        child = self.cluster.host.netns.popen(
            (sys.executable, "-m", "bench.load"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert child.stdin is not None
        try:
            child.stdin.write(_text([[*self._access(), rate], *requests]))
            child.stdin.close()
            yield child
        finally:
            child.kill()
            child.wait()

    def _access(self) -> list[str]:
        admin = self.cluster.admin_cert
        return [f"https://{LOCALHOST}:{PORT}", str(self.cluster.ca), str(admin.cert), str(admin.key)]


def _text(lines: Iterable[object]) -> str:
    return "".join(f"{json.dumps(line)}\n" for line in lines)


class Setting:
    """One subject on one backend at one shape, on a fresh node; its daemon may be running."""

    def __init__(self, ground: Ground, world: World, subject: str, backend: str, min_sync: str) -> None:
        assert ground.shape is not None
        self.ground, self.world, self.shape = ground, world, ground.shape
        self.subject, self.backend, self.min_sync = subject, backend, min_sync
        self.node = world.node("node-1")
        self.probe = Probe(world, self.node)
        self.writer = Writer(ground.cluster)
        self.proxy = self._make()

    def _make(self) -> Proxy:
        gap = {"minSyncPeriod": self.min_sync}
        more: dict[str, Any] = {"ferrule": {"dispatch": "flat"}} if self.subject == "ferrule-flat" else {}
        config = proxy_config(
            self.world.folder / "config",
            self.ground.cluster.kubeconfig(self.world.folder / "kubeconfig"),
            mode="nftables" if self.subject == "stock-nftables" else "iptables",
            iptables=gap,
            nftables=gap,
            clusterCIDR=CLUSTER_CIDR,
            **more,
        )
        kind = Subject.STOCK if self.subject.startswith("stock") else Subject.FERRULE
        folder = self.world.folder
        return Proxy(kind, self.node, self.ground.cluster, folder, backend=self.backend, config=config)

    def close(self) -> None:
        """Idempotent."""
        self.stop()
        self.writer.close()

    def stop(self) -> None:
        """Sends SIGTERM, then SIGKILL to all child processes: a restore of kube-proxy may run for an hour."""
        process = self.proxy.process
        if process is None:
            return
        with contextlib.suppress(AssertionError):
            self.proxy.stop()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self.proxy.kill()
        self.proxy.process = None

    @property
    def running(self) -> bool:
        """Returns whether the daemon is running."""
        return self.proxy.process is not None and self.proxy.process.alive

    def check(self) -> dict[str, float]:
        """Counts; raises `WrongRules`."""
        if self.subject == "stock-nftables":
            return verify.nftables(self.node.netns, self.shape)
        return verify.iptables(self.node.netns, self.backend, self.shape)

    def contains(self, changed: Mapping[int, Sequence[str]]) -> None:
        """Raises `WrongRules` unless these Services' new endpoints are in the kernel."""
        verify.contains(self.node.netns, self.subject, self.backend, self.shape, changed)

    def checked_in_time(self, seconds: float) -> dict[str, float]:
        """Repeats `check` until it succeeds: for rows that end while a sync may be running."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.check()
            except WrongRules:
                if time.monotonic() > end:
                    raise
            time.sleep(1.0)


@contextmanager
def setting(ground: Ground, subject: str, backend: str, min_sync: str) -> Iterator[Setting]:
    """Yields a setting with its own namespaces, so that no subject starts over another's rules."""
    with ExitStack() as undo:
        ground.folder.joinpath("worlds").mkdir(exist_ok=True)
        folder = ground.folder / "worlds" / f"{len(list((ground.folder / 'worlds').iterdir()))}-{subject}-{backend}"
        folder.mkdir()
        world = undo.enter_context(World(ground.cluster, folder))
        here = Setting(ground, world, subject, backend, min_sync)
        undo.callback(here.close)
        yield here
