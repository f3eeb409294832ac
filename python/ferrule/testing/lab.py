"""A small network of namespaces: the node with Pods behind veths, another node's Pods, and an external host.

```text
   pod a ─┐                                             ┌─ remote pods (10.128.2.0/24)
   pod b ─┤ node-1 (172.31.250.2, fd00:255::2) ── lan ──┤
   client ┘  routes 10.128.1.0/24                       └─ outside (172.31.250.9)
```

Every link is a veth between two of the lab's namespaces; the machine's own namespace gets no address, route or bridge.
Pods are routed, not bridged: each has a /32 (and /128) that the node reaches through its veth.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

from ferrule.testing.netns import NetNs, sweep
from ferrule.testing.waiting import PATIENCE

NODE_NAME = "node-1"
NODE_IPS = ("172.31.250.2", "fd00:255::2")
OUTSIDE_IPS = ("172.31.250.9", "fd00:255::9")
OUTSIDE_OTHER_IP = "172.31.250.77"
"""A second address of the external host, for rules that depend on the client."""

CLUSTER_CIDRS = "10.128.0.0/10,fd00:10:128::/48"
SERVICE_RANGES = ("10.96.0.0/16", "fd00:10:96::/112", "192.0.2.0/24", "2001:db8::/64")
"""What the external host routes to the node: external and LB addresses, but not cluster IPs."""

PORTS = (8080, 8081)
"""The port that every Pod serves, TCP and UDP."""

POD_PROGRAM = Path(__file__).with_name("pod.py")
GATEWAY = "169.254.1.1"
PATIENT = 20.0
"""Seconds to wait for an expected response: longer than several retransmissions of a SYN on a busy machine. A
response ends the wait, so only a failing test takes that long."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of one request."""

    pod: str
    """Name of the Pod; empty without a response."""
    source: str
    """The client's address as seen by the Pod."""
    error: str
    """`refused`, `timeout`, another text, or empty."""


