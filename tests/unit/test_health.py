"""Tests when the proxy is healthy, the node eligible, and everything ready; bodies as in kube-proxy's recording."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ferrule.observe.health import (
    FIRST_SYNC,
    MEANING,
    NEVER,
    ProxyHealth,
    Readiness,
    Subsystem,
    rfc3339,
)

STOCK = Path(__file__).parent.parent / "data" / "stock"

PATIENCE = 60.0


class Clocks:
    """A monotonic and a wall clock, which tests advance."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall_ns = 1_795_471_067_839_461_748

    def health(self) -> ProxyHealth:
        return ProxyHealth(PATIENCE, clock=lambda: self.seconds, wall_ns=lambda: self.wall_ns)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def recorded(name: str) -> bytes:
    return (STOCK / name).read_bytes().partition(b"\n\n")[2]


def shape(body: bytes) -> str:
    """Returns the body with every time replaced by a word, for comparison of keys, their order, flags and white
    space."""
    return re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"', '"TIME"', body.decode())


@pytest.mark.parametrize("path", ["healthz", "livez"])
def test_bodies_are_stocks(path: str, clocks: Clocks) -> None:
    health = clocks.health()
    health.updated("ipv6")
    health.updated("ipv4")
    health.set_node_eligible(True)
    verdict = getattr(health, path)()
    assert verdict.status == 200
    assert shape(verdict.body) == shape(recorded(f"http-{path}.txt"))


def test_times_read_as_in_the_recording(clocks: Clocks) -> None:
    times = re.findall(r'"(\d{4}-[^"]+Z)"', recorded("http-healthz.txt").decode())
    assert len(times) == 4
    assert rfc3339(clocks.wall_ns) == times[2]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        (1_010_000_000, "1970-01-01T00:00:01.01Z"),
    ],
)
def test_trailing_zeros_are_cut(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text


def test_before_the_first_sync_the_proxy_is_healthy_and_has_no_status(clocks: Clocks) -> None:
    health = clocks.health()
    health.queued("ipv4")
    clocks.seconds += 100 * PATIENCE
    body = json.loads(health.livez().body)
    assert health.livez().ok
    assert "status" not in body
    assert body["lastUpdated"] == body["currentTime"]


def test_a_change_that_waits_too_long_in_one_family_makes_it_unhealthy(clocks: Clocks) -> None:
    health = clocks.health()
    health.set_node_eligible(True)
    health.updated("ipv4")
    clocks.wall_ns += 5 * 10**9
    health.updated("ipv6")
    health.queued("ipv4")
    clocks.seconds += PATIENCE / 2
    health.queued("ipv4")  # a newer change does not make the older one young again
    clocks.seconds += PATIENCE / 2 - 0.001
    assert health.healthy
    clocks.seconds += 0.001
    clocks.wall_ns += 60 * 10**9
    assert not health.healthy
    for verdict in (health.healthz(), health.livez()):
        body = json.loads(verdict.body)
        assert verdict.status == 503
        assert body["healthy"] is False
        assert body["status"]["IPv4"]["healthy"] is False
        assert body["status"]["IPv6"]["healthy"] is True
        assert body["lastUpdated"] == body["status"]["IPv6"]["lastUpdated"] != body["currentTime"]
    health.updated("ipv4")
    assert health.healthz().ok


def test_a_jump_of_the_wall_clock_changes_nothing(clocks: Clocks) -> None:
    health = clocks.health()
    health.updated("ipv4")
    health.queued("ipv4")
    for jump in (10 * 365 * 86400, -20 * 365 * 86400):
        clocks.wall_ns += jump * 10**9
        assert health.livez().ok


def test_a_node_that_leaves_fails_healthz_only(clocks: Clocks) -> None:
    health = clocks.health()
    health.updated("ipv4")
    assert health.healthz().status == 503, "no word of the node yet: not eligible, as in kube-proxy"
    health.set_node_eligible(False)
    clocks.wall_ns += 10**9
    body = json.loads(health.healthz().body)
    assert (body["nodeEligible"], body["healthy"]) == (False, True)
    assert body["lastUpdated"] == body["status"]["IPv4"]["lastUpdated"] != body["currentTime"]
    assert health.livez().ok
    assert b"nodeEligible" not in health.livez().body


def test_never_updated_and_not_eligible_shows_the_zero_time(clocks: Clocks) -> None:
    assert json.loads(clocks.health().healthz().body)["lastUpdated"] == NEVER


# ---------------------------------------------------------------- readiness


def test_ready_when_no_reason_is_left_and_not_before() -> None:
    seen: list[dict[Subsystem, str]] = []
    readiness = Readiness(
        {Subsystem.LISTS: "no list yet", FIRST_SYNC["ipv4"]: "not confirmed"}, on_change=lambda r: seen.append(dict(r))
    )
    assert readiness.readyz(in_full=True).status == 503
    readiness.release(Subsystem.LISTS)
    first = json.loads(readiness.readyz(in_full=True).body)
    assert first == {"ready": False, "reasons": {"first-sync-ipv4": "not confirmed"}}
    public = json.loads(readiness.readyz(in_full=False).body)
    assert public == {"ready": False, "reasons": {"first-sync-ipv4": MEANING[Subsystem.FIRST_SYNC_IPV4]}}
    readiness.release(FIRST_SYNC["ipv4"])
    assert readiness.readyz(in_full=True).status == 200
    assert json.loads(readiness.readyz(in_full=True).body) == {"ready": True, "reasons": {}}
    assert MEANING.keys() == set(Subsystem)
    readiness.release(FIRST_SYNC["ipv4"])  # again: nothing to tell
    readiness.report(Subsystem.API_ACCESS, "403 Forbidden: services")
    readiness.report(Subsystem.API_ACCESS, "403 Forbidden: services")
    readiness.report(Subsystem.API_ACCESS, "401 Unauthorized")
    assert readiness.reasons == {Subsystem.API_ACCESS: "401 Unauthorized"}
    readiness.report(Subsystem.API_ACCESS, None)
    assert readiness.ready
    assert [len(reasons) for reasons in seen] == [2, 1, 0, 1, 1, 0]
