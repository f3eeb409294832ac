"""The proxies under test: stock kube-proxy and ferrule, started on a node with the same files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ferrule.testing.lab import CLUSTER_CIDRS
from tests.e2e.harness.api import Reply, request
from tests.e2e.harness.cluster import CONTROLPLANE, Cluster
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.process import Process
from tests.e2e.harness.waiting import eventually

BACKENDS = ("nft", "legacy")
HINT = "KUBE-IPTABLES-HINT"
HEALTH, METRICS = 10256, 10249


class Subject(Enum):
    """The proxy under test."""

    STOCK = "stock"
    FERRULE = "ferrule"


def proxy_config(path: Path, kubeconfig: Path, **overrides: Any) -> Path:
    """Writes a KubeProxyConfiguration as kubeadm does; a section given as a mapping is merged over the default one."""
    config: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": CLUSTER_CIDRS,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        # The only limit that is global to the machine.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "iptables": {"minSyncPeriod": "100ms"},
    }
    for name, value in overrides.items():
        before = config.get(name)
        config[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, Mapping) else value
    path.write_text(json.dumps(config))
    return path


class Proxy:
    """One subject on one node: can be started, ended and started again. Killed at the end of the `with`."""

    def __init__(
        self,
        subject: Subject,
        node: NodeHost,
        cluster: Cluster,
        folder: Path,
        *,
        backend: str = "nft",
        config: Path | None = None,
        name: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.subject, self.node, self.backend = subject, node, backend
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config or proxy_config(
            folder / f"{node.name}.config", cluster.kubeconfig(folder / f"{node.name}.kubeconfig")
        )
        self._name = name or node.name
        self._arguments = arguments
        self.process: Process | None = None

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> Process:
        """Returns the process of the latest start."""
        assert self.process is not None, "not started"
        return self.process

    def argv(self) -> tuple[str, ...]:
        """Returns the command line."""
        program = {
            Subject.STOCK: (str(CONTROLPLANE), "kube-proxy"),
            Subject.FERRULE: (sys.executable, "-m", "ferrule", "run"),
        }[self.subject]
        return (*program, f"--config={self.config}", f"--hostname-override={self._name}", *self._arguments)

    def start(self) -> Proxy:
        """Starts it without waiting."""
        leave_hint(self.node, self.backend)
        tools = tools_of(self.backend, self.folder / f"bin-{self.backend}")
        path = f"{tools}:/usr/sbin:/sbin:{os.environ['PATH']}"
        log = self.folder / f"{self.node.name}-{self.subject.value}.log"
        self.process = Process(self.node.netns, self.argv(), log, environment={"PATH": path})
        return self

    def stop(self) -> int:
        """Sends SIGTERM. Returns the exit code; kube-proxy has no handler: -15."""
        return self.running.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Idempotent."""
        if self.process is not None:
            self.process.kill()

    def http(self, path: str, port: int = METRICS, *, host: str = "127.0.0.1") -> Reply:
        """Sends a request from the node itself. Raises `OSError` while nothing listens."""
        return request(self.node.netns, host, port, path)

    def metrics(self) -> dict[str, float]:
        """Returns each sample of a scrape, by its full name with labels."""
        samples = (line.rsplit(" ", 1) for line in self.http("/metrics").text.splitlines() if line[:1] not in ("#", ""))
        return {name: float(value) for name, value in samples}

    def last_sync(self, family: str = "IPv4") -> float:
        """Returns when this run last wrote its rules (Unix seconds); 0 before the first time."""
        try:
            wanted = f'kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family="{family}"}}'
            return self.metrics().get(wanted, 0.0)
        except OSError:
            return 0.0

    def syncs(self) -> int:
        """Returns the number of writes that ferrule logged, counting each family. A rule may be visible before its
        log line."""
        return len(self.running.lines('"Synced"'))

    def wait_until_synced(self) -> Proxy:
        """Waits until both families were written at least once since the start."""

        def synced() -> bool:
            assert_alive(self.running)
            return self.last_sync("IPv4") > 0 and self.last_sync("IPv6") > 0

        eventually(synced, lambda: f"{self.subject.value} made no sync:\n{self.running.tail()}")
        return self


def assert_alive(process: Process) -> None:
    """Fails with its last output if it has ended."""
    if not process.alive:
        raise RuntimeError(f"{process.argv[:3]} ended ({process.child.returncode}):\n{process.tail()}")


def rules(node: NodeHost, backend: str, family: str = "iptables") -> str:
    """Returns the rules of a node's kernel as `iptables-save` (or family `ip6tables`) prints them."""
    return node.netns.run(f"{family}-{backend}-save").stdout


def leave_hint(node: NodeHost, backend: str) -> None:
    """Creates kubelet's hint chain, with which every proxy chooses this backend. Idempotent."""
    for family in ("iptables", "ip6tables"):
        node.netns.run(f"{family}-{backend}", "-w", "5", "-t", "mangle", "-N", HINT, check=False)


def tools_of(backend: str, folder: Path) -> Path:
    """Returns a folder for PATH in which `iptables` is one backend's: kube-proxy has no other way to choose."""
    folder.mkdir(exist_ok=True)
    for family in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            target = shutil.which(f"{family}-{backend}{verb}", path=f"/usr/sbin:/sbin:{os.environ['PATH']}")
            link = folder / f"{family}{verb}"
            if target is not None and not link.is_symlink():
                link.symlink_to(target)
    return folder
