"""Applies histories of cluster states to a real API server, and determines when a proxy has processed the last one.

A state is a list of Nodes, Services and EndpointSlices. Differences from the previous state are created, replaced or
deleted. Nothing waits for time to pass: each step ends with a mark (`Mark`), which passes through the same watches
after all other changes of the step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ferrule.testing.lab import NO_DAD, NODE_IPS, NODE_NAME
from ferrule.testing.netns import NetNs
from tests.e2e.harness import objects
from tests.e2e.harness.api import Api, ApiError, Object
from tests.e2e.harness.cluster import Cluster
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.process import Process
from tests.e2e.harness.relay import Relay

Key = tuple[str, str, str]
"""Kind, namespace, name."""

KIND_ORDER = {"Service": 0, "EndpointSlice": 1, "Node": 2}
OWN_SERVICE = ("Service", "default", "kubernetes")
"""Objects that the API server creates and maintains."""


class HistoryCluster(Cluster):
    """A control plane with an API server only: the history is its only writer and assigns every port."""

    def _run(self, component: str, *arguments: str) -> Process:
        if component == "kube-apiserver":
            arguments = (
                *arguments,
                # Otherwise the Service `kubernetes` has the endpoint of this server.
                "--endpoint-reconciler-type=none",
                "--service-node-port-range=30000-41000",
            )
        return super()._run(component, *arguments)

    def _start_controllers(self) -> None:
        """Starts no controllers: slices are part of the states, and no Service has a selector."""


def twin(stack: ExitStack, cluster: Cluster) -> tuple[NodeHost, Relay]:
    """Returns a namespace with the recorded node's name and addresses; several may exist, because none is connected
    to a network."""
    netns = stack.enter_context(NetNs("twin"))
    netns.sysctl(**NO_DAD)
    netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "wire")
    for link in ("eth0", "wire"):
        netns.ip("link", "set", link, "up")
    netns.ip("addr", "add", f"{NODE_IPS[0]}/24", "dev", "eth0")
    netns.ip("addr", "add", f"{NODE_IPS[1]}/64", "dev", "eth0", "nodad")
    node = NodeHost(NODE_NAME, netns, NODE_IPS)
    node.number = 1
    return node, stack.enter_context(Relay(cluster, netns))


def key_of(thing: Object) -> Key:
    return thing["kind"], thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


@dataclass(slots=True)
class Stage:
    """The objects of a history's states in the API server, and the rejected ones."""

    api: Api
    stored: dict[Key, Object] = field(default_factory=dict)
    """The object in the state."""
    served: dict[Key, Object] = field(default_factory=dict)
    """The object as stored by the server."""
    refused: dict[Key, str] = field(default_factory=dict)
    """Rejected objects of the current state, with the server's reason."""
    namespaces: set[str] = field(default_factory=lambda: {"default", "kube-system"})
    zone: str | None = None

    def begin(self) -> None:
        """Creates the Node that all states share: their Nodes differ only in labels."""
        cidrs = ("10.128.1.0/24", "fd00:10:128:1::/64")
        self.api.create(objects.node(NODE_NAME, cidrs, None))
        self.api.patch("Node", NODE_NAME, None, objects.node_status(NODE_IPS), status=True)

    def become(self, state: Iterable[Object]) -> None:
        """Applies a state: deletions, then the rest, repeatedly while something succeeds.

        One object may wait for what another releases (a port, an address), so a single rejection is not final.
        """
        wanted = {key_of(thing): thing for thing in state if key_of(thing) != OWN_SERVICE}
        for kind, namespace, name in sorted(self.stored.keys() - wanted.keys()):
            self._delete((kind, namespace, name))
        waiting = sorted(wanted, key=lambda key: (KIND_ORDER[key[0]], key))
        self.refused = {}
        while waiting:
            self.refused = {}
            for key in waiting:
                try:
                    self._store(key, wanted[key])
                except ApiError as error:
                    self.refused[key] = str(error)
            if len(self.refused) == len(waiting):
                return
            waiting = list(self.refused)

    def _delete(self, key: Key) -> None:
        kind, namespace, name = key
        if kind != "Node":
            self.api.delete(kind, name, namespace)
            self.served.pop(key, None)
        self.stored.pop(key)

    def _store(self, key: Key, thing: Object) -> None:
        kind, namespace, _ = key
        before = self.stored.get(key)
        if before is not None and _said(before) == _said(thing):
            return
        if kind == "Node":
            self._label(thing["metadata"].get("labels", {}))
        else:
            if before is not None and before["metadata"].get("uid") != thing["metadata"].get("uid"):
                self._delete(key)
                before = None
            self._ensure_namespace(namespace)
            self._write(key, thing, new=before is None)
        self.stored[key] = thing

    def _write(self, key: Key, thing: Object, *, new: bool) -> None:
        kind, namespace, name = key
        body = _said(thing)
        status = body.pop("status", None)
        if new:
            served = self.api.create(body)
        else:
            body["metadata"]["resourceVersion"] = self.api.get(kind, name, namespace)["metadata"]["resourceVersion"]
            served = self.api.replace(body)
        if kind == "Service" and (status or {"loadBalancer": {}}) != served.get("status"):
            change = {"status": {"loadBalancer": {"ingress": (status or {}).get("loadBalancer", {}).get("ingress")}}}
            served = self.api.patch(kind, name, namespace, change, status=True)
        self.served[key] = served

    def _label(self, labels: Mapping[str, str]) -> None:
        there = self.api.get("Node", NODE_NAME)["metadata"]["labels"]
        self.api.patch(
            "Node",
            NODE_NAME,
            None,
            {"metadata": {"labels": dict.fromkeys(there.keys() - labels.keys()) | dict(labels)}},
        )
        self.zone = labels.get(objects.ZONE)

    def _ensure_namespace(self, name: str) -> None:
        if name not in self.namespaces:
            self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            self.namespaces.add(name)


