"""The objects of random histories: a Service that may change its type, and endpoints in every condition."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ferrule.testing.lab import NODE_NAME
from tests.e2e.harness.api import Object

EXTERNAL = ("192.0.2.10", "192.0.2.11", "198.51.100.3", "2001:db8::10", "2001:db8::11", "2001:db8:2::3")
BALANCER = ("192.0.2.20", "192.0.2.21", "203.0.113.5", "2001:db8::20", "2001:db8::21", "192.0.2.10")
RANGES = (
    "10.0.0.0/8",
    "172.31.250.0/24",
    "0.0.0.0/0",
    "192.0.2.20/32",
    "203.0.113.0/24",
    "fd00:255::/64",
    "::/0",
    "2001:db8::20/128",
)
ZONES = ("zone-a", "zone-b", "zone-c")
CONDITIONS: Sequence[dict[str, bool]] = (
    {"ready": True},
    {"ready": True, "serving": True, "terminating": False},
    {"ready": True, "serving": True, "terminating": False},
    {"ready": False, "serving": False, "terminating": False},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
    {"ready": True, "serving": True, "terminating": True},
    {"ready": False},
    {},
)


@dataclass(slots=True)
class RandomService:
    """The fields of a Service of any type; `thing` contains those that its type allows."""

    namespace: str
    name: str
    uid: str
    families: list[str]
    ips: list[str]
    ports: list[Object]
    health_port: int
    type: str = "ClusterIP"
    headless: bool = False
    external: str = "Cluster"
    internal: str = "Cluster"
    affinity: int = 0
    external_ips: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    annotated_ranges: str = ""
    ingress: list[Object] = field(default_factory=list)
    node_ports: bool = True
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    def thing(self) -> Object:
        """Returns the object to send, status included."""
        balanced, exposed = self.type == "LoadBalancer", self.type in ("NodePort", "LoadBalancer")
        numbered = self.type == "NodePort" or (balanced and self.node_ports)
        ports = [p if numbered else {k: v for k, v in p.items() if k != "nodePort"} for p in self.ports]
        spec: Object = {"type": self.type, "ports": ports}
        if self.type == "ExternalName":
            spec["externalName"] = "elsewhere.example"
        else:
            ips = ["None"] if self.headless else self.ips
            policy = "RequireDualStack" if len(self.families) > 1 else "SingleStack"
            spec |= {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": self.families, "ipFamilyPolicy": policy}
            spec |= {"internalTrafficPolicy": self.internal, "externalIPs": self.external_ips}
            if self.affinity:
                spec |= {
                    "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": self.affinity}},
                }
            if exposed or self.external_ips:
                spec["externalTrafficPolicy"] = self.external
        if balanced:
            spec["allocateLoadBalancerNodePorts"] = self.node_ports
            spec["loadBalancerSourceRanges"] = self.ranges
            if self.external == "Local":
                spec["healthCheckNodePort"] = self.health_port
        notes = {"service.beta.kubernetes.io/load-balancer-source-ranges": self.annotated_ranges}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
                "annotations": notes if balanced and self.annotated_ranges else {},
            },
            "spec": spec,
            "status": {"loadBalancer": {"ingress": self.ingress} if balanced and self.ingress else {}},
        }


def random_endpoint(rng: random.Random, address: str, hinted: str | None) -> Object:
    """Returns a random endpoint. `hinted`: None, or one of `zones`, `most` (some endpoints without) and `nodes`."""
    endpoint: dict[str, Any] = {"addresses": [address], "conditions": dict(rng.choice(CONDITIONS))}
    node = rng.choice((NODE_NAME, NODE_NAME, "node-2", "node-2", None))
    if node:
        endpoint |= {"nodeName": node, "zone": rng.choice(ZONES)}
    hints: Object = {"forZones": [{"name": zone} for zone in rng.sample(ZONES, rng.choice((1, 1, 2)))]}
    if hinted == "nodes":
        hints |= {"forNodes": [{"name": rng.choice((NODE_NAME, "node-2"))}]}
    if hinted and not (hinted == "most" and rng.random() < 0.2):
        endpoint["hints"] = hints
    return endpoint
