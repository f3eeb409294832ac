"""Stock kube-proxy and ferrule follow the same API server through random histories: the same rules after each step.

FERRULE_STEPS=1000 makes a history longer, FERRULE_SEED repeats one.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.harness.fabric import Fabric
from tests.e2e.harness.subject import Proxy, Subject, assert_alive, proxy_config, rules
from tests.e2e.harness.waiting import eventually
from tests.e2e.histories import OWN_SERVICE, HistoryCluster, Mark, Stage, twin, write_kubeconfig
from tests.e2e.histories_large import NAME as CROWD
from tests.e2e.histories_large import ORDER, LargeHistory
from tests.e2e.histories_random import RandomHistory
from tests.e2e.rule_sets import owners, parse, without_losers

STEPS = int(os.environ.get("FERRULE_STEPS", "150"))
pytestmark = [pytest.mark.netns, pytest.mark.timeout(300 + 5 * STEPS)]
ENOUGH = 150
"""Number of steps in which every seed so far caused conflicts about addresses."""
RESTART_EVERY = 50
"""Steps after which ferrule is killed and restarted over its rules."""
LARGE_STEPS = int(os.environ.get("FERRULE_LARGE_STEPS", str(len(ORDER))))

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"iptables": {"masqueradeAll": True}},
    {"iptables": {"localhostNodePorts": False}},
    {"nodePortAddresses": ["primary"]},
    {"nodePortAddresses": ["172.31.250.0/24", "fd00:255::/64"]},
    {"detectLocalMode": "NodeCIDR"},
    {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "veth"}},
)
"""The seed selects one, most often the default."""


@dataclass(slots=True)
class Pair:
    """Both proxies on nodes of the same name and addresses."""

    seed: int
    configuration: dict[str, Any]
    stage: Stage
    mark: Mark
    stock: Proxy
    ferrule: Proxy
    counts: Counter[str] = field(default_factory=Counter)
    large: list[bool] = field(default_factory=lambda: [False, False])
    """By family: whether rules had no endpoint names at the last comparison."""

    def difference(self) -> str:
        """Returns the difference between their rules, or what one of them has not processed yet; empty if there is
        none."""
        owner = owners(
            [self.stage.api.get(*OWN_SERVICE[::2], OWN_SERVICE[1])]
            + [thing for (kind, _, _), thing in self.stage.served.items() if kind == "Service"]
        )
        seen, large = Counter[str](), list(self.large)
        for index, tool in enumerate(("iptables", "ip6tables")):
            found = {}
            for proxy in (self.stock, self.ferrule):
                assert_alive(proxy.running)
                saved = rules(proxy.node, proxy.backend, tool)
                missing = self.mark.missing(saved, index, self.stage.zone)
                if missing:
                    return f"{proxy.subject.value} {tool}: was not told everything, lacks {missing}"
                found[proxy.subject] = parse(saved)
            seen["rules of losers"] += without_losers(found[Subject.STOCK], owner)
            stock, ferrule = (found[subject].lines() for subject in (Subject.STOCK, Subject.FERRULE))
            seen["rules"] += len(stock)
            lines = list(difflib.unified_diff(stock, ferrule, "stock", "ferrule", lineterm="", n=2))
            if lines:
                return "\n".join([tool, *lines[:60]])
            large[index] = not any(" -> " in line for line in stock)
        self.counts += seen
        self.large = large
        return ""


@pytest.fixture
def pair(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    seed = int(os.environ.get("FERRULE_SEED") or secrets.randbits(32))
    configuration = CONFIGURATIONS[seed % len(CONFIGURATIONS)]
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric())
        cluster = stack.enter_context(HistoryCluster(fabric, tmp_path_factory.mktemp("cluster")))
        stage, mark = Stage(cluster.api), Mark(cluster.api)
        stage.begin()
        mark.begin()
        proxies = {}
        for subject in Subject:
            node, relay = twin(stack, cluster)
            folder = tmp_path_factory.mktemp(subject.value)
            # kube-proxy has no trees: the form that both write is compared.
            ours = {"ferrule": {"dispatch": "flat", "balance": "flat"}} if subject is Subject.FERRULE else {}
            config = proxy_config(folder / "config", write_kubeconfig(cluster, relay, folder), **configuration, **ours)
            proxies[subject] = stack.enter_context(
                Proxy(subject, node, cluster, folder, backend=backend, config=config)
            )
        for proxy in proxies.values():
            proxy.wait_until_synced()
        yield Pair(seed, configuration, stage, mark, proxies[Subject.STOCK], proxies[Subject.FERRULE])


def test_same_rules_after_each_step(pair: Pair, backend: str, record_property: Callable[[str, object], None]) -> None:
    seed = pair.seed
    print(f"FERRULE_SEED={seed} FERRULE_STEPS={STEPS} {pair.configuration}")
    record_property("seed", seed)
    history = RandomHistory(seed)
    refused = Counter[str]()
    for step in range(1, STEPS + 1):
        if step % RESTART_EVERY == 0:
            pair.ferrule.kill()
            pair.ferrule.start()
        pair.stage.become(history.next())
        refused.update(pair.stage.refused.values())
        pair.mark.advance()
        eventually(
            lambda: not pair.difference(),
            lambda: (
                f"FERRULE_SEED={seed} step {step} {history.did}\nrefused: {pair.stage.refused}\n"  # noqa: B023
                f"{pair.difference()}\n{pair.ferrule.running.tail(5)}\n{pair.stock.running.tail(5)}"
            ),
        )
    print(f"{backend}: {STEPS} steps, {dict(pair.counts)}, refused {sum(refused.values())}: {refused.most_common(20)}")
    assert sum(refused.values()) * 20 < STEPS, f"the history is mostly not what the API takes: {refused}"
    assert STEPS < ENOUGH or pair.counts["rules of losers"], "no two Services ever wanted one address"


def test_same_rules_across_large_mode(pair: Pair, backend: str) -> None:
    """kube-proxy leaves chains from before the crossing unchanged until something else changes them, so each step
    starts a fresh one, which writes everything. ferrule runs through all of it, with one restart."""
    seed = pair.seed
    print(f"FERRULE_SEED={seed} FERRULE_LARGE_STEPS={LARGE_STEPS} {pair.configuration}")
    history, crossed, large = LargeHistory(seed), Counter[str](), [False, False]
    for step in range(1, LARGE_STEPS + 1):
        pair.stock.kill()
        pair.stage.become(history.next())
        assert not [key for key in pair.stage.refused if key[2].startswith(CROWD)], pair.stage.refused
        pair.mark.advance()
        pair.stock.start()
        if step == LARGE_STEPS // 2:
            pair.ferrule.kill()
            pair.ferrule.start()
        eventually(
            lambda: not pair.difference(),
            lambda: (
                f"FERRULE_SEED={seed} step {step} {history.did}\nrefused: {pair.stage.refused}\n"  # noqa: B023
                f"{pair.difference()}\n{pair.ferrule.running.tail(5)}\n{pair.stock.running.tail(5)}"
            ),
            # Reading back a thousand endpoints' rules takes seconds on nft; four read-backs are one check.
            seconds=300,
            every=0.5,
        )
        for before, now in zip(large, pair.large, strict=True):
            crossed["up" if now else "down"] += before is not now
        large = pair.large
    print(f"{backend}: {LARGE_STEPS} steps, {dict(pair.counts)}, crossed {dict(crossed)}")
    assert len(ORDER) > LARGE_STEPS or (crossed["up"] > 1 and crossed["down"] > 1), f"it never crossed: {crossed}"
