"""Synthetic clusters as API requests. Seeded by their numbers: the same arguments give the same objects."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Request = list[Any]
JSON = "application/json"
SLICE_LIMIT = 100
"""Endpoints of one slice, as the controller cuts them."""

FIRST_POD = int(ipaddress.IPv4Address("10.129.0.1"))


@dataclass(frozen=True, slots=True)
class Shape:
    """`services` x `endpoints`; every `node_port_every`-th is a NodePort Service (0: none)."""

    services: int
    endpoints: int
    node_port_every: int = 0
    namespace: str = "bench"

    @property
    def label(self) -> str:
        """For rows."""
        return f"{self.services}x{self.endpoints}"


def address(number: int) -> str:
    """The n-th Pod address of the synthetic cluster: nobody is there."""
    return str(ipaddress.IPv4Address(FIRST_POD + number))


def name(number: int) -> str:
    """Of the n-th Service."""
    return f"svc-{number:05d}"


def create(shape: Shape) -> Iterator[Request]:
    """The Namespace, then Services and slices."""
    yield ["POST", "/api/v1/namespaces", {"metadata": {"name": shape.namespace}}, JSON]
    for n in range(shape.services):
        spec: dict[str, Any] = {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        if shape.node_port_every and n % shape.node_port_every == 0:
            spec["type"] = "NodePort"
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(n)}, "spec": spec}
        yield ["POST", f"/api/v1/namespaces/{shape.namespace}/services", body, JSON]
        for part in range(0, shape.endpoints, SLICE_LIMIT):
            count = min(SLICE_LIMIT, shape.endpoints - part)
            addresses = [address(n * shape.endpoints + part + i) for i in range(count)]
            yield ["POST", slices(shape), endpoint_slice(n, part // SLICE_LIMIT, addresses), JSON]


def slices(shape: Shape) -> str:
    """The collection's path."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{shape.namespace}/endpointslices"


def endpoint_slice(number: int, part: int, addresses: list[str]) -> dict[str, Any]:
    """Managed by nobody else, so that no controller mends it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name(number)}-{part}",
            "labels": {
                "kubernetes.io/service-name": name(number),
                "endpointslice.kubernetes.io/managed-by": "bench.ferrule",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False}}
            for ip in addresses
        ],
    }


def change(shape: Shape, number: int, addresses: list[str], part: int = 0) -> Request:
    """Replace a slice's endpoints."""
    body = {"endpoints": endpoint_slice(number, part, addresses)["endpoints"]}
    path = f"{slices(shape)}/{name(number)}-{part}"
    return ["PATCH", path, body, "application/merge-patch+json"]
