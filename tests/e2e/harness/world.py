"""The part of the cluster that belongs to one test: its API namespace, its nodes and Pods, in the API and on the
network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferrule.testing.lab import PORTS, Host
from tests.e2e.harness import objects
from tests.e2e.harness.api import Object
from tests.e2e.harness.cluster import Cluster
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.waiting import eventually

_count = 0


@dataclass(slots=True)
class Pod:
    """A Pod: an object in the API and, as `host`, a namespace with a server of the same name."""

    world: World
    host: Host
    node: NodeHost

    @property
    def name(self) -> str:
        """Its name, with which its server responds."""
        return self.host.name

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return self.host.ips[0]

    def set_ready(self, ready: bool = True) -> None:
        """Sets the result of its readiness probe, on which the endpoint slice controller acts."""
        status = objects.pod_status(self.host.ips, self.node.ips, ready=ready)
        self.world.api.patch("Pod", self.name, self.world.namespace, status, status=True)

    def terminate(self) -> None:
        """Deletes it gracefully: it is terminating in the slices, its server still responds. `delete` ends it."""
        self.world.api.delete("Pod", self.name, self.world.namespace, grace=600)

    def stop_serving(self) -> None:
        """Stops the server; the object stays unchanged."""
        if self.host.server is not None:
            self.host.server.kill()
            self.host.server.communicate()
            self.host.server = None

    def delete(self) -> None:
        """Removes it from the API immediately, and from the network."""
        self.world.api.delete("Pod", self.name, self.world.namespace)
        self.world.cluster.fabric.remove(self.host)


@dataclass(slots=True)
class World:
    """A new namespace `t-N`. Use as a context manager, which removes its nodes, Pods and Services."""

    cluster: Cluster
    folder: Path
    namespace: str = ""
    hosts: list[Host] = field(default_factory=list)
    node_names: list[str] = field(default_factory=list)

    def __enter__(self) -> World:
        global _count  # noqa: PLW0603 - a namespace of the API is not used twice
        _count += 1
        self.namespace = f"t-{_count}"
        self.cluster.ensure_up()
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.ensure_up()
        for kind in ("Pod", "EndpointSlice", "Endpoints"):
            self.api.delete_all(kind, self.namespace)
        for service in self.api.list("Service", self.namespace):
            self.api.delete("Service", service["metadata"]["name"], self.namespace)
        self.api.delete("Namespace", self.namespace)
        for name in self.node_names:
            self.api.delete("Node", name)
        for host in self.hosts:
            self.cluster.fabric.remove(host)

    @property
    def api(self) -> Any:
        """The administrator's client."""
        return self.cluster.api

    def node(self, name: str = "node-1", *, zone: str | None = None, register: bool = True) -> NodeHost:
        """Creates a node on the fabric and, unless `register` is false, in the API: `node-1`, `node-2`, …"""
        host = self.cluster.fabric.node(name)
        self.hosts.append(host)
        if register:
            self.register(host, zone=zone)
        return host

    def register(self, host: NodeHost, *, zone: str | None = None) -> None:
        """Creates its Node object, with addresses and Pod CIDRs."""
        self.api.create(objects.node(host.name, host.pod_cidrs, zone))
        self.node_names.append(host.name)
        self.api.patch("Node", host.name, None, objects.node_status(host.ips), status=True)

    def client(self, node: NodeHost, name: str = "client") -> Host:
        """Creates a client: a Pod's namespace without a Pod object or a server."""
        host = self.cluster.fabric.pod(node, name, ())
        self.hosts.append(host)
        return host

    def pod(
        self,
        name: str,
        node: NodeHost,
        *,
        app: str = "web",
        labels: Mapping[str, str] | None = None,
        ports: Sequence[int] = PORTS,
        ready: bool = True,
        host_network: bool = False,
    ) -> Pod:
        """Creates a running Pod `app: APP` that responds on `ports` (TCP and UDP) with its name."""
        fabric = self.cluster.fabric
        host = fabric.host_network_pod(node, name, ports) if host_network else fabric.pod(node, name, ports)
        self.hosts.insert(0, host)
        wanted = {"app": app} | dict(labels or {})
        self.api.create(
            objects.pod(name, self.namespace, node.name, labels=wanted, ports=ports, host_network=host_network)
        )
        pod = Pod(self, host, node)
        pod.set_ready(ready)
        return pod

    def service(self, name: str = "web", **options: Any) -> Object:
        """Creates a Service; see `objects.service` for the options. The result contains the addresses that the API
        assigned."""
        return dict(self.api.create(objects.service(name, self.namespace, **options)))

    def give_ingress(self, service: str, *addresses: str) -> None:
        """Sets the addresses of a load balancer, as a cloud's controller does."""
        status = {"status": {"loadBalancer": {"ingress": [{"ip": a, "ipMode": "VIP"} for a in addresses]}}}
        self.api.patch("Service", service, self.namespace, status, status=True)

    def endpoints(self, service: str = "web") -> set[tuple[str, bool]]:
        """Returns (address, ready) of all slices of a Service, as the controller wrote them."""
        slices = self.api.list("EndpointSlice", self.namespace, labels=f"kubernetes.io/service-name={service}")
        return {
            (address, bool(endpoint["conditions"].get("ready")))
            for one in slices
            for endpoint in one.get("endpoints") or ()
            for address in endpoint["addresses"]
        }

    def wait_for_endpoints(self, *addresses: str, service: str = "web") -> None:
        """Waits until the ready endpoints are exactly these."""
        eventually(
            lambda: {a for a, ready in self.endpoints(service) if ready} == set(addresses),
            lambda: f"endpoints of {service} are {self.endpoints(service)}, not {addresses}",
        )
