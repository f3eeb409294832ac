"""Verifies the rules in a kernel against a shape: all of them by count, samples by their effect.

Reads the output of `iptables-save` or, on nft, lists chain by chain (saving 150,000 chains takes the tool minutes), and
lists with `nft` where kube-proxy runs in nftables mode. It is independent of the proxy: a Service may be reached
through one long chain or a tree, its endpoints through one chain or several.
"""

from __future__ import annotations

import ipaddress
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from bench import shapes
from bench.shapes import Shape
from ferrule.testing.netns import NetNs

SAMPLES = 12
"""Number of samples besides first and last…"""

FEW_SAMPLES = 1
"""…where each needs many queries, or a complete listing by the tool."""

MANY_ENDPOINTS = 50

SAVE_SECONDS = 300.0


class WrongRules(Exception):
    """The measured work did not produce the right rules."""


class Rules(ABC):
    """The nat table of one family."""

    @abstractmethod
    def names(self) -> Collection[str]:
        """Returns the names of all chains."""

    @abstractmethod
    def lines(self, chain: str) -> Sequence[str]:
        """Returns a chain's rules as `-A` lines."""

    def count(self, prefix: str) -> int:
        """Returns the number of chains with a name prefix."""
        return sum(chain.startswith(prefix) for chain in self.names())

    def destinations(self) -> set[str]:
        """Returns all DNAT destinations."""
        every = (line for chain in self.names() if chain.startswith("KUBE-SEP-") for line in self.lines(chain))
        return {to.rsplit(":", 1)[0] for line in every if (to := _destination(line))}

    def behind(self, address: str, root: str = "KUBE-SERVICES") -> set[str]:
        """Returns the DNAT destinations of packets to this address, for any port."""
        found: set[str] = set()
        self._follow(root, ipaddress.ip_address(address), f"-d {address}/32 ", found, set())
        return found

    def _follow(
        self, chain: str, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, exact: str, found: set[str], seen: set[str]
    ) -> None:
        seen.add(chain)
        for line in self.lines(chain):
            if " -d " in line and exact not in line and not _covers(line, ip):
                continue
            if " --dst-type LOCAL " in line:
                continue  # node ports
            target = re.search(r" -[jg] (\S+)", line)
            if to := _destination(line):
                found.add(to)
            elif target and target[1] in self.names() and target[1] not in seen:
                self._follow(target[1], ip, exact, found, seen)

    def order(self, protocol: str, root: str = "KUBE-SERVICES") -> list[str]:
        """Returns the addresses of a flat root's rules of one protocol, in order; empty for a tree."""
        pattern = re.compile(rf"-A {root} -d (\d+\.\d+\.\d+\.\d+)/32 -p {protocol} ")
        return [match[1] for line in self.lines(root) if (match := pattern.match(line))]


class Saved(Rules):
    """Rules of one `iptables-save`."""

    def __init__(self, text: str) -> None:
        start = text.find("*nat\n")
        table = text[start : text.find("\nCOMMIT", start)] if start >= 0 else ""
        self._chains: dict[str, list[str]] = {}
        for line in table.splitlines():
            if line.startswith(":"):
                self._chains.setdefault(line[1:].split(" ", 1)[0], [])
            elif line.startswith("-A "):
                chain = line[3:].split(" ", 1)[0]
                self._chains.setdefault(chain, []).append(line)

    def names(self) -> Collection[str]:
        return self._chains.keys()

    def lines(self, chain: str) -> Sequence[str]:
        return self._chains.get(chain, ())


class Asked(Rules):
    """Rules of an nft kernel, read on demand and cached."""

    def __init__(self, netns: NetNs, family: str) -> None:
        self._netns, self._tool = netns, f"{family}-nft"
        self._table = f"table {'ip6' if family == 'ip6tables' else 'ip'} nat {{"
        self._known: dict[str, list[str]] = {}

    @cached_property
    def _names(self) -> frozenset[str]:
        listed = self._netns.run("nft", "list", "chains", timeout=SAVE_SECONDS).stdout
        return frozenset(re.findall(r"^\tchain (\S+) ", listed.partition(self._table)[2].partition("\n}")[0], re.M))

    def names(self) -> Collection[str]:
        return self._names

    def lines(self, chain: str) -> Sequence[str]:
        if chain not in self._known:
            said = self._netns.run(self._tool, "-t", "nat", "-S", chain, timeout=SAVE_SECONDS).stdout
            self._known[chain] = [line for line in said.splitlines() if line.startswith("-A ")]
        return self._known[chain]


def _destination(line: str) -> str:
    return line.partition(" --to-destination ")[2].split(" ", 1)[0]


