"""Builds objects as users write them. `spec` overrides and adds; the API server adds defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ferrule.testing.lab import PORTS

Object = dict[str, Any]
ZONE = "topology.kubernetes.io/zone"


def service(
    name: str,
    namespace: str,
    *,
    selector: Mapping[str, str] | None = None,
    port: int = 80,
    target: int = PORTS[0],
    protocol: str = "TCP",
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """Returns a Service with one port for Pods labelled `app: NAME`; `selector={}` for none. Single-stack unless
    spec says otherwise."""
    chosen = {"app": name} if selector is None else dict(selector)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": dict(annotations or {}),
            "labels": dict(labels or {}),
        },
        "spec": {
            "ports": [{"name": "main", "protocol": protocol, "port": port, "targetPort": target}],
            **({"selector": chosen} if chosen else {}),
            **spec,
        },
    }


def port(name: str, number: int = 80, target: int | str = PORTS[0], protocol: str = "TCP", **more: Any) -> Object:
    """Returns one of a Service's `ports=[…]`, for Services with several."""
    return {"name": name, "protocol": protocol, "port": number, "targetPort": target, **more}


def pod(
    name: str, namespace: str, node: str, *, labels: Mapping[str, str], ports: Sequence[int], host_network: bool = False
) -> Object:
    """Returns a Pod that is bound to its node. Its container does not run: the server is the harness's."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "containers": [
                {
                    "name": "server",
                    "image": "registry.invalid/server",
                    "ports": [{"containerPort": p, "protocol": q} for p in ports for q in ("TCP", "UDP")],
                }
            ],
            "terminationGracePeriodSeconds": 600,
        },
    }


def pod_status(ips: Sequence[str], host_ips: Sequence[str], *, ready: bool) -> Object:
    """Returns the status that kubelet would report."""
    said = "True" if ready else "False"
    return {
        "status": {
            "phase": "Running",
            "hostIP": host_ips[0],
            "hostIPs": [{"ip": ip} for ip in host_ips],
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": kind, "status": said} for kind in ("Ready", "ContainersReady")],
        }
    }


def endpoint_slice(
    name: str,
    namespace: str,
    service: str,
    endpoints: Sequence[Object],
    *,
    ports: Sequence[Object] = ({"name": "main", "port": PORTS[0], "protocol": "TCP"},),
    family: str = "IPv4",
) -> Object:
    """Returns a slice that the controller does not manage."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "e2e.ferrule.invalid",
            },
        },
        "addressType": family,
        "ports": list(ports),
        "endpoints": list(endpoints),
    }


def node(name: str, pod_cidrs: Sequence[str], zone: str | None) -> Object:
    """Returns a Node; its addresses are in the status (`node_status`)."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | ({ZONE: zone} if zone else {})},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)},
    }


def node_status(ips: Sequence[str], cpus: int = 4) -> Object:
    """Returns the status of a ready node with CPUs, from which topology hints are computed."""
    return {
        "status": {
            "addresses": [{"type": "InternalIP", "address": ip} for ip in ips],
            "allocatable": {"cpu": str(cpus), "memory": "8Gi", "pods": "110"},
            "capacity": {"cpu": str(cpus), "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
    }