def _said(thing: Object) -> Object:
    """Returns the object without the fields that the server sets."""
    own = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")
    return thing | {"metadata": {k: v for k, v in thing["metadata"].items() if k not in own}}


# ------------------------------------------------------------ has the proxy seen it?

MARK = "e2e-mark"
MARK_IPS = ("10.96.255.1", "fd00:10:96::ff01")
MARK_ENDPOINTS = {"zone-a": ("10.191.255.1", "fd00:10:128:fffe::1"), "zone-b": ("10.191.255.2", "fd00:10:128:fffe::2")}
MARK_ELSEWHERE = ("10.191.255.3", "fd00:10:128:fffe::3")
"""Hinted for another zone: distinguishes a node without a zone from one in zone-a or zone-b."""
FIRST_NUMBER = 1000
COMMENT = f'"{MARK}/{MARK}:main '


@dataclass(slots=True)
class Mark:
    """A Service and its two slices that carry the step's number; hints make their rules depend on the node's zone as
    well.

    A watch delivers changes of a kind in order. Rules with this step's number in the Service's port and in both slices'
    ports, and with the endpoints of the right zone, are therefore rules of a proxy that has processed everything.
    """

    api: Api
    number: int = FIRST_NUMBER

    def begin(self) -> None:
        """Creates the mark with the first number."""
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MARK}})
        families = ["IPv4", "IPv6"]
        self.api.create(
            objects.service(
                MARK,
                MARK,
                selector={},
                port=self.number,
                clusterIP=MARK_IPS[0],
                clusterIPs=list(MARK_IPS),
                ipFamilies=families,
                ipFamilyPolicy="RequireDualStack",
            )
        )
        zones = {**MARK_ENDPOINTS, "zone-without-nodes": MARK_ELSEWHERE}
        for index, family in enumerate(families):
            endpoints = [
                {"addresses": [ips[index]], "conditions": {"ready": True}, "hints": {"forZones": [{"name": zone}]}}
                for zone, ips in zones.items()
            ]
            port = {"name": "main", "port": self.number, "protocol": "TCP"}
            self.api.create(
                objects.endpoint_slice(f"{MARK}-{family.lower()}", MARK, MARK, endpoints, ports=[port], family=family)
            )

    def advance(self) -> None:
        """Advances the mark, after all changes of a step."""
        self.number += 1
        port = {"name": "main", "port": self.number, "protocol": "TCP"}
        self.api.patch("Service", MARK, MARK, {"spec": {"ports": [port]}})
        for family in ("ipv4", "ipv6"):
            self.api.patch("EndpointSlice", f"{MARK}-{family}", MARK, {"ports": [port]})

    def missing(self, saved: str, index: int, zone: str | None) -> str:
        """Returns what is missing in iptables-save's text for family `index` (0: IPv4) with the node in `zone`;
        empty if complete."""
        if f'"{MARK}/{MARK}:main cluster IP" -m tcp --dport {self.number} -j KUBE-SVC' not in saved:
            return f"port {self.number} of Service {MARK}"
        every = {ips[index] for ips in (*MARK_ENDPOINTS.values(), MARK_ELSEWHERE)}
        form = "[{}]:{}" if index else "{}:{}"
        prefix = re.escape(("10.191.255.", "[fd00:10:128:fffe::")[index])
        found = set(re.findall(rf"--to-destination ({prefix}\S+)", saved))
        chosen = {MARK_ENDPOINTS[zone][index]} if zone in MARK_ENDPOINTS else every
        wanted = {form.format(ip, self.number) for ip in chosen}
        return "" if found == wanted else f"{sorted(wanted)} for a node in {zone}: it has {sorted(found)}"


def without_mark(saved: str) -> str:
    """Returns the output of iptables-save without the mark."""
    lines = saved.splitlines(keepends=True)
    chains = {target for target in _jumps(lines, lambda line: COMMENT in line) if target.startswith("KUBE-SVC-")}
    chains |= set(_jumps(lines, lambda line: _chain(line) in chains)) - {"KUBE-MARK-MASQ"}
    return "".join(line for line in lines if COMMENT not in line and _chain(line) not in chains)


def _chain(line: str) -> str:
    """Returns the chain that a line declares or appends to."""
    words = line.split(" ", 2)
    return words[1] if words[0] == "-A" else words[0].removeprefix(":")


def _jumps(lines: Iterable[str], chosen: Callable[[str], bool]) -> Iterator[str]:
    for line in lines:
        found = re.search(r" -j (\S+)", line)
        if found and chosen(line):
            yield found[1]


def write_kubeconfig(cluster: Cluster, relay: Relay, folder: Path) -> Path:
    """Writes a kubeconfig like kubeadm's, through the relay."""
    folder.mkdir(parents=True, exist_ok=True)
    return cluster.kubeconfig(folder / "kubeconfig", server=relay.url)
