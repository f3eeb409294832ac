"""The network: a control plane, nodes and an external host on one bridge, Pods behind the nodes; all in the harness's
namespaces.

```text
   pod web-1 ─┐                                                        ┌─ api      172.31.250.1
   client    ─┤ node-1  172.31.250.2, fd00:255::2  (10.128.1.0/24) ─ lan ┤
                node-2  172.31.250.3, fd00:255::3  (10.128.2.0/24) ────┘─ outside  172.31.250.9
```

Nodes and Pods are added and removed while the rest runs. Pods are routed: each has a /32 (and /128) behind its own
veth.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ferrule.testing.lab import (
    OUTSIDE_IPS,
    POD_PROGRAM,
    PORTS,
    SERVICE_RANGES,
    Host,
    join_lan,
    make_namespace,
    set_up_router,
    wait_for,
    wire_pod,
)
from ferrule.testing.netns import NetNs, sweep

API_IPS = ("172.31.250.1", "fd00:255::1")
FIRST_POD = 10


@dataclass(slots=True)
class NodeHost(Host):
    """A node's namespace and the Pod addresses that it assigns."""

    number: int = 0
    pods: int = 0

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        """Its Pod CIDRs, IPv4 and IPv6."""
        return f"10.128.{self.number}.0/24", f"fd00:10:128:{self.number}::/64"


@dataclass(slots=True)
class Fabric:
    """The network. Use as a context manager, which removes everything at the end."""

    nodes: dict[str, NodeHost] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    _lan: NetNs = field(default_factory=lambda: NetNs("lan"))
    api: Host = field(init=False)
    outside: Host = field(init=False)

    def __enter__(self) -> Fabric:
        sweep()
        try:
            self._lan.make()
            self._lan.ip("link", "add", "br0", "type", "bridge")
            self._lan.ip("link", "set", "br0", "up")
            self.api = self._join(Host("api", make_namespace("api"), API_IPS))
            self.outside = self._join(Host("outside", make_namespace("outside"), OUTSIDE_IPS))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it; idempotent."""
        for host in list(self.hosts):
            self.remove(host)
        self._lan.remove()

    def node(self, name: str) -> NodeHost:
        """Creates a node: `node-1` has 172.31.250.2, as in the recordings; the number in a name determines its
        addresses."""
        number = int(name.rpartition("-")[2])
        node = NodeHost(name, make_namespace(name), (f"172.31.250.{number + 1}", f"fd00:255::{number + 1:x}"))
        node.number = number
        self._join(node)
        set_up_router(node.netns)
        for other in self.nodes.values():
            _route(node.netns, other.pod_cidrs, other)
            _route(other.netns, node.pod_cidrs, node)
        _route(self.outside.netns, node.pod_cidrs, node)
        if not self.nodes:
            self.route_services_via(node)
        self.nodes[name] = node
        return node

    def route_services_via(self, node: NodeHost) -> None:
        """Routes service addresses (cluster, external, load balancer) of the external host to this node."""
        for net in SERVICE_RANGES:
            self.outside.netns.ip("route", "replace", net, "via", node.ips[":" in net])

    def pod(self, node: NodeHost, name: str, ports: Sequence[int] = PORTS) -> Host:
        """Creates a namespace on a node whose server responds on `ports`, TCP and UDP; without ports a client."""
        number = FIRST_POD + node.pods
        node.pods += 1
        v4, v6 = node.pod_cidrs
        ips = (v4.replace(".0/24", f".{number}"), v6.replace("::/64", f"::{number:x}"))
        host = Host(name, make_namespace(name), ips)
        self.hosts.append(host)
        wire_pod(node, host, f"pod{number}")
        if ports:
            serve(host, ports)
        return host

    def host_network_pod(self, node: NodeHost, name: str, ports: Sequence[int]) -> Host:
        """Starts a server in the node's own namespace, with its addresses."""
        host = Host(name, node.netns, node.ips)
        self.hosts.append(host)
        serve(host, ports)
        return host

    def remove(self, host: Host) -> None:
        """Removes a Pod or a node (its Pods stay, unreachable); idempotent."""
        if host in self.hosts:
            self.hosts.remove(host)
        if host.server is not None:
            host.server.kill()
            host.server.communicate()
            host.server = None
        owner = self.nodes.get(host.name)
        if owner is not None and owner is not host and owner.netns is host.netns:
            return
        if any(other.netns is host.netns for other in self.hosts):
            return
        if not any(node.netns is host.netns for node in self.nodes.values() if node is not host):
            host.netns.remove()
        if isinstance(host, NodeHost):
            # The kernel removes a namespace asynchronously, and the next node of this name needs the port.
            self._lan.run("ip", "link", "del", f"to-{host.name}"[:15], check=False)
            self.nodes.pop(host.name, None)
            for other in (*self.nodes.values(), self.outside):
                for cidr in host.pod_cidrs:
                    other.netns.run("ip", "route", "del", cidr, check=False)

    def cut(self, host: Host, port: int) -> ExitStack:
        """Drops packets to and from `host`'s TCP `port` over the fabric, without RST, until the stack is closed."""
        undo = ExitStack()
        for chain, direction in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            side = "-i" if chain == "INPUT" else "-o"
            rule = (chain, side, "eth0", "-p", "tcp", direction, str(port), "-j", "DROP")
            host.netns.run("iptables-nft", "-I", *rule)
            undo.callback(host.netns.run, "iptables-nft", "-D", *rule)
        return undo

    def _join(self, host: Host) -> Host:
        self.hosts.append(host)
        join_lan(self._lan, host)
        return host


def serve(host: Host, ports: Sequence[int]) -> None:
    """Starts the server in a host; returns once it listens."""
    argv = (sys.executable, "-S", str(POD_PROGRAM), "serve", host.name, *map(str, ports))
    host.server = host.netns.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    wait_for(host.server, "ready")


def _route(netns: NetNs, cidrs: tuple[str, str], via: NodeHost) -> None:
    for cidr in cidrs:
        netns.ip("route", "add", cidr, "via", via.ips[":" in cidr])
