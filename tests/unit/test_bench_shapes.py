"""Tests the bench's synthetic clusters, its numbers, and its verification of rules."""

from collections import Counter

import pytest
from bench import shapes, stats, verify
from bench.rows import tool
from hypothesis import given
from hypothesis import strategies as st

# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("label", ["10000x4", "500x500", "2000x4x3", "2000x4x3-dual", "1x1-dual"])
def test_a_label_names_one_shape(label: str) -> None:
    assert shapes.parse(label).label == label


@pytest.mark.parametrize("label", ["", "10", "0x4", "4x0", "10x4x0", "x", "10x4-triple", "60001x1", "60000x40"])
def test_an_invalid_shape_is_rejected_with_its_name(label: str) -> None:
    with pytest.raises(ValueError, match=repr(label)):
        shapes.parse(label)


def test_the_same_label_yields_the_same_objects() -> None:
    assert list(shapes.members(shapes.parse("30x4x2-dual"))) == list(shapes.members(shapes.parse("30x4x2-dual")))
    one, other = (shapes.rolling_update(shapes.parse("100x4"), 50, 60) for _ in range(2))
    assert one == other


def test_growing_creates_what_is_missing_and_nothing_else() -> None:
    small, large = shapes.parse("30x4"), shapes.parse("50x4")
    assert small.grows_into(large)
    assert not large.grows_into(small)
    assert not small.grows_into(shapes.parse("50x5"))
    assert [*shapes.members(small), *shapes.members(large, small.services)] == list(shapes.members(large))


def test_slices_hold_at_most_a_hundred_endpoints_and_all_of_them() -> None:
    shape = shapes.parse("2x250-dual")
    parts = list(shapes.slices(shape, 1))
    sizes = [(part["addressType"], len(part["endpoints"])) for part in parts]
    assert sizes == [("IPv4", 100), ("IPv4", 100), ("IPv4", 50), ("IPv6", 100), ("IPv6", 100), ("IPv6", 50)]
    assert len({part["metadata"]["name"] for part in parts}) == len(parts)
    found = [e["addresses"][0] for part in parts if part["addressType"] == "IPv4" for e in part["endpoints"]]
    assert found == shapes.endpoints_of(shape, 1)
    assert not set(found) & set(shapes.endpoints_of(shape, 0))


@pytest.mark.parametrize("label", ["30000x4", "3000x1x5"])
def test_addresses_and_node_ports_are_unique_and_in_the_servers_ranges(label: str) -> None:
    shape = shapes.parse(label)
    services = [shapes.service(shape, n) for n in range(shape.services)]
    ips = [one["spec"]["clusterIP"] for one in services]
    assert len(set(ips)) == len(ips)
    assert all(ip.startswith("10.96.") for ip in ips)
    ports = [port["nodePort"] for one in services for port in one["spec"]["ports"] if "nodePort" in port]
    assert ports
    assert len(set(ports)) == len(ports)
    assert all(30_000 <= port <= 32_767 for port in ports)
    assert all(shapes.service_number(ip) == n for n, ip in enumerate(ips))


def test_a_replaced_pod_has_an_unused_address() -> None:
    shape = shapes.parse("1000x4")
    own = {ip for n in range(shape.services) for ip in shapes.endpoints_of(shape, n)}
    fresh = Counter(ip for n in range(shape.services) for g in (1, 2, 1000) for ip in shapes.replaced(shape, n, g))
    new = {ip: count for ip, count in fresh.items() if ip not in own}
    assert len(new) == 3000
    assert set(new.values()) == {1}
    assert shapes.replaced(shape, 7, 0) == shapes.endpoints_of(shape, 7)


def test_a_rolling_update_has_its_rate_and_ends_as_it_began() -> None:
    shape = shapes.parse("6000x4")
    rate, writes, back = shapes.rolling_update(shape, 1, 30)
    assert rate == pytest.approx(4.0)
    assert len(writes) == 120
    assert {write[1] for write in writes} == {write[1] for write in back}
    original = {shapes.patch(shape, n, shapes.endpoints_of(shape, n))[1]: n for n in range(shape.services)}
    for method, path, body, _ in back:
        assert (method, body) == (
            "PATCH",
            shapes.patch(shape, original[path], shapes.endpoints_of(shape, original[path]))[2],
        )


