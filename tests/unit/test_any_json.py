"""Feeds arbitrary JSON to every decoder: it is accepted, or rejected with that decoder's error.

Each example is a valid document in which one value, at any depth, is replaced by any JSON value or removed.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ferrule._engine import Engine, EngineOptions
from ferrule._engine import InputError as InputErrorOfEngine
from ferrule.config.load import parse_config
from ferrule.config.schema import API_VERSION, KIND, Settings
from ferrule.errors import ConfigError, InputError
from ferrule.render import render
from ferrule.source.api import exec_plugin
from ferrule.source.api.kubeconfig import read_kubeconfig
from ferrule.source.api.outcome import Cause, from_answer
from ferrule.source.manifests.documents import parse
from ferrule.types import KINDS, Kind

TEXT = st.text(max_size=8) | st.sampled_from(
    ["Service", "Node", "List", "\0", "\x1b[2J", "a\nb", "10.0.0.1", "-1", "80"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

Path_ = tuple[str | int, ...]


def _paths(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield from _paths(child, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """Draws `valid` with one value replaced or removed."""
    path = draw(st.sampled_from(list(_paths(valid))))
    if not path:
        return draw(JSON)
    whole = copy.deepcopy(valid)
    *way, last = path
    inner = whole
    for key in way:
        inner = inner[key]
    if draw(st.booleans()) and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = draw(JSON)
    return whole


NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}, "deletionTimestamp": None},
    "spec": {"podCIDRs": ["10.1.0.0/24"], "podCIDR": "10.1.0.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}]},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"],
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
    },
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"port": 8080}],
    "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": True}, "nodeName": "node-1"}],
}
MANIFESTS: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": [NODE, SERVICE, SLICE]}
NEIGHBOUR = {"kind": "Service", "metadata": {"name": "ok"}, "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}}


@given(mutated(MANIFESTS))
@example({"kind": "List", "items": 5})
@example({"kind": "ServiceList", "items": {"a": 1}})
@example({"kind": "List", "items": "text"})
@example({"kind": ["List"], "items": []})
def test_a_manifest_of_any_shape_is_taken_or_located(document: Any) -> None:
    for file, text in (("f.json", orjson.dumps(document)), ("f.yaml", yaml.safe_dump(document).encode())):
        parsed = parse(file, text)
        for complaint in parsed.complaints:
            assert str(complaint).startswith(f"{file}, document ")
            assert complaint.reason
        for manifest in parsed.manifests:
            assert orjson.loads(manifest.raw)["metadata"]["name"] == manifest.name


@pytest.mark.parametrize(
    ("items", "kind"),
    [("5", "a number"), ("text", "a string"), ("{a: 1}", "an object"), ("true", "true or false"), ("1.5", "a number")],
)
def test_items_that_are_no_list_are_located(items: str, kind: str) -> None:
    parsed = parse("f.yaml", f"kind: List\nitems: {items}\n".encode())
    assert [str(c) for c in parsed.complaints] == [f"f.yaml, document 1: items: is not a list but {kind}"]
    assert parse("f.yaml", b"kind: List\nitems: null\n").complaints == ()


@given(mutated(MANIFESTS))
@example(MANIFESTS | {"items": [NODE | {"status": {"addresses": 5}}]})
@example(MANIFESTS | {"items": [NODE | {"status": {"addresses": [{"type": "InternalIP"}]}}]})
@example(MANIFESTS | {"items": [NODE | {"status": {"addresses": [{"type": "InternalIP", "address": 7}]}}]})
@example(MANIFESTS | {"items": [NODE | {"status": {"addresses": [{"type": "InternalIP", "address": "x"}]}}]})
@example(MANIFESTS | {"items": [NODE | {"status": {"addresses": [{"type": ["InternalIP"], "address": "192.0.2.1"}]}}]})
def test_render_prints_what_is_valid_beside_objects_of_any_shape(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "any.json").write_bytes(orjson.dumps(document))
        Path(folder, "ok.json").write_bytes(orjson.dumps(NEIGHBOUR))
        rendered = render([folder], Settings(), "node-1")
    assert b"10.0.0.9" in rendered.texts["ipv4"]


OBJECTS: dict[Kind, dict[str, Any]] = {"Service": SERVICE, "EndpointSlice": SLICE, "Node": NODE}


@st.composite
def lists(draw: st.DrawFn) -> tuple[Kind, Any, int]:
    """Draws a kind, a list of any shape, and the offsets at which its text is split."""
    kind = draw(st.sampled_from(KINDS))
    return kind, draw(mutated({"kind": f"{kind}List", "items": [OBJECTS[kind]]})), draw(st.integers(0, 400))


@given(lists())
def test_an_api_list_of_any_shape_is_taken_or_refused_whole(drawn: tuple[Kind, Any, int]) -> None:
    kind, document, cut = drawn
    text = orjson.dumps(document)
    engine = Engine(EngineOptions(node_name="node-1"))
    try:
        at_once = engine.replace(kind, [text]).in_sync
    except InputErrorOfEngine:
        at_once = False
    engine.begin_list(kind)
    try:
        engine.feed_list(kind, text[:cut])
        engine.feed_list(kind, text[cut:])
        in_pieces = engine.end_list(kind).in_sync
    except InputErrorOfEngine:
        in_pieces = False
    # An API server sends no array and no item that is not an object: only `replace`, for manifests, admits them.
    assert at_once or not in_pieces
    for problem in engine.problems():
        assert problem.reason


@st.composite
def frames(draw: st.DrawFn) -> tuple[Kind, Any]:
    """Draws a kind and a watch event of any shape."""
    kind = draw(st.sampled_from(KINDS))
    return kind, draw(mutated({"type": draw(st.sampled_from(EVENTS)), "object": OBJECTS[kind]}))


EVENTS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")


@given(frames())
def test_a_watch_frame_of_any_shape_costs_no_frame_beside_it(drawn: tuple[Kind, Any]) -> None:
    kind, event = drawn
    after = OBJECTS[kind] | {"metadata": OBJECTS[kind]["metadata"] | {"name": "node-1", "resourceVersion": "9"}}
    engine = Engine(EngineOptions(node_name="node-1"))
    engine.replace(kind, [b'{"items": []}'])
    report = engine.ingest(kind, orjson.dumps(event) + b"\n" + orjson.dumps({"type": "ADDED", "object": after}) + b"\n")
    assert report.resource_version == "9"


@given(mutated(NODE), mutated({"kind": "NodeList", "items": [NODE]}), mutated({"type": "MODIFIED", "object": NODE}))
def test_our_node_of_any_shape(node: Any, listed: Any, event: Any) -> None:
    engine = Engine(EngineOptions(node_name="node-1"))
    for page in ([node], listed):
        with contextlib.suppress(InputErrorOfEngine):
            engine.replace("Node", [orjson.dumps(page)])
    engine.ingest("Node", orjson.dumps(event) + b"\n")
    found = engine.own_node()
    assert found is None or [str(ip_address(address)) for address in found.addresses] == list(found.addresses)


KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    "clusters": [
        {
            "name": "k",
            "cluster": {"server": "https://192.0.2.1:6443", "certificate-authority-data": "YQ==", "proxy-url": ""},
        }
    ],
    "users": [{"name": "u", "user": {"token": "t"}}],
}
EXEC = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "plugin",
    "args": ["a"],
    "env": [{"name": "A", "value": "b"}],
}
WAYS: list[dict[str, Any]] = [
    {"token": "t"},
    {"tokenFile": "/token"},
    {"username": "a", "password": "b"},
    {"client-certificate-data": "YQ==", "client-key-data": "YQ=="},
    {"exec": EXEC},
]


@given(st.sampled_from(WAYS).flatmap(lambda way: mutated(KUBECONFIG | {"users": [{"name": "u", "user": way}]})))
@example(KUBECONFIG | {"users": [{"name": "u", "user": {"tokenFile": "a\0b"}}]})
@example(KUBECONFIG | {"users": [{"name": "u", "user": {"exec": EXEC | {"command": "./a\0b"}}}]})
@example(KUBECONFIG | {"clusters": [{"name": "k", "cluster": {"server": "https://[::1"}}]})
@example(KUBECONFIG | {"clusters": [{"name": "k", "cluster": {"server": "https://h", "proxy-url": "http://[a"}}]})
def test_a_kubeconfig_of_any_shape(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kubeconfig")
        path.write_bytes(orjson.dumps(document))
        try:
            read_kubeconfig(path)
        except InputError as error:
            assert folder in str(error) or "/token" in str(error), "the message names the file"


CONFIG = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "mode": "iptables",
    "featureGates": {"ComponentFlagz": True},
    "clientConnection": {"kubeconfig": "", "qps": 5, "burst": 10},
    "logging": {
        "flushFrequency": "5s",
        "verbosity": 1,
        "vmodule": [{"filePattern": "a", "verbosity": 1}],
        "options": {"text": {}},
    },
    "iptables": {"masqueradeBit": 14, "syncPeriod": "30s"},
    "conntrack": {"maxPerCore": 1, "tcpEstablishedTimeout": "1h"},
    "detectLocal": {"bridgeInterface": "b"},
    "nodePortAddresses": ["10.0.0.0/8", "primary"],
    "clusterCIDR": "10.0.0.0/8",
    "bindAddress": "0.0.0.0",
    "healthzBindAddress": "0.0.0.0:10256",
    "oomScoreAdj": -999,
    "ferrule": {"dispatch": "auto", "firstServices": ["a/b"]},
}


@given(mutated(CONFIG), st.booleans())
def test_a_configuration_of_any_shape(document: Any, strict: bool) -> None:
    try:
        settings, _ = parse_config(orjson.dumps(document), "config.conf", strict=strict)
    except ConfigError as error:
        assert all(problem.startswith("config.conf: ") for problem in error.problems)
    else:
        assert isinstance(settings, Settings)


CREDENTIAL = {
    "token": "t",
    "clientCertificateData": "c",
    "clientKeyData": "k",
    "expirationTimestamp": "2030-01-01T00:00:00Z",
}


@given(mutated(CREDENTIAL))
@example({"token": "\ud800"})
@example({"token": "a\nb"})
@example({"token": "t", "clientCertificateData": "\ud800", "clientKeyData": "k"})
@example({"token": "t", "expirationTimestamp": "0001-01-01T00:00:00+23:59"})
@example({"token": "t", "expirationTimestamp": 7})
def test_an_exec_plugins_answer_of_any_shape(status: Any) -> None:
    try:
        credential = exec_plugin.credential("plugin", status)
    except InputError as error:
        assert str(error).startswith("exec plugin plugin: ")
    else:
        assert f"Bearer {credential.token}".isprintable()


STATUS = {
    "kind": "Status",
    "message": "no",
    "reason": "Forbidden",
    "code": 403,
    "details": {"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge", "message": "m"}]},
}


@given(mutated(STATUS), st.none() | st.text(max_size=5), st.integers(300, 599))
@example(STATUS | {"details": {"retryAfterSeconds": -5}}, None, 429)
@example(STATUS | {"details": {"retryAfterSeconds": True}}, None, 429)
@example(STATUS, "²", 429)
def test_an_error_body_of_any_shape(body: Any, retry_after: str | None, status: int) -> None:
    for sent in (orjson.dumps(body), orjson.dumps(body)[:-1]):
        error = from_answer("https://h", status, sent, retry_after)
        assert (error.cause, error.status) == (Cause.STATUS, status)
        assert error.retry_after is None or error.retry_after > 0
        assert error.detail