@dataclass(slots=True)
class Host:
    """A namespace with addresses, and a server if it is a Pod."""

    name: str
    netns: NetNs
    ips: tuple[str, str]
    server: subprocess.Popen[str] | None = None

    def ask(
        self,
        destination: str,
        port: int,
        *,
        protocol: str = "tcp",
        count: int = 1,
        timeout: float = PATIENT,  # time: an answer ends the wait
        source: str | None = None,
    ) -> list[Reply]:
        """Opens `count` new connections from this host; each result names the Pod that served it."""
        return self.ask_all([question(destination, port, protocol, count, timeout, source)])[0]

    def ask_all(self, questions: Sequence[dict[str, Any]]) -> list[list[Reply]]:
        """Sends several requests from one process, one after the other."""
        limit = PATIENCE + sum(q["timeout"] * (q["count"] // 16 + 1) for q in questions)
        # time: what the questions may take in all
        done = self.netns.run(
            sys.executable, "-S", str(POD_PROGRAM), "ask", stdin=json.dumps(questions) + "\n", timeout=limit
        )
        return [[_reply(a) for a in answers] for answers in json.loads(done.stdout)]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts `stream` or `knock` and returns once it runs. Close its stdin (`finish`) to get the result."""
        argv = (sys.executable, "-S", str(POD_PROGRAM), *command)
        child = self.netns.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for(child, "open")
        return child


def question(
    destination: str,
    port: int,
    protocol: str = "tcp",
    count: int = 1,
    timeout: float = PATIENT,  # time: an answer ends the wait
    source: str | None = None,
) -> dict[str, Any]:
    """Returns one request for `Host.ask_all`."""
    return {
        "host": destination,
        "port": port,
        "protocol": protocol,
        "count": count,
        "timeout": timeout,
        "source": source,
    }


def finish(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Ends a `stream` or `knock` and returns its counts."""
    out, _ = child.communicate("", timeout=2 * PATIENCE)  # time: the deadline at which a test fails
    return dict(json.loads(out.strip().splitlines()[-1]))


def pods(answers: Iterable[Reply]) -> Counter[str]:
    """Returns how often each Pod responded; failures count under their error."""
    return Counter(a.pod or a.error for a in answers)


def _reply(raw: dict[str, Any]) -> Reply:
    if "error" in raw:
        return Reply("", "", raw["error"])
    return Reply(raw["pod"], str(raw["peer"][0]).removeprefix("::ffff:"), "")


def wait_for(child: subprocess.Popen[str], word: str) -> None:
    """Waits for the program's first line, which must be `word`; otherwise kills it and raises `RuntimeError`."""
    assert child.stdout is not None
    # time: the deadline at which a test fails
    ready, _, _ = select.select([child.stdout], [], [], PATIENCE)
    line = child.stdout.readline().strip() if ready else "silence"
    if line != word:
        child.kill()
        raise RuntimeError(f"{child.args!r} said {line!r} instead of {word!r}")


NO_DAD = {"ipv6__conf__all__accept_dad": 0, "ipv6__conf__default__accept_dad": 0}
"""Sysctls that disable duplicate address detection, which costs each new link a second."""


def make_namespace(name: str) -> NetNs:
    """Creates a namespace whose IPv6 addresses work immediately."""
    netns = NetNs(name).make()
    netns.sysctl(**NO_DAD)
    return netns


def mac_of(ip: str) -> str:
    """Returns a locally administered MAC address derived from an IPv4 address. A host that is created again in a new
    namespace keeps it, so that cached ARP entries stay valid."""
    return ":".join(("02", "00", *(f"{octet:02x}" for octet in IPv4Address(ip).packed)))


def join_lan(lan: NetNs, host: Host) -> None:
    """Connects a host's `eth0`, with its addresses, to the bridge `br0` of `lan`."""
    port = f"to-{host.name}"[:15]
    lan.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.netns.name)
    lan.ip("link", "set", port, "master", "br0", "up")
    host.netns.ip("link", "set", "eth0", "address", mac_of(host.ips[0]), "up")
    host.netns.ip("addr", "add", f"{host.ips[0]}/24", "dev", "eth0")
    host.netns.ip("addr", "add", f"{host.ips[1]}/64", "dev", "eth0", "nodad")


def set_up_router(netns: NetNs) -> None:
    """Configures a host on the LAN as a node."""
    # A default route, so that packets to cluster IPs reach the rules.
    netns.ip("route", "add", "default", "via", OUTSIDE_IPS[0])
    netns.ip("-6", "route", "add", "default", "via", OUTSIDE_IPS[1])
    # No limit on ICMP errors: a REJECT without a response looks like a DROP.
    netns.sysctl(
        ipv4__ip_forward=1,
        ipv6__conf__all__forwarding=1,
        ipv4__conf__all__rp_filter=0,
        ipv4__icmp_ratelimit=0,
        ipv6__icmp__ratelimit=0,
    )


def wire_pod(router: Host, pod: Host, veth: str) -> None:
    """Connects a Pod's namespace to its node and routes its addresses there; `veth` is the node's end."""
    router.netns.ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", pod.netns.name)
    router.netns.ip("link", "set", veth, "up")
    router.netns.ip("addr", "add", "fe80::1/64", "dev", veth, "nodad")
    pod.netns.ip("link", "set", "eth0", "up")
    pod.netns.ip("addr", "add", f"{pod.ips[0]}/32", "dev", "eth0")
    pod.netns.ip("addr", "add", f"{pod.ips[1]}/128", "dev", "eth0", "nodad")
    # The node's end has no IPv4 address, as with routed CNIs, so that masquerading uses the node's own.
    mac = json.loads(router.netns.ip("-j", "link", "show", veth))[0]["address"]
    pod.netns.ip("neigh", "add", GATEWAY, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    pod.netns.ip("route", "add", GATEWAY, "dev", "eth0")
    pod.netns.ip("route", "add", "default", "via", GATEWAY)
    pod.netns.ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
    router.netns.ip("route", "add", f"{pod.ips[0]}/32", "dev", veth, "src", router.ips[0])
    router.netns.ip("-6", "route", "add", f"{pod.ips[1]}/128", "dev", veth, "src", router.ips[1])


@dataclass(slots=True)
class Lab:
    """The lab. Use as `with Lab(local=[…], remote=[…]) as lab`. Pods are numbered from .10 on in this order."""

    local: Sequence[str] = ("a", "b", "c")
    """Pods on the node that runs ferrule."""
    remote: Sequence[str] = ()
    """Pods on the other node."""
    hosts: dict[str, Host] = field(default_factory=dict)
    _lan: NetNs | None = None

    def __enter__(self) -> Lab:
        sweep()
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Idempotent."""
        for host in self.hosts.values():
            if host.server is not None:
                host.server.kill()
                host.server.communicate()
            host.netns.remove()
        self.hosts.clear()
        if self._lan is not None:
            self._lan.remove()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def node(self) -> Host:
        """The node that runs ferrule."""
        return self.hosts["node"]

    def pod_ip(self, name: str, *, v6: bool = False) -> str:
        """Returns a Pod's address."""
        return self.hosts[name].ips[v6]

    def _build(self) -> None:
        self._lan = NetNs("lan").make()
        self._lan.ip("link", "add", "br0", "type", "bridge")
        self._lan.ip("link", "set", "br0", "up")
        node = self._on_lan("node", NODE_IPS)
        other = self._on_lan("node2", ("172.31.250.3", "fd00:255::3"))
        outside = self._on_lan("outside", OUTSIDE_IPS)
        outside.netns.ip("addr", "add", f"{OUTSIDE_OTHER_IP}/24", "dev", "eth0")
        for net in SERVICE_RANGES:
            outside.netns.ip("route", "add", net, "via", NODE_IPS[":" in net])
        for router, nets, peer in (
            (node, ("10.128.2.0/24", "fd00:10:128:2::/64"), other),
            (other, ("10.128.1.0/24", "fd00:10:128:1::/64"), node),
            (outside, ("10.128.0.0/10", "fd00:10:128::/48"), node),
        ):
            for net in nets:
                router.netns.ip("route", "add", net, "via", peer.ips[":" in net])
        for router in (node, other):
            set_up_router(router.netns)
        for number, (router, name) in enumerate(
            [(node, n) for n in self.local] + [(node, "client")] + [(other, n) for n in self.remote]
        ):
            self._pod(router, name, number)
        for host in self.hosts.values():
            if host.server is not None:
                wait_for(host.server, "ready")

    def _on_lan(self, name: str, ips: tuple[str, str]) -> Host:
        assert self._lan is not None
        netns = make_namespace(name)
        host = self.hosts[name] = Host(name, netns, ips)
        join_lan(self._lan, host)
        return host

    def _pod(self, router: Host, name: str, number: int) -> None:
        net = 1 if router.name == "node" else 2
        ips = (f"10.128.{net}.{10 + number}", f"fd00:10:128:{net}::{10 + number:x}")
        netns = make_namespace(name)
        host = self.hosts[name] = Host(name, netns, ips)
        wire_pod(router, host, f"veth{number}")
        host.server = netns.popen(
            (sys.executable, "-S", str(POD_PROGRAM), "serve", name, *map(str, PORTS)), stdout=subprocess.PIPE
        )
