"""What one change at 10,000 Services of 4 endpoints costs, in counts: rules, chains and bytes written, processes
started, kernel transactions. None depends on a clock."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from ferrule._engine import Engine, EngineOptions, Plan
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.dataplane.netlink import NETLINK_NETFILTER
from ferrule.dataplane.nftables import NetlinkFallback
from ferrule.process.runner import Runner, ToolRun
from ferrule.sync.cadence import Cadence
from ferrule.sync.loop import SyncLoop
from ferrule.testing.netns import NetNs, small_transactions_only
from ferrule.types import FAMILIES, Backend, Kind
from tests import netlink
from tests.objects import NODE, endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

SERVICES, ENDPOINTS = 10_000, 4

NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFTA_GEN_ID = 10, 16, 1


def ip(base: int, n: int) -> str:
    return f"10.{base + n // 62_500}.{n // 250 % 250}.{n % 250 + 1}"


def nth_service(n: int) -> dict[str, Any]:
    ports = [{"name": "main", "protocol": "TCP", "port": 80} | ({"nodePort": 20_000 + n} if n % 10 == 0 else {})]
    kind = "NodePort" if n % 10 == 0 else "ClusterIP"
    return service(f"s{n}", type=kind, clusterIP=ip(96, n), clusterIPs=[ip(96, n)], ipFamilies=["IPv4"], ports=ports)


def nth_slice(n: int, first: str | None = None) -> dict[str, Any]:
    ips = [ip(128, n * ENDPOINTS + i) for i in range(ENDPOINTS)]
    return endpoint_slice([endpoint(first or ips[0]), *(endpoint(other) for other in ips[1:])], of=f"s{n}")


class Cluster:
    """The real loop over a real kernel, with everything counted that a sync does."""

    def __init__(self, netns: NetNs, backend: Backend, *, over_netlink: bool) -> None:
        self.netns, self.backend = netns, backend
        self.runs: list[ToolRun] = []
        runner = Runner((), [self.runs.append])
        self.engine = Engine(EngineOptions(node_name="node-1", ordered_blocks=backend is Backend.NFT))
        planes = [
            IptablesDataplane(family, backend, runner, NetlinkFallback() if over_netlink else None)
            for family in FAMILIES
        ]
        self.loop = SyncLoop(self.engine, planes, Cadence(0.0), clock=time.monotonic)
        lists: dict[Kind, list[dict[str, Any]]] = {
            "Service": [nth_service(n) for n in range(SERVICES)],
            "EndpointSlice": [nth_slice(n) for n in range(SERVICES)],
            "Node": [NODE],
        }
        for kind, items in lists.items():
            assert self.engine.replace(kind, [orjson.dumps(items)]).rejected == 0

    def event(self, verb: str, *objects: dict[str, Any]) -> None:
        for item in objects:
            report = self.engine.ingest(item["kind"], orjson.dumps({"type": verb, "object": item}) + b"\n")
            assert (report.changed, report.rejected) == (1, 0)

    def sync(self) -> tuple[Plan | None, list[str], int]:
        """The plan for IPv4, the tools that ran, and how many transactions nf_tables saw."""
        self.runs.clear()
        before = self.generation()
        report = self.netns.call(lambda: asyncio.run(self.loop.sync()))
        assert report.ok, report.failures
        assert "ipv6" not in report.plans or report.plans["ipv6"].full
        return report.plans.get("ipv4"), [run.tool for run in self.runs], self.generation() - before

    def generation(self) -> int:
        """nf_tables counts its transactions, for each network namespace."""

        def ask() -> Iterator[int]:
            kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN
            for _, body in netlink.request(NETLINK_NETFILTER, kind, 0, bytes(4)):
                yield from (struct.unpack(">I", v)[0] for k, v in netlink.attributes(body[4:]) if k == NFTA_GEN_ID)

        (number,) = self.netns.call(lambda: list(ask()))
        return int(number)


CHANGES = {
    # The Service's balancing chain (a rule an endpoint) and the new endpoint's chain of two rules are written; the old
    # endpoint's chain goes.
    "an endpoint replaced": ((2, 1), ENDPOINTS + 2, 900),
    # Its own chains: balancing (4 rules), node port (2), one an endpoint (2 each), 14 rules. On both ways to it, by
    # address and by node port, leaves of the dispatch tree, of at most 16 rules, and what leads to them: three chains
    # here. Never a chain that grows with the number of Services.
    "a Service added": ((2 + ENDPOINTS + 3, 0), 36, 3_700),
    # The same way back.
    "a Service deleted": ((2, 2 + ENDPOINTS + 1), 15, 2_100),
}
"""What happens → chains written and deleted at most, rules written at most, bytes at most. The cluster is always the
same one, so chains are exactly these; rules and bytes of Services have a quarter to spare."""


WAYS: dict[str, tuple[Backend, list[str]]] = {
    "netlink": (Backend.NFT, []),
    "nft": (Backend.NFT, ["iptables-nft-restore"]),
    "legacy": (Backend.LEGACY, ["iptables-legacy-restore"]),
}
"""How it is written → where, and the processes that it takes."""


@pytest.mark.parametrize("way", WAYS)
def test_one_change_costs_what_it_needs(netns: NetNs, way: str) -> None:
    backend, processes = WAYS[way]
    why_not = small_transactions_only(backend.value)
    if why_not:
        pytest.skip(why_not)
    cluster = Cluster(netns, backend, over_netlink=way == "netlink")
    plan, _, _ = cluster.sync()
    assert plan is not None
    assert plan.full
    assert plan.rules_written > SERVICES * (1 + 3 * ENDPOINTS), "everything is there"
    assert cluster.sync() == (None, [], 0), "an unchanged state starts no process"

    middle = SERVICES // 2 + 1
    for what, (chains, rules, octets) in CHANGES.items():
        match what:
            case "an endpoint replaced":
                cluster.event("MODIFIED", nth_slice(middle, first="10.200.0.1"))
            case "a Service added":
                cluster.event("ADDED", nth_slice(SERVICES), nth_service(SERVICES))
            case "a Service deleted":
                cluster.event("DELETED", nth_slice(SERVICES), nth_service(SERVICES))
        plan, tools, transactions = cluster.sync()
        assert plan is not None
        did = (len(plan.chains_written), len(plan.chains_deleted), plan.rules_written, plan.payload_size)
        print(what, did, transactions)
        assert did[0] <= chains[0], (what, plan.chains_written)
        assert did[1] <= chains[1], (what, plan.chains_deleted)
        assert did[2] <= rules, what
        assert did[3] <= octets, what
        # At most one process for the family concerned, none for the other, and none to look first or afterwards.
        assert tools == processes, what
        # Nothing but nat differs, and it fits into one block: seen by the kernel as one step.
        assert plan.blocks == 1, what
        assert transactions == (1 if backend is Backend.NFT else 0), what
        assert cluster.sync() == (None, [], 0), what
