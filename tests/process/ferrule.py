"""Helpers for tests of the running program."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferrule.testing.daemon import command
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import PATIENCE

CONFIG: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "iptables": {"syncPeriod": "1s", "minSyncPeriod": "0s"},
    "conntrack": {"maxPerCore": 0, "min": 0},
}
"""A configuration that looks for drift each second and leaves the machine's conntrack settings alone."""


def write(folder: Path, name: str, objects: Sequence[dict[str, Any]]) -> Path:
    """Writes a file of manifests atomically."""
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}.new"
    fresh.write_text("\n---\n".join(json.dumps(o) for o in objects))
    return fresh.rename(folder / name)


def once(netns: NetNs, manifests: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """Runs `ferrule run --once`."""
    return netns.run(*command(manifests, "--once", *extra), check=False)


def rules(netns: NetNs, backend: str, family: str = "iptables") -> str:
    """Returns the kernel's rules."""
    return netns.run(f"{family}-{backend}-save").stdout


def strip(saved: str) -> list[str]:
    """Rules and chains without counters, dates and comments."""
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


def get(netns: NetNs, port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body. Raises `OSError`."""

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)  # time: at which the test fails
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return netns.call(ask)
