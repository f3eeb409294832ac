"""Two nodes with a running proxy each, shared by the cases of a module, so that a case costs only its own steps.

```text
   near ─ node-1 (zone a) ─┐
                            ├─ outside
   far  ─ node-2 (zone b) ─┘
```
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ferrule.testing.lab import Host, pods
from tests.e2e.harness.cluster import Cluster
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.subject import Proxy, Subject
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

ASKED = 32
QUICK = 0.4
"""Seconds to wait for a response that may not come: packets here take microseconds."""


class Site:
    """Two nodes with proxies. Use as a context manager: both proxies have synced inside."""

    node: NodeHost
    other: NodeHost
    near: Host
    """A client Pod on `node`."""
    far: Host
    """A client Pod on `other`."""
    proxy: Proxy
    """The proxy on `node`."""
    other_proxy: Proxy

    def __init__(self, cluster: Cluster, subject: Subject, folder: Path, backend: str = "nft") -> None:
        self.cluster, self.subject, self.folder, self.backend = cluster, subject, folder, backend
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        with ExitStack() as stack:
            world = stack.enter_context(World(self.cluster, self.folder))
            self.node, self.other = world.node("node-1", zone="a"), world.node("node-2", zone="b")
            self.near, self.far = world.client(self.node, "near"), world.client(self.other, "far")
            self.cluster.fabric.route_services_via(self.node)
            self.proxy, self.other_proxy = (
                Proxy(self.subject, node, self.cluster, self.folder, backend=self.backend)
                for node in (self.node, self.other)
            )
            for proxy in (self.proxy, self.other_proxy):
                stack.enter_context(proxy)
            for proxy in (self.proxy, self.other_proxy):
                proxy.wait_until_synced()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def outside(self) -> Host:
        """An external host, which routes service addresses to `node`."""
        return self.cluster.fabric.outside


def who(client: Host, address: str, port: int = 80, *, count: int = ASKED, **options: Any) -> set[str]:
    """Returns the Pods (or errors) that `count` new connections meet. `timeout=QUICK` is for those that expect none."""
    return set(pods(client.ask(address, port, count=count, **options)))


def meets(client: Host, address: str, wanted: set[str], port: int = 80, **options: Any) -> None:
    """Waits until new connections reach exactly these Pods (or errors)."""
    seen: set[str] = set()

    def as_wanted() -> bool:
        nonlocal seen
        seen = who(client, address, port, **{"timeout": QUICK, **options})
        return seen == wanted

    eventually(
        as_wanted,
        lambda: f"{client.name} → {address}:{port} {options or ''} meets {sorted(seen)} and not {sorted(wanted)}",
        seconds=20,
        every=0.1,
    )
