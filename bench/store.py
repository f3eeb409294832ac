"""Writes Services and slices directly into etcd, as the API server would store them; runs in the control plane's
namespace. Through the API, 30,000 of both take most of an hour on two cores, each longer than the previous one.

The server's additions (defaults, managed fields) come from a dry run of one object of each kind, and are applied to
similar objects. Its allocations are stored, too: each cluster IP, and node ports as a bitmap.

python -m bench.store < FILE    first line: [server, CA, certificate, key, etcd]; then one object a line. Prints the
                                seconds until the server lists all of them.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp

from bench.load import JSON, call, each, session

Object = dict[str, Any]

TOGETHER = 2000
"""Number of objects per batch. Their addresses are written first: the server releases one without a Service for a
minute, and immediately repairs and reports a Service without an address."""

PATIENCE = 300.0
"""Seconds for the server to list the objects in etcd."""

COLLECTIONS = {
    "Service": "/api/v1/namespaces/{namespace}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
}
KEYS = {
    "Service": "/registry/services/specs/{namespace}/{name}",
    "EndpointSlice": "/registry/endpointslices/{namespace}/{name}",
    "IPAddress": "/registry/ipaddresses/{name}",
    "RangeAllocation": "/registry/ranges/servicenodeports",
}
NODE_PORTS = (30000, 32767)
"""The server's default range."""


class Additions:
    """The server's additions to objects, requested once per kind."""

    def __init__(self, http: aiohttp.ClientSession, server: str) -> None:
        self._http, self._server = http, server
        self._known: dict[str, Object] = {}

    async def complete(self, one: Object) -> Object:
        """Returns the object as the server would store it."""
        kind = likeness(one)
        if kind not in self._known:
            url = f"{self._server}{_filled(COLLECTIONS, one)}?dryRun=All"
            self._known[kind] = missing(one, json.loads(await call(self._http, "POST", url, one, JSON)))
        done = merged(one, self._known[kind])
        done["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        return done


def likeness(one: Object) -> str:
    """Returns a key that is equal for objects with the same additions."""
    ports = one.get("spec", one)["ports"]
    families = one.get("addressType") or one["spec"]["ipFamilies"]
    those = [(port["protocol"], port["port"], "nodePort" in port) for port in ports]
    return json.dumps([one["kind"], families, those])


def missing(sent: Object, stored: Object) -> Object:
    """Returns the fields of `stored` that `sent` does not have, recursively; lists are the sender's."""
    out: Object = {}
    for key, value in stored.items():
        if key not in sent:
            out[key] = value
        elif isinstance(value, dict) and (more := missing(sent[key], value)):
            out[key] = more
    return out


def merged(one: Object, more: Object) -> Object:
    """Returns a copy of `one` with the fields of `more`."""
    out = dict(one)
    for key, value in more.items():
        out[key] = merged(one[key], value) if key in one else value
    return out


def addresses(service: Object) -> Iterator[Object]:
    """Yields the allocator's objects for this Service, without which the server repairs and reports it."""
    meta = service["metadata"]
    for ip in service["spec"]["clusterIPs"]:
        family = f"IPv{ipaddress.ip_address(ip).version}"
        labels = {
            "ipaddress.kubernetes.io/ip-family": family,
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }
        yield {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": ip,
                "labels": labels,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": meta["creationTimestamp"],
            },
            "spec": {
                "parentRef": {
                    "group": "",
                    "resource": "services",
                    "namespace": meta["namespace"],
                    "name": meta["name"],
                }
            },
        }


def node_ports(services: Iterable[Object]) -> Object:
    """Returns the server's allocation of the Services' node ports: bit n of a big-endian number is the range's n-th
    port."""
    first, last = NODE_PORTS
    bits = 0
    for service in services:
        for port in service["spec"].get("ports", ()):
            bits |= 1 << port["nodePort"] - first if "nodePort" in port else 0
    data = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
    return {
        "apiVersion": "v1",
        "kind": "RangeAllocation",
        "metadata": {"name": "servicenodeports"},
        "range": f"{first}-{last}",
        "data": base64.b64encode(data).decode(),
    }


def put(one: Object) -> Object:
    """Returns a put for etcd's JSON gateway. One object per call, each with its own revision: a watch that breaks
    between two objects of one revision loses the second."""
    return {"key": _base64(_filled(KEYS, one)), "value": _base64(json.dumps(one))}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _filled(templates: dict[str, str], one: Object) -> str:
    meta = one["metadata"]
    return templates[one["kind"]].format(namespace=meta.get("namespace"), name=meta["name"])


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def store(access: tuple[str, str, str, str], etcd: str, objects: list[Object]) -> None:
    """Stores all objects; returns once the server lists them."""
    server = access[0]
    async with session(*access[1:]) as http:
        additions = Additions(http, server)
        before = {path: await count(http, server, path) for path in {_filled(COLLECTIONS, one) for one in objects}}
        for at in range(0, len(objects), TOGETHER):
            complete = [await additions.complete(one) for one in objects[at : at + TOGETHER]]
            taken = [address for one in complete if one["kind"] == "Service" for address in addresses(one)]
            for stored in (taken, complete):
                await each(stored, lambda one: call(http, "POST", f"{etcd}/v3/kv/put", put(one), JSON))
        for path, more in Counter(_filled(COLLECTIONS, one) for one in objects).items():
            await _until(http, server, path, before[path] + more)
        everyone = json.loads(await call(http, "GET", f"{server}/api/v1/services", None, JSON))["items"]
        await call(http, "POST", f"{etcd}/v3/kv/put", put(node_ports(everyone)), JSON)


async def count(http: aiohttp.ClientSession, server: str, path: str) -> int:
    """Returns the number of objects of a collection, as counted by the server."""
    listed = json.loads(await call(http, "GET", f"{server}{path}?limit=1", None, JSON))
    return len(listed["items"]) + int(listed["metadata"].get("remainingItemCount", 0))


async def _until(http: aiohttp.ClientSession, server: str, path: str, wanted: int) -> None:
    end = time.monotonic() + PATIENCE
    while (found := await count(http, server, path)) != wanted:
        if time.monotonic() > end:
            raise RuntimeError(f"{path}: the API server lists {found} objects, {wanted} are stored")
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    url, ca_file, cert_file, key_file, etcd_url = json.loads(sys.stdin.readline())
    begun = time.monotonic()
    asyncio.run(store((url, ca_file, cert_file, key_file), etcd_url, [json.loads(line) for line in sys.stdin]))
    print(time.monotonic() - begun)
