"""The cost of the rules for a first packet: local UDP sends of new flows, and new TCP connections per second.

Measured on the rules that a daemon left in its node's kernel, after its end: to the first, the middle and the last
Service of a long chain (for trees and maps: of the shape) and to an address without a Service. The packets end in an
interface without a link, or at listeners on the node's loopback, so rows differ only in the traversal of the rules.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench import shapes, verify
from bench.ground import Setting
from bench.probe import HERE
from ferrule.testing.netns import NetNs

SOURCE = "10.191.255.1"
"""A source inside the cluster's network, so that no rule masquerades."""

MISS = "10.191.254.254"
"""An address outside the range of cluster IPs, in which kube-proxy's nftables mode rejects addresses without a
Service."""
FLOWS = 1_500
CONNECTIONS = 1_500
PLACES = ("first", "middle", "last")
PROBE_SECONDS = 120.0


def packets(setting: Setting) -> dict[str, float]:
    """Stops the daemon and measures its rules, which stay. Additions to the node are removed afterwards."""
    setting.stop()
    netns, shape = setting.node.netns, setting.shape
    udp, tcp = _targets(setting, "UDP"), _targets(setting, "TCP")
    local = [ip for _, number in tcp for ip in shapes.endpoints_of(shape, number)]
    try:
        _wire(netns, local)
        return _run(netns, [ip for ip, _ in udp], [ip for ip, _ in tcp], listen=[80, 8080])
    finally:
        netns.run("ip", "link", "del", "probe0", check=False)
        _addresses(netns, "del", local)


def empty(backend: str) -> dict[str, float]:
    """Measures the same sends through the same entry jumps to empty chains."""
    with NetNs("empty") as netns:
        jumps = {"nat": ("OUTPUT", "PREROUTING", "POSTROUTING"), "filter": ("OUTPUT", "INPUT", "FORWARD")}
        for table, hooks in jumps.items():
            netns.run(f"iptables-{backend}", "-w", "5", "-t", table, "-N", "EMPTY")
            for hook in hooks:
                netns.run(f"iptables-{backend}", "-w", "5", "-t", table, "-A", hook, "-j", "EMPTY")
        local = [shapes.cluster_ip(n) for n in range(3)]
        _wire(netns, local)
        return _run(netns, [shapes.cluster_ip(n) for n in range(10, 13)], local, listen=[80])


def _targets(setting: Setting, protocol: str) -> list[tuple[str, int]]:
    """Returns (cluster IP, Service number) at the three positions."""
    shape = setting.shape
    own = {shapes.cluster_ip(n): n for n in range(shape.services) if shapes.protocol(n) == protocol}
    order = list(own)
    if setting.subject != "stock-nftables":
        chain = verify.look(setting.node.netns, setting.backend).order(protocol.lower())
        order = [ip for ip in chain if ip in own] or order
    return [(ip, own[ip]) for ip in (order[0], order[len(order) // 2], order[-1])]


def _wire(netns: NetNs, local: list[str]) -> None:
    """Routes Pods and Services to `probe0`; local addresses are added to the loopback."""
    # A bridge without ports drops all packets, and every kernel supports it (dummy is a separate module).
    netns.ip("link", "add", "probe0", "type", "bridge")
    netns.ip("address", "add", f"{SOURCE}/32", "dev", "probe0")
    netns.ip("link", "set", "probe0", "arp", "off", "up")
    for net in ("10.96.0.0/16", "10.128.0.0/9"):
        netns.ip("route", "add", net, "dev", "probe0", "src", SOURCE, "metric", "500")
    _addresses(netns, "add", local)


def _addresses(netns: NetNs, verb: str, local: list[str]) -> None:
    lines = "".join(f"address {verb} {ip}/32 dev lo\n" for ip in sorted(set(local)))
    netns.run("ip", "-force", "-batch", "-", stdin=lines, check=verb == "add")


def _run(netns: NetNs, udp: list[str], tcp: list[str], listen: list[int]) -> dict[str, float]:
    """Runs the client. Services lead to port 8080; packets that match no rule arrive at 80."""
    ask = {
        "source": SOURCE,
        "flows": FLOWS,
        "connections": CONNECTIONS,
        "udp": dict(zip((*PLACES, "miss"), ((ip, 80) for ip in (*udp, MISS)), strict=True)),
        "tcp": dict(zip((*PLACES, "miss"), ((ip, 80) for ip in (*tcp, SOURCE)), strict=True)),
        "listen": listen,
    }
    done = netns.run(sys.executable, "-S", str(Path(HERE) / "flows.py"), stdin=json.dumps(ask), timeout=PROBE_SECONDS)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}