# ---------------------------------------------------------------- numbers


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_a_value_with_that_share_at_or_below(values: list[float], percent: float) -> None:
    found = stats.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6


def test_p99_of_few_is_the_greatest() -> None:
    assert stats.percentile([3, 1, 2], 99) == 3
    assert stats.percentile(list(range(1, 101)), 99) == 99
    with pytest.raises(ValueError, match="nothing"):
        stats.percentile([], 50)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (201.7, "202 s"),
        (12.34, "12.3 s"),
        (1, "1 s"),
        (0.0123, "12.3 ms"),
        (0.2, "200 ms"),
        (4.2e-6, "4.2 µs"),
        (0, "0 µs"),
    ],
)
def test_seconds_as_people_read_them(value: float, text: str) -> None:
    assert stats.seconds(value) == text


# ---------------------------------------------------------------- checking rules

TREE = """*nat
:KUBE-SERVICES - [0:0]
:PART-A - [0:0]
:PART-B - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-A - [0:0]
:HALF - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
:KUBE-SEP-3 - [0:0]
-A KUBE-SERVICES -d 10.96.4.0/24 -j PART-A
-A KUBE-SERVICES -d 10.96.5.0/24 -j PART-B
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30000 -j KUBE-SVC-A
-A PART-A -d 10.96.4.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A
-A PART-B -d 10.96.5.1/32 -p udp -m udp --dport 80 -j KUBE-SEP-3
-A KUBE-SVC-A ! -s 10.128.0.0/9 -d 10.96.4.1/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j HALF
-A KUBE-SVC-A -j KUBE-SEP-2
-A HALF -j KUBE-SEP-1
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.129.0.1:8080
-A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.129.0.2:8080
-A KUBE-SEP-3 -p udp -m udp -j DNAT --to-destination 10.129.0.3:8080
COMMIT
*filter
:KUBE-SEP-NOT - [0:0]
COMMIT
"""


def test_saved_rules_are_followed_through_trees() -> None:
    saved = verify.Saved(TREE)
    assert saved.behind("10.96.4.1") == {"10.129.0.1:8080", "10.129.0.2:8080"}
    assert saved.behind("10.96.5.1") == {"10.129.0.3:8080"}
    assert saved.behind("10.96.4.2") == set()
    assert saved.count("KUBE-SEP-") == 3
    assert saved.order("tcp") == []


def test_the_order_of_a_flat_chain() -> None:
    flat = TREE.replace("-A PART-A", "-A KUBE-SERVICES").replace("-A PART-B", "-A KUBE-SERVICES")
    saved = verify.Saved(flat)
    assert (saved.order("tcp"), saved.order("udp")) == (["10.96.4.1"], ["10.96.5.1"])


def test_what_the_engine_writes_passes_the_check_and_less_does_not() -> None:
    shape = shapes.parse("60x3x2")
    text = dict(tool.text(shape, "legacy"))["iptables-legacy-restore"].decode()
    saved = verify.Saved(text)
    assert saved.count("KUBE-SEP-") == shape.total
    for number in range(shape.services):
        assert saved.behind(shapes.cluster_ip(number)) == verify.destinations(shape, number)
    victim = [line for line in text.splitlines() if "--to-destination" in line][77]
    broken = verify.Saved(text.replace(victim + "\n", ""))
    wrong = [n for n in range(60) if broken.behind(shapes.cluster_ip(n)) != verify.destinations(shape, n)]
    assert len(wrong) == 1


def test_the_smallest_restore_is_one_services_chains_in_one_transaction() -> None:
    shape = shapes.parse("50x4")
    text = dict(tool.text(shape, "nft"))["iptables-nft-restore"]
    lines = tool.one_service(text).decode().splitlines()
    assert lines[0] == "*nat"
    assert lines.count("COMMIT") == 1
    declared = [line.split()[0][1:] for line in lines if line.startswith(":")]
    assert [name[:9] for name in declared] == ["KUBE-SEP-", "KUBE-SVC-"]
    assert {line.split()[1] for line in lines if line.startswith("-A")} == set(declared)
