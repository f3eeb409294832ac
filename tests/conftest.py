"""What all tests share: the netns marker, a private namespace, hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ferrule.testing.netns import NetNs, why_no_namespaces

settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_WHY_NOT = why_no_namespaces()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need namespaces are skipped visibly, with the reason, where there can be none."""
    if _WHY_NOT is None:
        return
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason=_WHY_NOT))


@pytest.fixture
def netns() -> Iterator[NetNs]:
    """A fresh network namespace with loopback up."""
    with NetNs("test") as namespace:
        yield namespace


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both backends."""
    return str(request.param)
