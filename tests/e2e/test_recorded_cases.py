"""Replays every recorded history through a real API server and the whole daemon: its rules equal kube-proxy's.

The conformance tests pass states to the engine; here the server delivers them, over watches, object by object, to one
ferrule per configuration and backend that runs through all histories of that configuration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from ferrule.testing.netns import small_transactions_only
from ferrule.types import FAMILIES, Family
from tests.conformance.normal_form import normal_form
from tests.conformance.replay import ALL, Case
from tests.e2e.harness.api import Object
from tests.e2e.harness.cluster import Cluster
from tests.e2e.harness.fabric import Fabric
from tests.e2e.harness.subject import BACKENDS, Proxy, Subject, assert_alive, rules
from tests.e2e.harness.waiting import eventually
from tests.e2e.histories import OWN_SERVICE, HistoryCluster, Mark, Stage, key_of, twin, without_mark, write_kubeconfig

pytestmark = pytest.mark.netns

TOOL: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}


def configuration(case: Case) -> str:
    """Returns the configuration as text, for grouping."""
    return json.dumps(yaml.safe_load((case.folder / "config.yaml").read_text()), sort_keys=True)


GROUPS = sorted({configuration(case) for case in ALL})
CASES = sorted(ALL, key=lambda case: (GROUPS.index(configuration(case)), case.name))


@dataclass(frozen=True, slots=True)
class Server:
    """The API server of all histories."""

    cluster: Cluster
    stage: Stage
    mark: Mark


@dataclass(frozen=True, slots=True)
class Stand:
    """One ferrule per backend, on otherwise identical nodes."""

    stage: Stage
    mark: Mark
    proxies: dict[str, Proxy]


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Fabric() as fabric, HistoryCluster(fabric, tmp_path_factory.mktemp("histories")) as cluster:
        stage, mark = Stage(cluster.api), Mark(cluster.api)
        stage.begin()
        mark.begin()
        yield Server(cluster, stage, mark)


@pytest.fixture(scope="module")
def stand(
    request: pytest.FixtureRequest,
    api_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    with ExitStack() as stack:
        proxies = {}
        for backend in BACKENDS:
            node, relay = twin(stack, api_server.cluster)
            folder = tmp_path_factory.mktemp(backend)
            config: dict[str, Any] = json.loads(request.param)
            config["clientConnection"] = {"kubeconfig": str(write_kubeconfig(api_server.cluster, relay, folder))}
            config["iptables"] |= {"minSyncPeriod": "100ms"}
            path = folder / "config"
            path.write_text(json.dumps(config))
            proxy = Proxy(Subject.FERRULE, node, api_server.cluster, folder, backend=backend, config=path)
            proxies[backend] = stack.enter_context(proxy)
        for proxy in proxies.values():
            proxy.wait_until_synced()
        yield Stand(api_server.stage, api_server.mark, proxies)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes cases of one configuration share their stand."""
    if "stand" in metafunc.fixturenames:
        pairs = [(configuration(case), case) for case in CASES]
        metafunc.parametrize(
            ("stand", "case"), pairs, indirect=["stand"], scope="module", ids=[case.name for case in CASES]
        )


def difference(case: Case, step: int, proxy: Proxy, mark: Mark, zone: str | None) -> str:
    """Returns the difference between recorded and current rules; empty without a difference, once the proxy has
    processed everything."""
    assert_alive(proxy.running)
    for index, family in enumerate(FAMILIES):
        saved = rules(proxy.node, proxy.backend, TOOL[family])
        missing = mark.missing(saved, index, zone)
        if missing:
            return f"{family}: was not told everything, lacks {missing}"
        lines = difflib.unified_diff(
            case.saved(step, family).splitlines(),
            normal_form(without_mark(saved)).splitlines(),
            "stock",
            f"ferrule, {proxy.backend}",
            lineterm="",
            n=1,
        )
        found = list(lines)
        if found:
            return "\n".join([family, *found[:60]])
    return ""


def spoken(thing: Object) -> Object:
    """Returns a recorded object without the fields that each server sets."""
    status = {"status": thing["status"]} if "status" in thing else {}
    keys = ("spec", "addressType", "endpoints", "ports")
    return {key: thing[key] for key in keys if thing.get(key)} | status


def test_rules_equal_stock(stand: Stand, case: Case) -> None:
    proxies = {
        backend: proxy
        for backend, proxy in stand.proxies.items()
        if not (case.name.startswith("large-") and small_transactions_only(backend))
    }
    assert proxies
    stand.stage.become([])
    for step in case.steps:
        state: list[Object] = json.loads(case.objects(step))
        stand.stage.become(state)
        assert not stand.stage.refused, f"step {step}: the server refuses what one like it once served"
        for thing in state:
            key = key_of(thing)
            if key != OWN_SERVICE and key[0] != "Node":
                assert spoken(stand.stage.served[key]) == spoken(thing), f"step {step}: the server made it another"
        stand.mark.advance()
        for proxy in proxies.values():
            eventually(
                lambda step=step, proxy=proxy: not difference(case, step, proxy, stand.mark, stand.stage.zone),  # type: ignore[misc]
                lambda step=step, proxy=proxy: (  # type: ignore[misc]
                    f"{case.name} step {step} {difference(case, step, proxy, stand.mark, stand.stage.zone)}\n"
                    f"{proxy.running.tail(8)}"
                ),
            )
