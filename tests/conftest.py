"""Shared fixtures: the netns marker, a private namespace, event loops, hypothesis profiles."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ferrule.testing.netns import NetNs, why_no_namespaces
from tests.loops import LOOPS, Complaints

settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_WHY_NOT = why_no_namespaces()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that need namespaces, with the reason, if there are none."""
    if _WHY_NOT is None:
        return
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason=_WHY_NOT))


@pytest.fixture
def netns() -> Iterator[NetNs]:
    """Yields a new network namespace with loopback up."""
    with NetNs("test") as namespace:
        yield namespace


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    """Runs a test on both backends."""
    return str(request.param)


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each event loop: `asyncio.run` and `asyncio.Runner` make this one."""
    monkeypatch.setattr(asyncio.events, "new_event_loop", LOOPS[request.param])
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_complaint_of_a_loop() -> Iterator[None]:
    """Fails a test if an event loop reports an error that reached no caller."""
    complaints, log = Complaints(), logging.getLogger("asyncio")
    log.addHandler(complaints)
    yield
    log.removeHandler(complaints)
    assert complaints.messages == []
