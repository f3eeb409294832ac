"""Tests the list/watch state machine: a table of transitions, and any sequence of failures."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.source.api.reflector import (
    ABSENT_MAX,
    BACKOFF_FIRST,
    BACKOFF_JITTER,
    BACKOFF_MAX,
    CALM,
    FROM_CACHE,
    MOST_RECENT,
    RELIST_AFTER,
    RETRY_AFTER_MAX,
    WATCH_SECONDS,
    WATCH_SPACING,
    Action,
    Ended,
    Failed,
    Failure,
    List,
    Listed,
    Progress,
    Reflector,
    Signal,
    Wait,
    Waited,
    Watch,
)

SECONDS = WATCH_SECONDS[0]


def machine() -> Reflector:
    return Reflector(lambda: 0.0)


def watching(version: str = "10") -> Reflector:
    made = machine()
    made.start()
    assert made.step(Listed(version), 0.0) == Watch(version, SECONDS)
    return made


def test_it_begins_with_a_list_from_the_cache() -> None:
    assert machine().start() == List(FROM_CACHE)


@pytest.mark.parametrize(
    ("at", "signal", "expected", "after_wait"),
    [
        (0.1, Ended(), Wait(BACKOFF_FIRST), Watch("10", SECONDS)),
        (2.0, Failed(), Wait(BACKOFF_FIRST), Watch("10", SECONDS)),
        (2.0, Failed(Failure.EXPIRED), Wait(BACKOFF_FIRST), List(MOST_RECENT)),
        (2.0, Failed(Failure.TOO_LARGE), Wait(BACKOFF_FIRST), List(MOST_RECENT)),
        (2.0, Failed(Failure.ABSENT), Wait(BACKOFF_FIRST), Watch("10", SECONDS)),
        (2.0, Failed(retry_after=17.0), Wait(17.0), Watch("10", SECONDS)),
        (2.0, Failed(retry_after=1e9), Wait(RETRY_AFTER_MAX), Watch("10", SECONDS)),
        (2.0, Failed(retry_after=0.1), Wait(BACKOFF_FIRST), Watch("10", SECONDS)),
    ],
)
def test_how_a_watch_ends_says_what_is_next(at: float, signal: Signal, expected: Action, after_wait: Action) -> None:
    made = watching()
    assert made.step(signal, at) == expected
    assert made.step(Waited(), at + 1) == after_wait


@pytest.mark.parametrize("at", [2.0, 300.0])
def test_a_watch_that_lasted_is_followed_by_the_next_without_a_wait(at: float) -> None:
    made = watching()
    assert made.step(Ended(), at) == Watch("10", SECONDS)
    assert made.step(Ended(), 2 * at) == Watch("10", SECONDS)


def test_bookmarks_and_events_move_the_version_that_is_watched_from() -> None:
    made = watching()
    assert made.step(Progress("12"), 1.0) is None
    assert made.step(Progress(""), 1.0) is None, "frames without a version leave it"
    assert made.step(Ended(), 290.0) == Watch("12", SECONDS)


def test_a_short_watch_with_events_is_not_a_failure_but_spaced() -> None:
    made = watching()
    made.step(Progress("12"), 0.1)
    assert made.step(Ended(), 0.25) == Wait(WATCH_SPACING - 0.25)
    assert made.failures == 0
    assert made.step(Waited(), 1.0) == Watch("12", SECONDS)


def test_back_off_doubles_up_to_its_limit_and_calm_resets_it() -> None:
    made, waits, now = watching(), [], 0.0
    for _ in range(9):
        action = made.step(Failed(), now)
        assert isinstance(action, Wait)
        waits.append(action.seconds)
        now += action.seconds
        if isinstance(made.step(Waited(), now), List):
            made.step(Listed("11"), now)
    assert waits == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0], "a list that works in between is not calm"
    assert made.step(Failed(), now + CALM) == Wait(BACKOFF_FIRST)


def test_a_server_that_is_away_is_looked_for_often_and_costs_neither_version_nor_patience() -> None:
    made, waits, now = watching(), [], 1.0
    for _ in range(60):
        action = made.step(Failed(Failure.ABSENT), now)
        assert isinstance(action, Wait)
        waits.append(action.seconds)
        now += action.seconds
        assert made.step(Waited(), now) == Watch("10", SECONDS), "all nodes would list at once when it comes back"
    assert waits == [BACKOFF_FIRST, 1.6, *[ABSENT_MAX] * 58]
    assert made.failures == 0


def test_a_server_that_restarts_is_followed_again_soon() -> None:
    """Unreachable, not ready, and then a version that is too old: each for the first time."""
    made, now, waited = watching("77"), CALM, 0.0
    steps: list[tuple[Failed, Action]] = [
        (Failed(), Watch("77", SECONDS)),
        (Failed(Failure.ABSENT), Watch("77", SECONDS)),
        (Failed(), Watch("77", SECONDS)),
        (Failed(Failure.EXPIRED), List(MOST_RECENT)),
    ]
    for failed, then in steps:
        action = made.step(failed, now)
        assert isinstance(action, Wait)
        waited, now = waited + action.seconds, now + action.seconds
        assert made.step(Waited(), now) == then
    assert waited == pytest.approx(BACKOFF_FIRST + BACKOFF_FIRST + 2 * BACKOFF_FIRST + BACKOFF_FIRST)
    assert made.step(Listed("90"), now) == Watch("90", SECONDS)
    assert made.step(Failed(Failure.EXPIRED), now + 1) == Wait(2 * BACKOFF_FIRST), "but not again and again"
    made.step(Waited(), now)
    made.step(Listed("91"), now)
    assert made.step(Failed(Failure.EXPIRED), now + CALM + 1) == Wait(BACKOFF_FIRST), "calm forgets"


def test_after_five_failures_at_one_version_it_lists_again_but_nothing_older() -> None:
    made = watching("77")
    for number in range(1, RELIST_AFTER + 1):
        made.step(Failed(), 0.0)
        expected: Action = Watch("77", SECONDS) if number < RELIST_AFTER else List("77")
        assert made.step(Waited(), 0.0) == expected
    made.step(Failed(), 0.0)
    assert made.step(Waited(), 0.0) == List("77"), "a failed list is tried again in the same way"
    made.step(Failed(Failure.TOO_LARGE), 0.0)
    assert made.step(Waited(), 0.0) == List(MOST_RECENT)


@pytest.mark.parametrize("version", ["", "0"])
def test_a_list_without_a_version_is_a_failure(version: str) -> None:
    made = machine()
    made.start()
    assert made.step(Listed(version), 0.0) == Wait(BACKOFF_FIRST)
    assert made.version is None
    assert made.step(Waited(), 1.0) == List(FROM_CACHE)


# ---------------------------------------------------------------- any sequence

FAILURES = st.builds(Failed, st.sampled_from(Failure), st.none() | st.floats(0, 100))
ANSWERS = st.tuples(
    st.sampled_from(["fail", "work", "end", "progress"]),
    FAILURES,
    st.sampled_from([0.0, 0.01, 0.9, 5.0, 29.0, 31.0, 300.0]),
)


@given(st.lists(ANSWERS, max_size=120), st.floats(0, 0.999))
def test_whatever_the_server_does_requests_are_bounded_and_it_converges(
    answers: list[tuple[str, Failed, float]], luck: float
) -> None:
    made, now, version = Reflector(lambda: luck), 0.0, 10
    requests: list[tuple[float, Action]] = []
    counts, failures = Counter[Failure](), 0

    def follow(action: Action | None) -> Action:
        nonlocal now
        while isinstance(action, Wait):
            # time: what pure code wants
            assert 0 < action.seconds <= max(RETRY_AFTER_MAX, BACKOFF_MAX * (1 + BACKOFF_JITTER))
            now += action.seconds
            action = made.step(Waited(), now)
        assert action is not None
        requests.append((now, action))
        return action

    action = follow(made.start())
    for how, failed, lasts in answers:
        before = now
        now += lasts
        if how == "fail":
            if isinstance(action, Watch) and lasts >= CALM:
                counts.clear()
            kind = failed.failure
            gap = min(BACKOFF_FIRST * 2 ** min(counts[kind], 20), ABSENT_MAX if kind is Failure.ABSENT else BACKOFF_MAX)
            counts[kind] += 1
            action = follow(made.step(failed, now))
            assert now - before - lasts >= gap - 1e-9, "no request sooner than the back-off allows"
        elif isinstance(action, List):
            version += 1
            action = follow(made.step(Listed(str(version)), now))
        else:
            if how == "progress":
                version += 1
                assert made.step(Progress(str(version)), now) is None
            action = follow(made.step(Ended(), now))
            if lasts >= CALM:
                counts.clear()
            elif made.failures > failures:
                counts[Failure.OTHER] += 1
        failures = made.failures
    watches = [at for at, a in requests if isinstance(a, Watch)]
    gaps = [b - a for a, b in itertools.pairwise(watches)]
    assert all(gap >= min(WATCH_SPACING, BACKOFF_FIRST) - 1e-9 for gap in gaps)
    lists = [at for at, a in requests if isinstance(a, List)]
    assert all(b - a >= BACKOFF_FIRST - 1e-9 for a, b in itertools.pairwise(lists)), "never a list loop"
    # The server works from here on: at most one list, then a watch.
    if isinstance(action, List):
        action = follow(made.step(Listed("9999"), now))
    assert isinstance(action, Watch)
    assert made.version == action.version