def _covers(line: str, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    match = re.search(r" (! )?-d (\S+)", line)
    if match is None or match[1]:
        return True
    if match[2].endswith("/32"):
        return False  # `exact` is not in the line
    return ip in ipaddress.ip_network(match[2])


def look(netns: NetNs, backend: str, family: str = "iptables") -> Rules:
    """Returns the current rules of the kernel."""
    if backend == "nft":
        return Asked(netns, family)
    return Saved(netns.run(f"{family}-{backend}-save", "-t", "nat", timeout=SAVE_SECONDS).stdout)


def sampled(shape: Shape, count: int) -> list[int]:
    """Returns first, last, and some samples in between; deterministic."""
    chance = random.Random(shape.services)  # noqa: S311 - the same rows each time
    between = chance.sample(range(shape.services), min(count, shape.services))
    return sorted({0, shape.services - 1, *between})


def destinations(shape: Shape, number: int) -> set[str]:
    """Returns the DNAT destinations of the n-th Service."""
    targets = [target for _, target in shapes.port_numbers(shape)]
    return {f"{ip}:{target}" for ip in shapes.endpoints_of(shape, number) for target in targets}


def iptables(netns: NetNs, backend: str, shape: Shape) -> dict[str, float]:
    """Verifies the rules. Returns counts; raises `WrongRules`."""
    rules = look(netns, backend)
    found = rules.count("KUBE-SEP-")
    if found < shape.total:
        raise WrongRules(f"{found} endpoint chains, {shape.total} are wanted")
    samples = FEW_SAMPLES if shape.endpoints > MANY_ENDPOINTS else SAMPLES
    for number in sampled(shape, samples):
        there, wanted = rules.behind(shapes.cluster_ip(number)), destinations(shape, number)
        if there != wanted:
            raise WrongRules(f"{shapes.name(number)} leads to {_some(there)}, not to {_some(wanted)}")
    if shape.dual:
        v6 = look(netns, backend, "ip6tables").count("KUBE-SEP-")
        if v6 < shape.total:
            raise WrongRules(f"{v6} IPv6 endpoint chains, {shape.total} are wanted")
    return {"endpoint chains": float(found)}


def nftables(netns: NetNs, shape: Shape) -> dict[str, float]:
    """Verifies kube-proxy's nftables mode, which has a chain per service port with all its endpoints in one rule."""
    wanted = shape.services * shape.ports
    for family in ("ip6", "ip")[not shape.dual :]:
        listed = netns.run("nft", "list", "chains", family, timeout=SAVE_SECONDS).stdout
        found = len(re.findall(r"chain service-\S+/", listed))
        if found < wanted:
            raise WrongRules(f"{found} {family} Service chains, {wanted} are wanted")
    for number in sampled(shape, FEW_SAMPLES):
        nftables_behind(netns, shape, number, shapes.endpoints_of(shape, number))
    return {"service chains": float(found)}


def nftables_behind(netns: NetNs, shape: Shape, number: int, addresses: Sequence[str]) -> None:
    """Checks that the n-th Service's map element leads to a chain with these endpoints; raises `WrongRules`."""
    kind, (port, _) = shapes.protocol(number).lower(), shapes.port_numbers(shape)[0]
    element = f"{{ {shapes.cluster_ip(number)} . {kind} . {port} }}"
    table = ("ip", "kube-proxy")
    said = netns.run("nft", "get", "element", *table, "service-ips", element, check=False, timeout=SAVE_SECONDS)
    chain = re.search(r"goto (service-\S+)", said.stdout)
    if chain is None:
        raise WrongRules(f"no element {element}")
    text = netns.run("nft", "list", "chain", *table, chain[1], timeout=SAVE_SECONDS).stdout
    known = set(re.findall(r"\d+\.\d+\.\d+\.\d+", text))
    missing = [ip for ip in addresses if ip not in known]
    if missing:
        raise WrongRules(f"{shapes.name(number)} does not lead to {_some(missing)}")


def contains(netns: NetNs, subject: str, backend: str, shape: Shape, changed: Mapping[int, Sequence[str]]) -> None:
    """Checks that changed Services have their new endpoints (Service number → endpoints); all of them (in nftables
    mode, samples: each query makes the tool list everything). Raises `WrongRules`."""
    if subject == "stock-nftables":
        for number in (min(changed), max(changed)):
            nftables_behind(netns, shape, number, changed[number])
        return
    rules = look(netns, backend)
    if backend == "nft":
        known = {to.rsplit(":", 1)[0] for number in changed for to in rules.behind(shapes.cluster_ip(number))}
    else:
        known = rules.destinations()
    missing = [ip for addresses in changed.values() for ip in addresses if ip not in known]
    if missing:
        wanted = sum(map(len, changed.values()))
        raise WrongRules(f"{len(missing)} of {wanted} endpoints are not in the kernel: {_some(missing)}")


def _some(things: set[str] | list[str]) -> str:
    shown = ", ".join(sorted(things)[:4])
    return f"{shown}, … ({len(things)})" if len(things) > 4 else shown or "nothing"
