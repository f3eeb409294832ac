"""Checks deploy/ against an API server: every manifest is accepted completely, and every patch changes what it names.

`check` needs an administrator's client; the end-to-end cases pass theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
NAMESPACE = "kube-system"
NAME = "kube-proxy"

Object = dict[str, Any]


class Server(Protocol):
    """The calls that are used; each raises when the server refuses."""

    def apply(self, thing: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply, forced, unknown fields refused."""

    def create(self, thing: Object) -> Object:
        """POST."""

    def patch(
        self, kind: str, name: str, namespace: str | None, change: Object, *, status: bool = False, merge: bool = True
    ) -> Object:
        """A strategic merge where not `merge`."""

    def delete(self, kind: str, name: str, namespace: str | None = None, *, grace: int | None = 0) -> None:
        """DELETE."""


def manifests() -> Iterator[Object]:
    """Yields manifests in the order of applying."""
    for name in ("rbac", "configmap", "daemonset"):
        yield from yaml.safe_load_all((DEPLOY / "manifests" / f"{name}.yaml").read_text())


def patch(name: str) -> Object:
    """Returns a patch of deploy/swap."""
    return dict(yaml.safe_load((DEPLOY / "swap" / f"{name}.yaml").read_text()))


def as_kubeadm_has_it() -> Object:
    """Returns the DaemonSet before the swap: ferrule's, with kubeadm's differences."""
    daemonset = copy.deepcopy(next(o for o in manifests() if o["kind"] == "DaemonSet"))
    daemonset["spec"]["updateStrategy"] = {"type": "RollingUpdate"}
    pod = daemonset["spec"]["template"]["spec"]
    del pod["initContainers"], pod["securityContext"]
    (container,) = pod["containers"]
    del container["readinessProbe"], container["livenessProbe"]
    container |= {"image": "stock", "securityContext": {"privileged": True}}
    return daemonset


def check(server: Server) -> None:
    """Checks everything. Raises `AssertionError`, or the client's errors. Leaves no object."""
    for thing in manifests():
        holds(server.apply(thing, dry_run=True), thing)
    before = server.create(as_kubeadm_has_it())
    try:
        _check_swap(server, before)
    finally:
        server.delete("DaemonSet", NAME, NAMESPACE)


def _check_swap(server: Server, before: Object) -> None:
    swapped = _patched(server, "image")
    expected = copy.deepcopy(before["spec"])
    _container(expected)["image"] = _container(patch("image")["spec"])["image"]
    assert swapped["spec"] == expected, "image.yaml changes the image and nothing else"

    choosing = _patched(server, "on-delete")
    assert choosing["spec"] == expected | {"updateStrategy": {"type": "OnDelete"}}
    rolling = _patched(server, "rolling")
    assert rolling["spec"] == expected | patch("rolling")["spec"]
    generation = rolling["metadata"]["generation"]
    waiting = _patched(server, "readiness")
    assert waiting["metadata"]["generation"] == generation + 1
    assert _container(waiting["spec"])["readinessProbe"]["httpGet"]["path"] == "/readyz"

    back = server.patch("DaemonSet", NAME, NAMESPACE, {"spec": before["spec"]})
    assert back["spec"] == before["spec"]

    daemonset = next(o for o in manifests() if o["kind"] == "DaemonSet")
    holds(server.apply(daemonset), daemonset)


def _patched(server: Server, name: str) -> Object:
    return server.patch("DaemonSet", NAME, NAMESPACE, patch(name), merge=False)


def _container(spec: Object) -> Object:
    (container,) = spec["template"]["spec"]["containers"]
    return container  # type: ignore[no-any-return]


def holds(stored: Any, asked: Any, where: str = "") -> None:
    """Checks that all requested fields are stored, whatever defaults the server adds; `AssertionError` names a
    missing one."""
    if isinstance(asked, dict):
        for key, value in asked.items():
            assert key in stored, f"{where}.{key} was dropped"
            holds(stored[key], value, f"{where}.{key}")
    elif isinstance(asked, list):
        assert len(stored) == len(asked), where
        for i, value in enumerate(asked):
            holds(stored[i], value, f"{where}[{i}]")
    else:
        assert stored == asked, f"{where}: {stored!r} instead of {asked!r}"
