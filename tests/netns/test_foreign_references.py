"""A foreign rule that references a chain of ours keeps only that chain, empty, and no other change waits for it."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from ferrule._engine import Engine, EngineOptions
from ferrule.dataplane import nftables
from ferrule.dataplane.iptables import IptablesDataplane
from ferrule.process.runner import Runner
from ferrule.testing.netns import NetNs
from ferrule.types import Backend
from tests.objects import endpoint, endpoint_slice, service

pytestmark = pytest.mark.netns

OTHER = service("other", clusterIP="10.96.9.9", clusterIPs=["10.96.9.9"])


def started(*services: dict[str, object]) -> Engine:
    engine = Engine(EngineOptions(node_name="node-1"))
    engine.replace("Service", [json.dumps(services).encode()])
    engine.replace("EndpointSlice", [json.dumps([endpoint_slice([endpoint("10.128.1.10")])]).encode()])
    engine.replace("Node", [b"[]"])
    return engine


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("prefix", ["KUBE-SVC-", "KUBE-EXT-"])
@pytest.mark.parametrize("way", ["nft-netlink", "nft-tool", "legacy-tool"])
def test_only_the_referenced_chain_stays(netns: NetNs, way: str, prefix: str, restart: bool) -> None:
    backend, carrier = way.split("-")
    plane = IptablesDataplane("ipv4", Backend(backend), Runner(netns.prefix))

    def sync(engine: Engine) -> tuple[str, ...]:
        if backend == "nft":
            reader = engine.rule_reader("ipv4")
            netns.call(lambda: nftables.read_in_thread(reader, threading.Event()))
            engine.observe("ipv4", reader)
        else:
            engine.observe("ipv4", asyncio.run(plane.save()))
        plan = engine.plan("ipv4", netlink=carrier == "netlink")
        if plan is None:
            return ()
        if carrier == "netlink":
            netns.call(lambda: nftables.write_in_thread(plan.take_transactions(), threading.Event()))
        else:
            asyncio.run(plane.restore(plan.take_payload()))
        engine.commit(plan)
        return plan.chains_deleted

    engine = started(service(type="NodePort", nodePort=30080))
    sync(engine)
    saved = asyncio.run(plane.save()).decode()
    (chain,) = {line.split()[1] for line in saved.splitlines() if line.startswith(f"-A {prefix}")}
    for rule in ("-N MINE", f"-A MINE -j {chain}"):
        netns.run(f"iptables-{backend}", "-t", "nat", *rule.split())

    if restart:
        engine = started(OTHER)
    else:
        engine.replace("Service", [json.dumps([OTHER]).encode()])
    sync(engine)
    saved = asyncio.run(plane.save()).decode()
    assert "-d 10.96.9.9/32" in saved, "the other change took effect"
    ours = [line for line in saved.splitlines() if line.startswith((":KUBE-SVC-", ":KUBE-EXT-", ":KUBE-SEP-"))]
    assert [line.split()[0] for line in ours] == [f":{chain}"]
    assert f"-A {chain} " not in saved
    assert engine.facts("ipv4").held == [(f"nat {chain}", "MINE")]
    assert sync(engine) == ()
    assert sync(started(OTHER)) == (), "a restart leaves it as it is"

    netns.run(f"iptables-{backend}", "-t", "nat", "-F", "MINE")
    assert sync(engine) == (f"nat {chain}",)
