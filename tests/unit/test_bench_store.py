"""The bench stores the same objects in etcd as the API server would."""

from __future__ import annotations

import base64

import pytest
from bench import shapes, store

SHAPE = shapes.parse("30x4-dual")


def test_what_the_server_added_to_one_is_added_to_its_like() -> None:
    sent = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    stored = {
        "kind": "Service",
        "metadata": {"name": "a", "generation": 1},
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}], "type": "ClusterIP"},
        "status": {},
    }
    more = store.missing(sent, stored)
    assert more == {"metadata": {"generation": 1}, "spec": {"type": "ClusterIP"}, "status": {}}
    like = {"kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": []}}
    assert store.merged(like, more) == {
        "kind": "Service",
        "metadata": {"name": "b", "generation": 1},
        "spec": {"ports": [], "type": "ClusterIP"},
        "status": {},
    }
    assert like["spec"] == {"ports": []}, "the sender's object is not changed"


def test_only_objects_of_one_kind_are_alike() -> None:
    services = [shapes.service(SHAPE, number) for number in (1, 2, shapes.UDP_AT, shapes.NODE_PORT_EVERY)]
    slices = [next(shapes.slices(SHAPE, number)) for number in (1, 2, shapes.UDP_AT)]
    kinds = [store.likeness(one) for one in (*services, *slices, list(shapes.slices(SHAPE, 1))[1])]
    assert kinds[0] == kinds[1]
    assert kinds[4] == kinds[5]
    assert len(set(kinds)) == 6


def test_each_cluster_ip_is_taken_for_its_service() -> None:
    service = shapes.service(SHAPE, 3)
    service["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    taken = list(store.addresses(service))
    assert [one["metadata"]["name"] for one in taken] == service["spec"]["clusterIPs"]
    assert [one["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] for one in taken] == ["IPv4", "IPv6"]
    assert {one["spec"]["parentRef"]["name"] for one in taken} == {shapes.name(3)}


@pytest.mark.parametrize(("ports", "data"), [([], b""), ([30000], b"\x01"), ([30000, 30009, 30009], b"\x02\x01")])
def test_node_ports_are_bits_of_their_range(ports: list[int], data: bytes) -> None:
    services = [{"spec": {"ports": [{"port": 80, "nodePort": port}]}} for port in ports]
    allocation = store.node_ports([*services, {"spec": {"ports": [{"port": 80}]}}, {"spec": {"type": "ExternalName"}}])
    assert base64.b64decode(allocation["data"]) == data
    assert allocation["range"] == "30000-32767"


def test_keys_are_the_api_servers() -> None:
    puts = [store.put(one) for one in (shapes.service(SHAPE, 1), next(shapes.slices(SHAPE, 1)))]
    keys = [base64.b64decode(one["key"]).decode() for one in puts]
    assert keys == ["/registry/services/specs/bench/svc-00001", "/registry/endpointslices/bench/svc-00001-0"]
