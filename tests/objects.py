"""Builds cluster objects as the API serves them, with the fields that a test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

V4, V6 = "10.96.0.10", "fd00:10:96::10"
NODE_PORT = 30080
EXTERNAL_IP = "192.0.2.10"
EXTERNAL_IP6 = "2001:db8::10"
LB_IP = "192.0.2.20"
LB_IP6 = "2001:db8::20"


def service(name: str = "web", *, protocol: str = "TCP", port: int = 80, **spec: Any) -> dict[str, Any]:
    """Returns a dual-stack ClusterIP Service; `spec` overrides and adds, `lb=[…]` sets its load balancer's
    addresses."""
    ingress = [{"ip": ip, "ipMode": "VIP"} for ip in spec.pop("lb", ())]
    node_port = spec.pop("nodePort", None)
    first = {"name": "main", "protocol": protocol, "port": port} | ({"nodePort": node_port} if node_port else {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": V4,
            "clusterIPs": [V4, V6],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [first],
        }
        | spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def endpoint(
    ip: str, *, node: str = "node-1", ready: bool = True, serving: bool = True, terminating: bool = False
) -> dict[str, Any]:
    """Returns one endpoint of a slice."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {"addresses": [ip], "nodeName": node, "conditions": conditions}


def endpoint_slice(
    endpoints: Sequence[dict[str, Any]], *, of: str = "web", family: str = "IPv4", **port: Any
) -> dict[str, Any]:
    """Returns a slice of a Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-{family.lower()}",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [{"name": "main", "protocol": "TCP", "port": 8080} | port],
    }


NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "172.31.250.2"},
            {"type": "InternalIP", "address": "fd00:255::2"},
        ]
    },
}
