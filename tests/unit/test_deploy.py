"""Parses everything under deploy/, and compares it with kubeadm's objects, with each other and with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ferrule._engine import build_info
from ferrule.config.load import parse_config
from ferrule.observe.exposition import render
from ferrule.observe.metrics import Metrics

VERSION = build_info()["version"]
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "ferrule"
IMAGE = f"ferrule:{VERSION}"

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifest(kind: str) -> Object:
    found = [o for path in sorted((DEPLOY / "manifests").glob("*.yaml")) for o in documents(path) if o["kind"] == kind]
    assert len(found) == 1, kind
    return found[0]


def pod(daemonset: Object) -> Object:
    return daemonset["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def test_alerts_ask_for_metrics_that_exist() -> None:
    """With the name and the type that the expression assumes."""
    scraped = render(Metrics(build_info()).registry, "", "", ()).body.decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scraped, re.MULTILINE))
    (rule,) = documents(DEPLOY / "monitoring" / "alerts.yaml")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert len(alerts) == len({alert["alert"] for alert in alerts}) >= 6
    for alert in alerts:
        named = re.findall(r"\b(?:ferrule|kubeproxy)_\w+", alert["expr"])
        assert named, alert
        for name in named:
            kind = kinds[name.removesuffix("_bucket")]
            over_time = f"({name}[" in alert["expr"]
            assert (kind == "histogram") is name.endswith("_bucket"), name
            assert over_time is (kind != "gauge"), f"{name} is a {kind}"
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info")


@pytest.fixture(scope="module")
def daemonset() -> Object:
    return manifest("DaemonSet")


def test_the_daemonset_takes_kubeadms_place(daemonset: Object) -> None:
    """Another selector could not be applied over kubeadm's, another name would run in addition to it."""
    assert daemonset["metadata"] == {
        "name": "kube-proxy",
        "namespace": "kube-system",
        "labels": {"k8s-app": "kube-proxy"},
    }
    assert daemonset["spec"]["selector"] == {"matchLabels": {"k8s-app": "kube-proxy"}}
    assert daemonset["spec"]["template"]["metadata"]["labels"] == {"k8s-app": "kube-proxy"}
    spec = pod(daemonset)
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["serviceAccountName"] == manifest("ServiceAccount")["metadata"]["name"] == "kube-proxy"
    assert spec["hostNetwork"] is True
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    (container,) = spec["containers"]
    assert container["name"] == "kube-proxy", "the swap patch and kubectl find it by name"
    assert container["command"] == [
        "/usr/local/bin/kube-proxy",
        "--config=/var/lib/kube-proxy/config.conf",
        "--hostname-override=$(NODE_NAME)",
    ]
    assert container["env"] == [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    assert {m["name"]: (m["mountPath"], m.get("readOnly", False)) for m in container["volumeMounts"]} == {
        "kube-proxy": ("/var/lib/kube-proxy", False),
        "xtables-lock": ("/run/xtables.lock", False),
        "lib-modules": ("/lib/modules", True),
    }
    assert {v["name"]: {k: w for k, w in v.items() if k != "name"} for v in spec["volumes"]} == {
        "kube-proxy": {"configMap": {"name": manifest("ConfigMap")["metadata"]["name"]}},
        "xtables-lock": {"hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
        "lib-modules": {"hostPath": {"path": "/lib/modules"}},
    }


def test_only_the_init_container_has_full_rights(daemonset: Object) -> None:
    spec = pod(daemonset)
    (init,) = spec["initContainers"]
    (main,) = spec["containers"]
    assert init["command"] == [*main["command"], "--init-only"]
    assert init["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}
    assert main["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    }
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert init["image"] == main["image"] == IMAGE


def test_probes_ask_the_health_port(daemonset: Object) -> None:
    (main,) = pod(daemonset)["containers"]
    assert main["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 10256}
    assert main["livenessProbe"]["httpGet"] == {"path": "/livez", "port": 10256}
    patience = main["livenessProbe"]["periodSeconds"] * main["livenessProbe"]["failureThreshold"]
    assert patience >= 120, "reading back 30,000 Services takes two minutes; a restart would begin again"


def test_a_roll_out_takes_one_node_at_a_time(daemonset: Object) -> None:
    once = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert daemonset["spec"]["updateStrategy"] == once
    assert documents(DEPLOY / "swap" / "rolling.yaml") == [{"spec": {"updateStrategy": once}}]


def test_rights_in_the_cluster_are_kube_proxys() -> None:
    binding = manifest("ClusterRoleBinding")
    assert binding["metadata"]["name"] == "kubeadm:node-proxier"
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:node-proxier",
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "kube-proxy", "namespace": "kube-system"}]


def test_the_configuration_is_one_that_ferrule_takes() -> None:
    check_config(manifest("ConfigMap")["data"])


def check_config(data: dict[str, str]) -> None:
    assert data.keys() == {"config.conf", "kubeconfig.conf"}
    settings = parse_config(data["config.conf"].encode(), "config.conf")[0]
    assert settings.mode == "iptables", "left empty it draws a warning event"
    assert settings.client_connection.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert settings.healthz_bind_address.endswith(":10256")
    kubeconfig = yaml.safe_load(data["kubeconfig.conf"])
    (user,) = kubeconfig["users"]
    (cluster,) = kubeconfig["clusters"]
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert user["user"] == {"tokenFile": f"{account}/token"}
    assert cluster["cluster"]["certificate-authority"] == f"{account}/ca.crt"
    assert cluster["cluster"]["server"].startswith("https://")
    assert kubeconfig["current-context"] == kubeconfig["contexts"][0]["name"]


@pytest.mark.parametrize("path", sorted((DEPLOY / "swap").glob("*.yaml")), ids=lambda path: path.name)
def test_patches_name_only_what_they_change(path: Path, daemonset: Object) -> None:
    """A strategic merge finds a container by name: a wrong one would add a container instead of changing one."""
    (patch,) = documents(path)
    changes = {"image": IMAGE, "readinessProbe": pod(daemonset)["containers"][0]["readinessProbe"]}
    if "updateStrategy" in patch["spec"]:
        assert patch["spec"].keys() == {"updateStrategy"}
        assert patch["spec"]["updateStrategy"]["type"] in {"OnDelete", "RollingUpdate"}
        return
    assert patch["spec"].keys() == {"template"}
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container.pop("name") == "kube-proxy"
    ((field, value),) = container.items()
    assert value == changes[field]


def test_versions_agree() -> None:
    (chart,) = documents(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    assert f"-t {IMAGE} " in (DEPLOY / "Containerfile").read_text()


def test_the_image_has_both_names_both_backends_and_locked_packages() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    build, runtime = re.split(r"^FROM debian", text, flags=re.MULTILINE)
    for path in re.findall(r"^COPY (.*) \S+$", build, re.MULTILINE):
        for name in path.split():
            assert (ROOT / name).exists(), name
    assert "--require-hashes -r deploy/runtime.lock" in build
    assert re.search(r"install .*--no-install-recommends .*\biptables\b", runtime)
    assert "/usr/local/bin/kube-proxy" in runtime
    assert "gcc" not in runtime
    assert "pip" not in runtime.replace("iptables", "")


def test_the_images_packages_are_the_tested_ones() -> None:
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))

    tested, shipped = pins(ROOT / "requirements" / "dev.lock"), pins(DEPLOY / "runtime.lock")
    assert shipped.items() <= tested.items(), "make lock renews both"
    needs = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert needs
    direct = {n.lower().replace("_", "-") for n in re.findall(r'"([A-Za-z0-9_-]+)', needs.group(1))}
    assert direct <= shipped.keys()
    assert not {"pytest", "mypy", "maturin"} & shipped.keys()


# ---------------------------------------------------------------------- systemd


def test_the_unit_grants_what_the_daemonset_grants(daemonset: Object) -> None:
    unit = (DEPLOY / "systemd" / "ferrule.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    granted = " ".join(f"CAP_{c}" for c in pod(daemonset)["containers"][0]["securityContext"]["capabilities"]["add"])
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"] == granted
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "always"
    assert settings["OOMScoreAdjust"] == "-999"
    assert settings["ExecStartPre"].startswith("+"), "settings of the kernel need every right"
    start = settings["ExecStart"].split()
    assert settings["ExecStartPre"].removeprefix("+").split() == [*start[:-1], "--init-only", start[-1]]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "ferrule.service"
    text = (DEPLOY / "systemd" / "ferrule.service").read_text()
    unit.write_text(text.replace("/opt/ferrule/bin/ferrule", "/bin/true"))
    done = subprocess.run(("systemd-analyze", "verify", "--man=no", unit), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------- helm

HELM = next(iter(sorted((ROOT / "target" / "helm").glob("*/helm"))), None) or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="no helm here (hack/need-helm builds one)")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((str(HELM), *arguments), capture_output=True, text=True, check=False, cwd=ROOT)


def rendered(*values: str) -> dict[str, Object]:
    settings = [part for value in values for part in ("--set", value)]
    done = helm("template", "x", str(CHART), "-n", "kube-system", "--kube-version", "1.37.2", *settings)
    assert done.returncode == 0, done.stderr
    return {o["kind"]: o for o in yaml.safe_load_all(done.stdout) if o}


@needs_helm
def test_the_chart_renders_the_plain_manifests(daemonset: Object) -> None:
    assert rendered() == {"DaemonSet": daemonset}


@needs_helm
def test_the_chart_can_make_what_kubeadm_would_have() -> None:
    objects = rendered("serviceAccount.create=true", "config.create=true", "config.server=https://192.0.2.1:6443")
    assert objects["ServiceAccount"] == manifest("ServiceAccount")
    assert objects["ClusterRoleBinding"]["roleRef"] == manifest("ClusterRoleBinding")["roleRef"]
    assert objects["ClusterRoleBinding"]["subjects"] == manifest("ClusterRoleBinding")["subjects"]
    config = objects["ConfigMap"]
    assert config["metadata"] == manifest("ConfigMap")["metadata"]
    check_config(config["data"])


@needs_helm
def test_the_chart_without_init_and_probes() -> None:
    spec = pod(rendered("init=false", "probes=false", "extraArgs={-v=2}", "image.tag=v9")["DaemonSet"])
    (main,) = spec["containers"]
    assert "initContainers" not in spec
    assert not {"readinessProbe", "livenessProbe"} & main.keys()
    assert main["command"][-1] == "-v=2"
    assert main["image"] == "ferrule:v9"


@needs_helm
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("config.create=true", "config/server"),
        ("config.server=http://192.0.2.1", "config/server"),
        ("healthPort=0", "healthPort"),
        ("image.pullpolicy=Never", "pullpolicy"),
        ("name=Kube_Proxy", "name"),
        ("extraArgs={serve}", "extraArgs"),
    ],
)
def test_the_chart_refuses_wrong_values(value: str, names: str) -> None:
    done = helm("template", "x", str(CHART), "--kube-version", "1.37.2", "--set", value)
    assert done.returncode != 0
    assert names in done.stderr


@needs_helm
def test_helm_lint_finds_nothing() -> None:
    done = helm("lint", "--strict", "--quiet", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
