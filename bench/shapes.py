"""Generates synthetic clusters, seeded by their shape alone: the same label produces the same objects, addresses and
changes.

10000x4             10,000 Services of 4 endpoints; every tenth has a node port, every tenth is UDP
2000x4x3            of three ports each
5000x4-dual         both families
500x500             500 Services of 500 endpoints, five slices each
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Request = list[Any]
"""Method, path, body, content type: a line for `bench.load`."""

MERGE = "application/merge-patch+json"
SLICE_LIMIT = 100
"""Maximum number of endpoints of one slice, as in the controller."""

FIRST_SERVICE = (int(ipaddress.ip_address("10.96.4.0")), int(ipaddress.ip_address("fd00:10:96::400")))
FIRST_POD = (int(ipaddress.ip_address("10.129.0.1")), int(ipaddress.ip_address("fd00:10:129::1")))
FRESH_POD = int(ipaddress.ip_address("10.160.0.1"))
"""The first address number of replaced Pods, beyond those of every shape."""

MOST_SERVICES = 60_000
NODE_PORT_EVERY, FIRST_NODE_PORT, MOST_NODE_PORTS = 10, 30_000, 2_700
"""Maximum number of node ports. The API server's range has 2,768; a few are left for other Services."""

UDP_EVERY, UDP_AT = 10, 7


@dataclass(frozen=True, slots=True)
class Shape:
    """`services` x `endpoints` x `ports`."""

    services: int
    endpoints: int
    ports: int = 1
    dual: bool = False
    namespace: str = "bench"

    @property
    def label(self) -> str:
        """Its name in rows, which `parse` accepts."""
        ports = f"x{self.ports}" if self.ports > 1 else ""
        return f"{self.services}x{self.endpoints}{ports}{'-dual' if self.dual else ''}"

    @property
    def total(self) -> int:
        """Number of IPv4 endpoint chains: one for each endpoint of each service port."""
        return self.services * self.endpoints * self.ports

    def grows_into(self, other: Shape) -> bool:
        """Returns whether `other` is this shape with more Services."""
        same = (self.endpoints, self.ports, self.dual) == (other.endpoints, other.ports, other.dual)
        return same and self.services <= other.services


def parse(label: str) -> Shape:
    """Parses a label. Raises `ValueError` with a sentence."""
    match = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?(-dual)?", label)
    if match is None:
        raise ValueError(f"{label!r} is not a shape: expected SERVICESxENDPOINTS[xPORTS][-dual], as 10000x4")
    shape = Shape(int(match[1]), int(match[2]), int(match[3] or 1), match[4] is not None)
    if not 0 < shape.services <= MOST_SERVICES or not shape.endpoints > 0 or not 0 < shape.ports <= 100:
        raise ValueError(f"{label!r}: 1 to {MOST_SERVICES} Services, at least 1 endpoint, 1 to 100 ports")
    if FIRST_POD[0] + shape.services * shape.endpoints > FRESH_POD:
        raise ValueError(f"{label!r}: at most {FRESH_POD - FIRST_POD[0]} endpoints have addresses")
    return shape


def name(number: int) -> str:
    """Returns the value for the n-th Service."""
    return f"svc-{number:05d}"


def cluster_ip(number: int, v6: bool = False) -> str:
    """Returns the value for the n-th Service."""
    return str(ipaddress.ip_address(FIRST_SERVICE[v6] + number))


def service_number(address: str) -> int:
    """Returns the Service number of an IPv4 cluster IP: the inverse of `cluster_ip`."""
    return int(ipaddress.IPv4Address(address)) - FIRST_SERVICE[0]


def pod_ip(number: int, v6: bool = False) -> str:
    """Returns the n-th Pod's address. No host has it."""
    return str(ipaddress.ip_address(FIRST_POD[v6] + number))


def endpoints_of(shape: Shape, number: int, v6: bool = False) -> list[str]:
    """Returns the endpoint addresses of the n-th Service."""
    return [pod_ip(number * shape.endpoints + i, v6) for i in range(shape.endpoints)]


def protocol(number: int) -> str:
    """Returns the protocol of the n-th Service's ports."""
    return "UDP" if number % UDP_EVERY == UDP_AT else "TCP"


def port_numbers(shape: Shape) -> list[tuple[int, int]]:
    """Returns (port, target port) of every Service."""
    return [(80 + i, 8080 + i) for i in range(shape.ports)]


def service(shape: Shape, number: int) -> dict[str, Any]:
    """Returns a Service as sent to the API server; complete enough for the engine."""
    ports: list[dict[str, Any]] = [
        {"name": f"p{i}", "protocol": protocol(number), "port": port, "targetPort": target}
        for i, (port, target) in enumerate(port_numbers(shape))
    ]
    ips = [cluster_ip(number), *([cluster_ip(number, v6=True)] if shape.dual else [])]
    spec: dict[str, Any] = {
        "type": "ClusterIP",
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": ["IPv4", "IPv6"][: len(ips)],
        "ipFamilyPolicy": "RequireDualStack" if shape.dual else "SingleStack",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": ports,
    }
    first = number // NODE_PORT_EVERY * shape.ports
    if number % NODE_PORT_EVERY == 0 and first + shape.ports <= MOST_NODE_PORTS:
        spec |= {"type": "NodePort", "externalTrafficPolicy": "Cluster"}
        for i, port in enumerate(ports):
            port["nodePort"] = FIRST_NODE_PORT + first + i
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(number), "namespace": shape.namespace, "labels": {"app": name(number)}},
        "spec": spec,
    }


