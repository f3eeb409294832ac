"""Makes the output of iptables-save comparable, including the case that kube-proxy leaves open.

Two Services may claim one address and port (`docs/design/rules.md`): kube-proxy writes the rules of both, in an order
that changes from sync to sync. ferrule writes the owner's. `without_losers` removes the others' rules from kube-proxy's
text (in dispatch chains only: losers keep their own chains); ferrule's text is compared completely.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.conformance.normal_form import TAIL, UNORDERED
from tests.e2e.harness.api import Object

CLUSTER, BALANCER, EXTERNAL = range(3)
"""Priorities of claims to an address; the lowest wins."""
PROXY_NAME = "service.kubernetes.io/service-proxy-name"

Frontend = tuple[str, str, int]
"""Address as printed by the tools (with its prefix length), protocol in lower case, port."""


@dataclass(slots=True)
class RuleSet:
    """Rules by table and chain, in the kernel's order; declared chains with their policies."""

    policies: dict[tuple[str, str], str] = field(default_factory=dict)
    rules: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Returns the rules, sorted where order does not matter: tables, chains, and rules in dispatch chains, the
        node port jump last."""
        out = []
        for table, chain in sorted(self.policies):
            out.append(f"{table} :{chain} {self.policies[table, chain]}")
            said = self.rules.get((table, chain), [])
            if chain in UNORDERED:
                body = [rule for rule in said if TAIL not in rule]
                last = said[len(body) :]
                said = sorted(body) + [rule if TAIL in rule else f"{rule}  # not last" for rule in last]
            out += [f"{table} {rule}" for rule in said]
        return out


def parse(saved: str) -> RuleSet:
    """Parses the text without counters and the tools' comments."""
    found, table = RuleSet(), ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            found.policies[table, name] = policy
        elif line.startswith("-A "):
            found.rules.setdefault((table, line.split(" ", 2)[1]), []).append(line)
    return found


def owners(services: Iterable[Object]) -> dict[Frontend, str]:
    """Returns the owner of each address and port: the service port, as named in rules. Among claims of one kind, the
    Service created first is the owner, then the first name."""
    claims: dict[Frontend, tuple[int, str, str, str, str]] = {}
    for service in services:
        meta = service["metadata"]
        for title, address in _addresses(service):
            ip = ipaddress.ip_address(address)
            for port in service["spec"]["ports"]:
                frontend = (f"{ip}/{ip.max_prefixlen}", port["protocol"].lower(), port["port"])
                claim = (title, meta["creationTimestamp"], meta["namespace"], meta["name"], port.get("name", ""))
                claims[frontend] = min(claims.get(frontend, claim), claim)
    return {
        frontend: f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"
        for frontend, (_, _, namespace, name, port) in claims.items()
    }


def _addresses(service: Object) -> Iterator[tuple[int, str]]:
    spec = service["spec"]
    ignored = PROXY_NAME in service["metadata"].get("labels", {})
    if ignored or spec["type"] == "ExternalName" or spec.get("clusterIP", "None") == "None":
        return
    yield from ((CLUSTER, ip) for ip in spec["clusterIPs"])
    families = spec["ipFamilies"]
    for ip in spec.get("externalIPs", ()):
        if ("IPv6" if ":" in ip else "IPv4") in families:
            yield EXTERNAL, ip
    for ingress in service["status"].get("loadBalancer", {}).get("ingress", ()):
        ip = ingress.get("ip", "")
        if ip and ingress.get("ipMode") == "VIP" and ("IPv6" if ":" in ip else "IPv4") in families:
            yield BALANCER, ip


DISPATCH = re.compile(r'-d (\S+) -p (\S+) -m comment --comment "([^" ]+) ?[^"]*".* --dport (\d+) ')


def without_losers(stock: RuleSet, owner: dict[Frontend, str]) -> int:
    """Removes the losers' rules. Returns their number."""
    taken = 0
    for (_, chain), rules in stock.rules.items():
        if chain in UNORDERED:
            kept = [rule for rule in rules if not _lost(rule, owner)]
            taken += len(rules) - len(kept)
            rules[:] = kept
    return taken


def _lost(rule: str, owner: dict[Frontend, str]) -> bool:
    found = DISPATCH.search(rule)
    if found is None:
        return False
    address, protocol, port_name, port = found.groups()
    return owner.get((address, protocol, int(port)), port_name) != port_name
