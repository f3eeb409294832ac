"""Tests deploy/ against the real API server: manifests are accepted completely, and a swap changes what it names."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import deployment
from tests.e2e.harness.api import ApiError
from tests.e2e.harness.subject import Proxy, Subject, rules
from tests.e2e.harness.waiting import eventually
from tests.e2e.harness.world import World

pytestmark = pytest.mark.netns

ROOT = deployment.DEPLOY.parent
HELM = next(iter(sorted((ROOT / "target" / "helm").glob("*/helm"))), None) or shutil.which("helm")


def daemonset() -> dict[str, Any]:
    return next(o for o in deployment.manifests() if o["kind"] == "DaemonSet")


def test_manifests_and_patches(world: World) -> None:
    deployment.check(world.api)
    assert world.api.find("DaemonSet", deployment.NAME, deployment.NAMESPACE) is None


def test_the_check_would_notice(world: World) -> None:
    """Unknown fields and invalid values are rejected, not dropped."""
    wrong = copy.deepcopy(daemonset())
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(ApiError, match="livenessprobe"):
        world.api.apply(wrong, dry_run=True)
    wrong = copy.deepcopy(daemonset())
    wrong["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = 1
    with pytest.raises(ApiError, match="maxSurge"):
        world.api.apply(wrong, dry_run=True)
    assert world.api.find("DaemonSet", deployment.NAME, deployment.NAMESPACE) is None, "a dry run stores nothing"


def test_there_and_back_again(world: World) -> None:
    """As in docs/operations.md: image patch, then undo; each generation of the object is as documented."""
    name, namespace = deployment.NAME, deployment.NAMESPACE
    before = world.api.create(deployment.as_kubeadm_has_it())
    try:
        swapped = world.api.patch("DaemonSet", name, namespace, deployment.patch("image"), merge=False)
        assert swapped["metadata"]["generation"] == before["metadata"]["generation"] + 1
        (old,), (new,) = (d["spec"]["template"]["spec"]["containers"] for d in (before, swapped))
        assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} == {"image"}
        again = world.api.patch("DaemonSet", name, namespace, deployment.patch("image"), merge=False)
        assert again["metadata"]["generation"] == swapped["metadata"]["generation"], "twice is once: no second roll-out"
        # What `rollout undo` writes: the template of the previous revision.
        world.api.patch("DaemonSet", name, namespace, deployment.patch("readiness"), merge=False)
        undone = world.api.patch(
            "DaemonSet",
            name,
            namespace,
            {"spec": {"template": {"$patch": "replace", **before["spec"]["template"]}}},
            merge=False,
        )
        assert undone["spec"] == before["spec"]
    finally:
        world.api.delete("DaemonSet", name, namespace)


@pytest.mark.skipif(HELM is None, reason="no helm here (hack/need-helm builds one)")
@pytest.mark.parametrize(
    "values",
    [
        (),
        ("serviceAccount.create=true", "config.create=true", "config.server=https://192.0.2.1:6443"),
        ("init=false", "probes=false", "extraArgs={-v=2}"),
    ],
    ids=["plain", "everything", "nothing"],
)
def test_the_chart(world: World, values: tuple[str, ...]) -> None:
    settings = [part for value in values for part in ("--set", value)]
    argv = (str(HELM), "template", "x", str(deployment.DEPLOY / "helm" / "ferrule"), "-n", "kube-system", *settings)
    done = subprocess.run((*argv, "--kube-version", "1.37.2"), capture_output=True, text=True, check=True)
    objects = [o for o in yaml.safe_load_all(done.stdout) if o]
    assert objects
    for thing in objects:
        deployment.holds(world.api.apply(thing, dry_run=True), thing)


def test_the_config_map_runs(world: World, subject: Subject) -> None:
    """Both proxies run with the text of the ConfigMap, apart from its kubeconfig's path."""
    data = next(o for o in deployment.manifests() if o["kind"] == "ConfigMap")["data"]
    kubeconfig = world.cluster.kubeconfig(world.folder / "kubeconfig.conf")
    text = data["config.conf"].replace("/var/lib/kube-proxy/kubeconfig.conf", str(kubeconfig))
    assert str(kubeconfig) in text
    config = Path(world.folder / "config.conf")
    # The only limit that is global to the machine.
    config.write_text(yaml.safe_dump(yaml.safe_load(text) | {"conntrack": {"maxPerCore": 0, "min": 0}}))
    node = world.node()
    address = world.service()["spec"]["clusterIP"]
    with Proxy(subject, node, world.cluster, world.folder, config=config) as proxy:
        proxy.wait_until_synced()
        eventually(lambda: f"{address}/32" in rules(node, "nft"), "the Service is not programmed")
        assert proxy.running.alive
