"""Generates random cluster states, one or a few changes at a time: valid for the API, and otherwise unusual.

Every choice comes from one seeded generator, so a seed determines the whole history.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

from ferrule.testing.lab import NODE_NAME
from tests.e2e.harness.api import Object
from tests.e2e.harness.objects import ZONE
from tests.e2e.random_objects import BALANCER, CONDITIONS, EXTERNAL, RANGES, RandomService, random_endpoint

NAMES = tuple(
    (namespace, name) for namespace in ("h0", "h1") for name in ("web", "dns", "db", "cache", "7up", "a", "z")
)
Name = tuple[str, str]
PORT_NUMBERS = (53, 80, 81, 443, 8443)
PROTOCOLS = ("SCTP", "TCP", "UDP")
CONTESTED = ("TCP", 80)
LEAST_SERVICES, MOST_SERVICES = 3, 12


class RandomHistory:
    """A random history: `next` returns one state after the other, `did` describes the last change."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - no secret
        self.did: list[str] = []
        self._services: dict[Name, RandomService] = {}
        self._slices: dict[Name, Object] = {}
        self._labels = {"kubernetes.io/hostname": NODE_NAME, ZONE: "zone-a"}
        self._made = 0
        self._freed: list[RandomService] = []

    def next(self) -> list[Object]:
        """Returns the next complete state, which shares no object with other states."""
        self.did = [self._change()() for _ in range(self.rng.choice((1, 1, 1, 2, 3, 6)))]
        node = {"kind": "Node", "metadata": {"name": NODE_NAME, "labels": self._labels}}
        services = [service.thing() for service in self._services.values()]
        return copy.deepcopy([node, *services, *self._slices.values()])

    def _change(self) -> Callable[[], str]:
        if len(self._services) < LEAST_SERVICES:
            return self._create
        weights: dict[Callable[[], str], int] = {
            self._create: 8 if len(self._services) < MOST_SERVICES else 0,
            self._delete: 3,
            self._recreate: 3,
            self._alter: 20,
            self._contend: 3,
            self._alter_slice: 22,
            self._new_slice: 7,
            self._delete_slice: 5,
            self._relabel_node: 1,
        }
        return self.rng.choices(list(weights), list(weights.values()))[0]

    # ------------------------------------------------------------ Services

    def _create(self, key: Name | None = None) -> str:
        namespace, name = key or self.rng.choice([key for key in NAMES if key not in self._services])
        self._made += 1
        # Addresses are reused, also by another Service, as soon as they are free.
        if self._freed and self.rng.random() < 0.4:
            v4, v6 = self._freed.pop().ips
        else:
            v4, v6 = f"10.96.{self._made // 200 % 200}.{self._made % 200 + 20}", f"fd00:10:96::{self._made % 60000:x}"
        families = self.rng.choice((["IPv4"], ["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]))
        service = RandomService(
            namespace,
            name,
            f"uid-{self._made}",
            list(families),
            [v4 if family == "IPv4" else v6 for family in families],
            self._ports(),
            health_port=36000 + self._made % 4000,
        )
        service.headless = self.rng.random() < 0.08
        self._services[service.key] = service
        if not service.headless:
            self._retype(service)
            for _ in range(self.rng.randrange(4)):
                self._alter_one(service)
        for _ in range(self.rng.randrange(3)):
            self._new_slice(service)
        return f"create {namespace}/{name}"

    def _ports(self) -> list[Object]:
        count = self.rng.choice((1, 1, 2, 3))
        pairs = self.rng.sample([(p, n) for p in PROTOCOLS for n in PORT_NUMBERS], count)
        # Services that claim each other's addresses conflict only on the same port.
        if CONTESTED not in pairs and self.rng.random() < 0.6:
            pairs[0] = CONTESTED
        used = {port["nodePort"] for service in self._services.values() for port in service.ports}
        numbers = self.rng.sample([n for n in range(30000, 30400) if n not in used], count)
        names = [""] if count == 1 and self.rng.random() < 0.3 else ["http", "p-1", "metrics"]
        return [
            {"protocol": protocol, "port": port, "targetPort": 8000 + index, "nodePort": numbers[index]}
            | ({"name": names[index]} if names[index] else {})
            for index, (protocol, port) in enumerate(pairs)
        ]

    def _delete(self) -> str:
        service = self._services.pop(self._any())
        if len(service.ips) == 2 and service.families[0] == "IPv4":
            self._freed.append(service)
        if self.rng.random() < 0.7:
            for key in self._slices_of(service):
                del self._slices[key]
        return f"delete {service.namespace}/{service.name}"

    def _recreate(self) -> str:
        key = self._any()
        del self._services[key]
        if self.rng.random() < 0.7:
            for name in [k for k, s in self._slices.items() if _owner(s) == key]:
                del self._slices[name]
        return f"re-{self._create(key)}"

    def _alter(self) -> str:
        service = self._services[self._any()]
        return f"{self._alter_one(service)} of {service.namespace}/{service.name}"

    def _contend(self) -> str:
        """Makes one Service claim another's address on the same port, whatever kind of address it is to the other."""
        having = [service for service in self._services.values() if not service.headless]
        contests = [
            (taker, giver, address)
            for taker in having
            for giver in having
            for address in (*giver.ips, *giver.external_ips, *(at["ip"] for at in giver.ingress if "ip" in at))
            if taker is not giver
            and "ExternalName" not in (taker.type, giver.type)
            and ("IPv6" if ":" in address else "IPv4") in taker.families
        ]
        if not contests:
            return "no contest"
        taker, giver, address = self.rng.choice(contests)
        taker.external_ips = sorted({*taker.external_ips, address})
        frontend = {k: giver.ports[0][k] for k in ("protocol", "port")}
        if all(port | frontend != port for port in taker.ports):
            taker.ports = [taker.ports[0] | frontend, *taker.ports[1:]]
        return f"{taker.key} wants {address} of {giver.key}"

    def _alter_one(self, service: RandomService) -> str:
        if service.headless:
            service.ports = self._ports()
            return "headless ports"
        often = (self._retype, self._policies, self._ingress)
        seldom = (self._reexpose, self._affinity, self._restrict, self._renumber, self._label)
        return self.rng.choice(2 * often + seldom)(service)

    def _retype(self, service: RandomService) -> str:
        kinds = ("ClusterIP",) * 3 + ("NodePort",) * 3 + ("LoadBalancer",) * 5 + ("ExternalName",)
        service.type = self.rng.choice(kinds)
        service.node_ports = self.rng.random() < 0.8
        if service.type == "LoadBalancer" and not service.ingress:
            self._ingress(service)
        return f"type {service.type}"

    def _reexpose(self, service: RandomService) -> str:
        taken = [ip for other in self._services.values() for ip in other.ips]
        pool = [*EXTERNAL, *EXTERNAL, self.rng.choice(taken)]
        service.external_ips = sorted(set(self.rng.sample(pool, self.rng.randrange(4))))
        return f"externalIPs {service.external_ips}"

    def _policies(self, service: RandomService) -> str:
        service.external = self.rng.choice(("Cluster", "Local"))
        service.internal = self.rng.choice(("Cluster", "Cluster", "Local"))
        return f"policies {service.external}/{service.internal}"

    def _affinity(self, service: RandomService) -> str:
        service.affinity = self.rng.choice((0, 0, 1, 30, 10800, 86400))
        return f"affinity {service.affinity}"

    def _restrict(self, service: RandomService) -> str:
        service.ranges = self.rng.sample(RANGES, self.rng.choice((0, 0, 1, 2, 4)))
        service.annotated_ranges = ",".join(self.rng.sample(RANGES, self.rng.choice((0, 0, 1, 2))))
        return f"source ranges {service.ranges}"

    def _ingress(self, service: RandomService) -> str:
        service.ingress = [
            {"ip": ip, "ipMode": self.rng.choice(("VIP", "VIP", "VIP", "Proxy"))}
            for ip in self.rng.sample(BALANCER, self.rng.choice((0, 1, 1, 2, 3)))
        ]
        if self.rng.random() < 0.1:
            service.ingress.append({"hostname": "lb.example"})
        return f"ingress {service.ingress}"

    def _renumber(self, service: RandomService) -> str:
        service.ports = self._ports()
        return "ports"

    def _label(self, service: RandomService) -> str:
        service.labels = self.rng.choice(({}, {}, {"team": "a"}, {"service.kubernetes.io/service-proxy-name": "other"}))
        return f"labels {service.labels}"

    # ------------------------------------------------------------ slices

    def _new_slice(self, service: RandomService | None = None) -> str:
        service = service or self._services[self._any()]
        self._made += 1
        key = (service.namespace, f"{service.name}-s{self._made}")
        family = self.rng.choice(service.families)
        if self.rng.random() < 0.06:
            family = self.rng.choice(("IPv4", "IPv6"))
        labels = {
            "kubernetes.io/service-name": service.name,
            "endpointslice.kubernetes.io/managed-by": "e2e.ferrule.invalid",
        } | ({"service.kubernetes.io/headless": ""} if service.headless else {})
        thing: Object = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": key[1], "namespace": key[0], "labels": labels, "uid": f"uid-{self._made}"},
            "addressType": family,
            "endpoints": [],
            "ports": [],
        }
        self._slices[key] = thing
        if family != "IPv4" and self.rng.random() < 0.03:
            thing |= {"addressType": "FQDN", "endpoints": [{"addresses": ["pod.example"], "conditions": {}}]}
            return f"FQDN slice {key}"
        self._slice_ports(thing, service)
        self._fill(thing, service)
        return f"slice {key} of {len(thing['endpoints'])}"

    def _slice_ports(self, thing: Object, service: RandomService) -> None:
        ports = [
            {"name": port.get("name", ""), "protocol": port["protocol"], "port": port["targetPort"]}
            for port in service.ports
            if self.rng.random() < 0.95
        ]
        if self.rng.random() < 0.05:
            ports.append({"name": "extra", "protocol": "TCP", "port": 9000})
        thing["ports"] = ports

    def _fill(self, thing: Object, service: RandomService) -> None:
        """Adds endpoints, none twice in a Service with different conditions: which of them counts is not specified."""
        twins = [s for k in self._slices_of(service) if (s := self._slices[k]) is not thing]
        used = {address for twin in twins for e in twin["endpoints"] for address in e["addresses"]}
        form = "10.128.{}.{}" if thing["addressType"] == "IPv4" else "fd00:10:128:{}::{:x}"
        pool = [a for net in (1, 2) for n in range(10, 30) if (a := form.format(net, n)) not in used]
        hinted = self.rng.choice((None, None, None, None, "zones", "most", "nodes"))
        thing["endpoints"] = [
            random_endpoint(self.rng, address, hinted)
            for address in self.rng.sample(pool, self.rng.choice((0, 1, 1, 2, 3, 6)))
        ]

    def _alter_slice(self) -> str:
        candidates = [
            key for key, s in self._slices.items() if s["addressType"] != "FQDN" and _owner(s) in self._services
        ]
        if not candidates:
            return self._new_slice()
        key = self.rng.choice(candidates)
        thing = self._slices[key]
        service = self._services[_owner(thing)]
        choice = self.rng.random()
        if choice < 0.3 or not thing["endpoints"]:
            self._fill(thing, service)
            return f"endpoints of {key}"
        if choice < 0.4:
            self._slice_ports(thing, service)
            return f"ports of {key}"
        endpoint = self.rng.choice(thing["endpoints"])
        if choice < 0.5:
            thing["endpoints"].remove(endpoint)
            return f"{endpoint['addresses']} out of {key}"
        endpoint["conditions"] = dict(self.rng.choice(CONDITIONS))
        return f"{endpoint['addresses']} of {key} {endpoint['conditions']}"

    def _delete_slice(self) -> str:
        if not self._slices:
            return self._new_slice()
        key = self.rng.choice(list(self._slices))
        del self._slices[key]
        return f"delete slice {key}"

    def _relabel_node(self) -> str:
        zone = self.rng.choice((None, "zone-a", "zone-b"))
        self._labels = {"kubernetes.io/hostname": NODE_NAME} | ({ZONE: zone} if zone else {})
        return f"node in {zone}"

    def _any(self) -> Name:
        return self.rng.choice(list(self._services))

    def _slices_of(self, service: RandomService) -> list[Name]:
        return [key for key, thing in self._slices.items() if _owner(thing) == service.key]


def _owner(thing: Object) -> Name:
    meta = thing["metadata"]
    return meta["namespace"], meta["labels"]["kubernetes.io/service-name"]
