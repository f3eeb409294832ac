"""Dispatch trees that go as deep as they can, in a real kernel: its own words are recognised, all of it is removed."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
from typing import Any

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions
from ferrule.cleanup import cleanup
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.process.runner import Runner
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Backend, Family
from tests.objects import NODE, endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns


def crowd() -> list[dict[str, Any]]:
    """Neighbouring addresses, one address with very many ports, node ports far apart and close together, in both
    families; every third Service has no endpoints, every fifth is behind source ranges."""
    objects: list[dict[str, Any]] = [NODE]
    for n in range(60):
        name = f"s{n:02}"
        ip, ip6 = f"10.96.{n // 20}.{n + 1}", f"fd00:10:96::{n // 20:x}:{n + 1:x}"
        ports = [{"name": "main", "protocol": "UDP" if n % 4 == 1 else "TCP", "port": 80, "nodePort": 30000 + n * 3}]
        if n == 7:
            ports += [
                {"name": f"p{i}", "protocol": "TCP", "port": 100 + i * 211, "nodePort": 100 + i} for i in range(120)
            ]
            ports += [{"name": "top", "protocol": "SCTP", "port": 65535, "nodePort": 65535}]
            ports += [{"name": "low", "protocol": "SCTP", "port": 1, "nodePort": 1}]
        ranges = ["203.0.113.0/24", "2001:db8:1::/48"] if n % 5 == 0 else []
        lb = [f"192.0.2.{n + 1}", f"2001:db8::{n + 1:x}"]
        objects.append(
            service(
                name,
                type="LoadBalancer",
                clusterIP=ip,
                clusterIPs=[ip, ip6],
                ports=ports,
                loadBalancerSourceRanges=ranges,
                lb=lb,
            )
        )
        if n % 3:
            every = [{"name": p["name"], "protocol": p["protocol"], "port": 8080} for p in ports]
            for family, pod in (("IPv4", f"10.128.0.{n + 1}"), ("IPv6", f"fd00:10:128::{n + 1:x}")):
                piece = endpoint_slice([endpoint(pod)], of=name, family=family)
                piece["ports"] = every
                objects.append(piece)
    return objects


def engine(backend: str, dispatch: str, objects: list[dict[str, Any]]) -> Engine:
    options = EngineOptions(node_name="node-1", ordered_blocks=backend == "nft", dispatch=dispatch)  # type: ignore[arg-type]
    made = Engine(options)
    for kind in ("Service", "EndpointSlice", "Node"):
        made.replace(kind, [orjson.dumps([o for o in objects if o["kind"] == kind])])  # type: ignore[arg-type]
    return made


def sync(made: Engine, family: Family, plane: IptablesDataplane) -> bool:
    """Whether there was anything to write."""
    made.observe(family, asyncio.run(plane.save()))
    plan = made.plan(family)
    if plan is None:
        return False
    asyncio.run(plane.restore(plan.payload))
    made.commit(plan)
    return True


def rules(saved: bytes) -> list[bytes]:
    """Without order: kube-proxy itself has none between Services."""
    return sorted(line for line in saved.splitlines() if line.startswith(b"-A "))


def test_deep_trees_are_recognised_and_removed(netns: NetNs, backend: str) -> None:
    why_not = small_transactions_only(backend)
    if why_not:
        pytest.skip(why_not)
    runner = Runner(netns.prefix)
    objects = crowd()
    for family in FAMILIES:
        plane = IptablesDataplane(family, Backend(backend), runner)
        assert sync(engine(backend, "flat", objects), family, plane)
        flat = asyncio.run(plane.save())
        assert b"KUBE-SVC-DSP-" not in flat
        assert sync(engine(backend, "tree", objects), family, plane)
        saved = asyncio.run(plane.save()).decode()
        # Every kind of way that a tree can lead: a network, an address's protocol, a range of its ports, of node ports.
        for way in (
            r"-d \S+0/(24|124|120|28) -j KUBE-SVC-DSP-",
            r"-d \S+ -p (tcp|udp|sctp) -j KUBE-SVC-DSP-",
            r"-d \S+ -p tcp -m tcp --dport 0:4095 -j KUBE-SVC-DSP-",
            r"-A KUBE-NODEPORTS -p (tcp|udp|sctp) -j KUBE-SVC-DSP-",
            r"-A KUBE-SVC-DSP-\S+ -p tcp -m tcp --dport \d+:\d+ -j KUBE-SVC-DSP-",
            r"-A KUBE-EXTERNAL-SERVICES -m addrtype --dst-type LOCAL -j KUBE-SVC-DSP-",
            r"-A KUBE-SVC-DSP-\S+ -d .* -j (REJECT|DROP)",
        ):
            assert re.search(way, saved), way
        for again in ("tree", "auto"):
            assert sync(engine(backend, again, objects), family, plane) is (again == "auto")
        # 60 Services are few: auto writes what flat wrote, and no part of a tree stays.
        assert rules(asyncio.run(plane.save())) == rules(flat)
        assert sync(engine(backend, "tree", objects), family, plane)
    report = asyncio.run(cleanup(runner))
    assert report.problems == []
    for family in FAMILIES:
        assert b"KUBE-SVC-DSP-" not in asyncio.run(IptablesDataplane(family, Backend(backend), runner).save())


def nested(ip: str, digits: int) -> list[str]:
    """Addresses that part ways at each digit of `ip` in turn (hexadecimal): every one of them makes a tree deeper."""
    value = int(ipaddress.ip_address(ip))
    bits = ipaddress.ip_address(ip).max_prefixlen
    made = {value ^ (1 << (bits - 4 * n - 1)) for n in range(digits)}
    return [str(ipaddress.ip_address(value)), *(str(type(ipaddress.ip_address(ip))(other)) for other in sorted(made))]


def deepest(saved: str) -> int:
    """Chains that one packet may pass one inside another, in nat, from a built-in chain on."""
    below: dict[str, set[str]] = {}
    for chain, target in re.findall(r"^-A (\S+) .*-j (\S+)", saved.partition("*nat")[2].partition("COMMIT")[0], re.M):
        below.setdefault(chain, set()).add(target)

    @functools.cache
    def height(chain: str) -> int:
        return 1 + max((height(target) for target in below.get(chain, ()) if target.startswith("KUBE-")), default=0)

    return max(height("PREROUTING"), height("OUTPUT")) - 1


def test_addresses_chosen_to_lie_badly_do_not_exceed_the_kernels_nesting(netns: NetNs, backend: str) -> None:
    """nf_tables takes fifteen jumps inside one another and refuses the whole transaction for the sixteenth. One Service
    with the longest way behind its address (source ranges, policy Local, many endpoints) and addresses and ports that
    branch at every digit stays below it."""
    why_not = small_transactions_only(backend)
    if why_not:
        pytest.skip(why_not)
    runner = Runner(netns.prefix)
    ports = [{"name": f"p{n}", "protocol": "TCP", "port": n} for n in (*range(1, 20), 40, 600, 9000, 40000)]
    ips = nested("203.0.113.77", 8) + nested("2001:db8:1:2:3:4:5:6", 32)
    objects = [
        NODE,
        service(
            "evil",
            type="LoadBalancer",
            clusterIP="10.96.0.1",
            clusterIPs=["10.96.0.1", "fd00:10:96::1"],
            ports=ports,
            externalTrafficPolicy="Local",
            loadBalancerSourceRanges=["198.51.100.0/24", "2001:db8:1::/48"],
            lb=ips,
        ),
    ]
    for family, pod in (("IPv4", "10.128.0.{}"), ("IPv6", "fd00:10:128::{:x}")):
        piece = endpoint_slice([endpoint(pod.format(n + 1)) for n in range(3)], of="evil", family=family)
        piece["ports"] = [{"name": p["name"], "protocol": p["protocol"], "port": 8080} for p in ports]
        objects.append(piece)
    for family in FAMILIES:
        plane = IptablesDataplane(family, Backend(backend), runner)
        assert sync(engine(backend, "tree", objects), family, plane)
        saved = asyncio.run(plane.save()).decode()
        jumps = deepest(saved)
        # KUBE-SERVICES, seven parts, FW, EXT, SVC, SEP, KUBE-MARK-MASQ; two more where balancing is a tree.
        assert jumps == 13
        assert not sync(engine(backend, "tree", objects), family, plane)