def slice_name(number: int, part: int = 0, v6: bool = False) -> str:
    """Returns the name of a slice of the n-th Service."""
    return f"{name(number)}-{'v6-' if v6 else ''}{part}"


def endpoint_slice(shape: Shape, number: int, part: int, addresses: list[str], v6: bool = False) -> dict[str, Any]:
    """Returns an EndpointSlice without a managing controller, so that none changes it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(number, part, v6),
            "namespace": shape.namespace,
            "labels": {
                "kubernetes.io/service-name": name(number),
                "endpointslice.kubernetes.io/managed-by": "bench.ferrule",
            },
        },
        "addressType": "IPv6" if v6 else "IPv4",
        "ports": [
            {"name": f"p{i}", "port": target, "protocol": protocol(number)}
            for i, (_, target) in enumerate(port_numbers(shape))
        ],
        "endpoints": endpoint_list(addresses),
    }


def endpoint_list(addresses: list[str]) -> list[dict[str, Any]]:
    """Returns endpoints that are all ready."""
    conditions = {"ready": True, "serving": True, "terminating": False}
    return [{"addresses": [ip], "conditions": conditions} for ip in addresses]


def slices(shape: Shape, number: int) -> Iterator[dict[str, Any]]:
    """Yields all slices of the n-th Service."""
    for v6 in (False, True)[: 1 + shape.dual]:
        addresses = endpoints_of(shape, number, v6)
        for part in range(0, shape.endpoints, SLICE_LIMIT):
            yield endpoint_slice(shape, number, part // SLICE_LIMIT, addresses[part : part + SLICE_LIMIT], v6)


def slices_path(shape: Shape) -> str:
    """Returns the path of the collection of slices."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{shape.namespace}/endpointslices"


def members(shape: Shape, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yields Services, each before its slices, from the `first` on."""
    for number in range(first, shape.services):
        yield service(shape, number)
        yield from slices(shape, number)


def patch(shape: Shape, number: int, addresses: list[str], part: int = 0) -> Request:
    """Returns a request that replaces the endpoints of one IPv4 slice."""
    path = f"{slices_path(shape)}/{slice_name(number, part)}"
    return ["PATCH", path, {"endpoints": endpoint_list(addresses)}, MERGE]


def moved(shape: Shape, one: dict[str, Any], number: int, generation: int) -> bytes:
    """Returns a watch frame: `one`, the first slice of the n-th Service, with the addresses of `replaced`."""
    one = one | {"endpoints": endpoint_list(replaced(shape, number, generation))}
    return json.dumps({"type": "MODIFIED", "object": one}).encode() + b"\n"


def replaced(shape: Shape, number: int, generation: int) -> list[str]:
    """Returns the addresses of the n-th Service's first slice with one Pod replaced; generation 0 is the original."""
    addresses = endpoints_of(shape, number)[:SLICE_LIMIT]
    if generation:
        spot = generation % len(addresses)
        # Deterministic, and distinct over services and generations.
        fresh = FRESH_POD + (generation * MOST_SERVICES + number) % ((1 << 21) - 1)
        addresses[spot] = str(ipaddress.IPv4Address(fresh))
    return addresses


def rolling_update(
    shape: Shape, percent_a_minute: float, seconds: float, seed: int = 1
) -> tuple[float, list[Request], list[Request]]:
    """Returns writes per second; the writes of a rolling update for `seconds`, each replacing one Pod of a random
    Service; and the writes that restore every changed slice."""
    rate = shape.services * shape.endpoints * percent_a_minute / 100 / 60
    chance = random.Random(seed)  # noqa: S311 - the same rows each time
    generation: dict[int, int] = {}
    writes: list[Request] = []
    for _ in range(max(1, round(rate * seconds))):
        number = chance.randrange(shape.services)
        generation[number] = generation.get(number, 0) + 1
        writes.append(patch(shape, number, replaced(shape, number, generation[number])))
    return rate, writes, [patch(shape, number, replaced(shape, number, 0)) for number in sorted(generation)]


def objects(shape: Shape) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns all Services and slices with the server's additions that a proxy reads, for rows without a server."""
    services = [service(shape, number) for number in range(shape.services)]
    every = [one for number in range(shape.services) for one in slices(shape, number)]
    for number, thing in enumerate((*services, *every)):
        thing["metadata"] |= {
            "uid": f"00000000-0000-4000-8000-{number:012x}",
            "resourceVersion": str(number + 1),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
    return services, every
