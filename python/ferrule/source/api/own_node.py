"""This node's Node object: the only object that Python decodes, because the process itself depends on it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ferrule.errors import InputError

ZONE_LABEL = "topology.kubernetes.io/zone"
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
"""The taint that the cluster autoscaler sets on a Node before it removes it: load balancers must stop sending to it."""


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The fields of the Node that the process depends on."""

    name: str
    addresses: tuple[str, ...]
    """The node IPs, at most one per family, primary family first: InternalIPs before ExternalIPs, the first of each,
    as in kube-proxy."""
    pod_cidrs: tuple[str, ...]
    zone: str
    deleting: bool
    """Whether it has a deletionTimestamp."""
    leaving: bool
    """Whether it has the cluster autoscaler's taint."""

    @property
    def eligible(self) -> bool:
        """Returns whether load balancers should use this node: /healthz is 503 otherwise."""
        return not self.deleting and not self.leaving


def from_object(node: dict[str, Any]) -> OwnNode:
    """Reads a decoded v1.Node. A field of the wrong type counts as absent, because a node proxy must not stop for
    that."""
    metadata, spec, status = (_mapping(node.get(part)) for part in ("metadata", "spec", "status"))
    zone = _mapping(metadata.get("labels")).get(ZONE_LABEL)
    taints = [_mapping(taint).get("key") for taint in _list(spec.get("taints"))]
    cidrs = [c for c in _list(spec.get("podCIDRs")) if isinstance(c, str)]
    if not cidrs and isinstance(spec.get("podCIDR"), str) and spec["podCIDR"]:
        cidrs = [spec["podCIDR"]]
    return OwnNode(
        name=str(metadata.get("name") or ""),
        addresses=_node_ips(_list(status.get("addresses"))),
        pod_cidrs=tuple(cidrs),
        zone=zone if isinstance(zone, str) else "",
        deleting=bool(metadata.get("deletionTimestamp")),
        leaving=LEAVING_TAINT in taints,
    )


def from_list(body: bytes) -> OwnNode | None:
    """Returns the only item of a NodeList; None if there is no such Node. Raises `InputError` if it is not a list."""
    try:
        items = orjson.loads(body)["items"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"the response is not a NodeList: {error}") from error
    return from_object(items[0]) if isinstance(items, list) and items and isinstance(items[0], dict) else None


def from_items(array: bytes, name: str) -> OwnNode | None:
    """Returns the Node called `name` in a JSON array of objects; None if it is missing."""
    for item in _list(orjson.loads(array)):
        if _mapping(_mapping(item).get("metadata")).get("name") == name:
            return from_object(item)
    return None


def from_frames(frames: bytes, current: OwnNode | None) -> OwnNode | None:
    """Returns the Node after these watch frames; frames that name no Node change nothing."""
    for event in _events(frames):
        changed = _mapping(event.get("object"))
        if event.get("type") == "DELETED":
            current = None
        elif event.get("type") in ("ADDED", "MODIFIED"):
            current = from_object(changed)
    return current


def differences(old: OwnNode, new: OwnNode | None, *, pod_cidrs: bool) -> list[str]:
    """Returns why the process must end, one sentence each; empty if it may continue.

    `pod_cidrs`: whether podCIDRs matter (detectLocalMode NodeCIDR). Zone, taints and a pending deletion do not end the
    process.
    """
    if new is None:
        return [f"Node {old.name} was deleted"]
    reasons = []
    if old.addresses != new.addresses:
        reasons.append(f"Node {old.name}: its IPs changed from {_text(old.addresses)} to {_text(new.addresses)}")
    if pod_cidrs and old.pod_cidrs != new.pod_cidrs:
        reasons.append(f"Node {old.name}: its podCIDRs changed from {_text(old.pod_cidrs)} to {_text(new.pod_cidrs)}")
    return reasons


def _node_ips(entries: list[Any]) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for wanted in ("InternalIP", "ExternalIP"):
        for entry in entries:
            address = _address(_mapping(entry).get("address")) if _mapping(entry).get("type") == wanted else None
            if address is not None:
                found.setdefault(address.version, str(address))
    return tuple(found.values())


def _address(text: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _events(frames: bytes) -> Iterator[dict[str, Any]]:
    for line in frames.splitlines():
        try:
            event = orjson.loads(line) if line.strip() else None
        except orjson.JSONDecodeError:
            continue  # the engine receives the same bytes and reports it
        if isinstance(event, dict):
            yield event


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(values: tuple[str, ...]) -> str:
    return ", ".join(values) or "none"
