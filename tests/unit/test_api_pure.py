"""Tests the pure parts of API access: token bucket, frames, responses, Event book, Node, names in certificates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule._engine import Engine, EngineOptions, OwnNode
from ferrule.source.api import own_node
from ferrule.source.api.event_book import BURST, PATCH_SECONDS, QUEUE_LIMIT, SERIES_SECONDS, Event, EventBook, Regarding
from ferrule.source.api.frames import FrameCutter, FrameTooLarge
from ferrule.source.api.limiter import TokenBucket
from ferrule.source.api.outcome import Cause, from_answer
from ferrule.source.api.resources import resources

TLS = Path(__file__).parent.parent / "data" / "tls"

# ---------------------------------------------------------------- limiter


def test_a_burst_at_once_then_one_by_one() -> None:
    bucket = TokenBucket(qps=5, burst=3)
    assert [bucket.reserve(0.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.2, 0.4])
    assert bucket.reserve(100.0) == 0.0
    assert bucket.reserve(50.0) == 0.0, "a clock that goes back takes nothing away"


def test_zero_means_the_defaults_and_negative_no_limit() -> None:
    assert [TokenBucket(0, 0).qps, TokenBucket(0, 0).burst] == [5.0, 10]
    unlimited = TokenBucket(-1, 1)
    assert {unlimited.reserve(0.0) for _ in range(100)} == {0.0}


# ---------------------------------------------------------------- frames


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"x") + b"\n"), max_size=8), st.data())
def test_any_split_of_the_stream_yields_the_same_frames(lines: list[bytes], data: st.DataObject) -> None:
    body = b"".join(lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    cutter, out = FrameCutter(), []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        whole = cutter.feed(body[start:end])
        assert whole == b"" or whole.endswith(b"\n")
        out.append(whole)
    assert b"".join(out) == b"".join(lines)
    assert cutter.held == len(b"rest")


def test_a_line_without_end_is_refused_before_it_takes_the_memory() -> None:
    cutter = FrameCutter(limit=100)
    cutter.feed(b"x" * 100)
    with pytest.raises(FrameTooLarge, match="100 bytes"):
        cutter.feed(b"y")


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("status", "body", "header", "expected"),
    [
        (410, {"reason": "Expired", "message": "too old"}, None, {"expired": True, "detail": "too old"}),
        (429, {"message": "slow down"}, "7", {"retry_after": 7.0, "expired": False}),
        (503, {"message": "x", "details": {"retryAfterSeconds": 3}}, None, {"retry_after": 3.0}),
        (503, {"message": "x"}, "Wed, 21 Oct 2026 07:28:00 GMT", {"retry_after": None}),
        (504, {"details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}, None, {"version_too_large": True}),
        (504, {"message": "Too large resource version: 9, current: 1"}, None, {"version_too_large": True}),
        (502, "<html>\n<h1>Bad   Gateway", None, {"detail": "<html> <h1>Bad Gateway", "reason": ""}),
        (500, "", None, {"detail": "no text"}),
        (500, [1], None, {"detail": "[1]"}),
    ],
)
def test_an_answer_is_read_for_what_it_means(
    status: int, body: object, header: str | None, expected: dict[str, object]
) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = from_answer("https://x", status, raw, header)
    assert (error.cause, error.status) == (Cause.STATUS, status)
    assert {name: getattr(error, name) for name in expected} == expected


def test_we_ask_for_what_kube_proxy_asks_for() -> None:
    wanted = resources("node-1")
    assert {kind: (r.path, r.selectors) for kind, r in wanted.items()} == {
        "Service": (
            "/api/v1/services",
            {"labelSelector": "!service.kubernetes.io/service-proxy-name", "fieldSelector": "spec.clusterIP!=None"},
        ),
        "EndpointSlice": (
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        "Node": ("/api/v1/nodes", {"fieldSelector": "metadata.name=node-1"}),
    }


# ---------------------------------------------------------------- event book

NODE = Regarding("Node", "node-1")
STARTING = Event("Normal", "Starting", "StartKubeProxy", NODE)


def service_event(number: int) -> Event:
    return Event("Warning", "ServiceNotProgrammed", "Program", Regarding("Service", f"s{number}", "shop"), "why")


def test_the_first_is_created_as_stock_writes_it() -> None:
    book = EventBook("kube-proxy", "kube-proxy-host")
    book.add(STARTING, 0.0, 1_700_000_000.25)
    request = book.next_request(0.0)
    assert request is not None
    assert (request.method, request.path) == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert json.loads(request.body) == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"node-1.{1_700_000_000_250_000_000:x}", "namespace": "default"},
        "eventTime": "2023-11-14T22:13:20.250000Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-host",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
        "note": "",
        "type": "Normal",
    }


def test_a_repetition_continues_the_series_and_is_sent_at_intervals() -> None:
    book = EventBook("kube-proxy", "i")
    book.add(service_event(1), 0.0, 0.0)
    created = book.next_request(0.0)
    assert created is not None
    for second in range(1, 100):
        book.add(service_event(1), float(second), float(second))
        assert book.next_request(float(second)) is None
    # time: a number for pure code
    assert book.wait(100.0) == pytest.approx(PATCH_SECONDS - 100)
    patch = book.next_request(PATCH_SECONDS)
    assert patch is not None
    assert patch.method == "PATCH"
    assert patch.path == f"{created.path}/{json.loads(created.body)['metadata']['name']}"
    assert json.loads(patch.body) == {"series": {"count": 100, "lastObservedTime": "1970-01-01T00:01:39.000000Z"}}
    assert book.wait(PATCH_SECONDS) is None  # time: a number for pure code
    late = 99 + SERIES_SECONDS
    book.add(service_event(1), late, late)
    again = book.next_request(late)
    assert again is not None
    assert again.method == "POST", "after calm it is a new one"


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 30)), max_size=200))
def test_never_more_than_a_few_a_minute_and_never_more_waiting_than_the_limit(steps: list[tuple[int, float]]) -> None:
    book, now, sent = EventBook("kube-proxy", "i"), 0.0, []
    for number, later in steps:
        now += later
        for extra in range(30):
            book.add(service_event(number + extra), now, now)
        while book.next_request(now) is not None:
            sent.append(now)
        waiting = len(book._waiting)
        assert waiting <= QUEUE_LIMIT
    for start in sent:
        assert len([at for at in sent if start <= at < start + 60]) <= BURST + 3


def test_a_lost_event_is_created_again_even_while_it_waits() -> None:
    book = EventBook("kube-proxy", "i")
    book.add(STARTING, 0.0, 0.0)
    book.lost(STARTING)
    assert book.next_request(0.0) is not None
    book.lost(STARTING)
    book.add(STARTING, 1.0, 1.0)
    request = book.next_request(1.0)
    assert request is not None
    assert request.method == "POST"


def test_what_the_server_would_refuse_is_made_to_fit() -> None:
    book = EventBook("kube-proxy", "i" * 300)
    book.add(Event("Warning", "R", "A", Regarding("Node", "n" * 253), "ü" * 2000), 0.0, 1e9)
    request = book.next_request(0.0)
    assert request is not None
    body = json.loads(request.body)
    assert len(body["note"].encode()) <= 1024
    assert len(body["reportingInstance"]) == 128
    assert len(body["metadata"]["name"]) <= 253


# ---------------------------------------------------------------- own node


def node(*addresses: tuple[str, str], **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "spec": spec,
        "status": {"addresses": [{"type": t, "address": a} for t, a in addresses]},
    }


def read(thing: dict[str, Any]) -> OwnNode | None:
    engine = Engine(EngineOptions(node_name="node-1"))
    engine.replace("Node", [json.dumps([thing]).encode()])
    return engine.own_node()


def test_the_engine_reads_our_node_and_no_other() -> None:
    found = read(node(("InternalIP", "fd00::1"), ("ExternalIP", "192.0.2.1"), ("InternalIP", "fd00::2")))
    assert found is not None
    assert (found.node_ips, found.addresses) == (("fd00::1", "192.0.2.1"), ("fd00::1", "fd00::2", "192.0.2.1"))
    assert (found.pod_cidrs, found.eligible) == ((), True)
    assert found == read(node(("InternalIP", "fd00::1"), ("ExternalIP", "192.0.2.1"), ("InternalIP", "fd00::2")))
    assert found != read(node(("InternalIP", "fd00::1")))
    other = node() | {"metadata": {"name": "node-2"}}
    assert read(other) is None


@pytest.mark.parametrize(
    ("spec", "deleted", "eligible"),
    [
        ({}, None, True),
        ({"taints": [{"key": "other"}, {"key": "ToBeDeletedByClusterAutoscaler"}]}, None, False),
        ({}, "2026-11-23T21:57:53Z", False),
    ],
)
def test_what_makes_a_node_ineligible(spec: dict[str, Any], deleted: str | None, eligible: bool) -> None:
    thing = node(**spec)
    thing["metadata"]["deletionTimestamp"] = deleted
    found = read(thing)
    assert found is not None
    assert found.eligible is eligible


def test_differences_name_what_changed() -> None:
    old = read(node(("InternalIP", "192.0.2.1"), podCIDRs=["10.1.0.0/24"]))
    moved = read(node(("InternalIP", "192.0.2.2"), podCIDR="10.2.0.0/24"))
    assert old is not None
    assert moved is not None
    assert own_node.differences("node-1", old, old, pod_cidrs=True) == []
    assert own_node.differences("node-1", old, moved, pod_cidrs=False) == [
        "Node node-1: its IPs changed from 192.0.2.1 to 192.0.2.2"
    ]
    assert own_node.differences("node-1", old, moved, pod_cidrs=True)[1:] == [
        "Node node-1: its podCIDRs changed from 10.1.0.0/24 to 10.2.0.0/24"
    ]


def test_the_node_follows_lists_and_frames_and_counts_only_changes_of_rules() -> None:
    engine = Engine(EngineOptions(node_name="node-1"))

    def event(type_: str, thing: dict[str, Any]) -> int:
        return engine.ingest("Node", json.dumps({"type": type_, "object": thing}).encode() + b"\n").changed

    def ips() -> tuple[str, ...] | None:
        found = engine.own_node()
        return None if found is None else found.node_ips

    first = node(("InternalIP", "192.0.2.1"))
    engine.replace("Node", [json.dumps({"items": [first]}).encode()])
    assert ips() == ("192.0.2.1",)
    assert event("BOOKMARK", {"metadata": {"resourceVersion": "7"}}) == 0
    assert event("MODIFIED", first | {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}}) == 0
    found = engine.own_node()
    assert found is not None
    assert not found.eligible
    assert event("DELETED", first) == 1
    assert ips() is None
    assert event("ADDED", node(("InternalIP", "192.0.2.2"))) == 1
    assert ips() == ("192.0.2.2",)
    engine.replace("Node", [b'{"items": []}'])
    assert ips() is None
