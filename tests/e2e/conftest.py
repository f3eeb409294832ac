"""Fixtures of the end-to-end cases, which run with `make e2e` only and need the control plane of
`hack/build-controlplane`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness.cluster import CONTROLPLANE, Cluster
from tests.e2e.harness.fabric import Fabric
from tests.e2e.harness.site import Site
from tests.e2e.harness.subject import Subject
from tests.e2e.harness.world import World

ASKED = os.environ.get("FERRULE_E2E") == "1"
collect_ignore_glob = [] if ASKED else ["test_*.py"]

SUBJECTS = [Subject(name) for name in os.environ.get("FERRULE_SUBJECTS", "ferrule").split(",")]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yields one control plane for all cases."""
    if not CONTROLPLANE.exists():
        pytest.fail(f"{CONTROLPLANE} is not there: run `make e2e`, or hack/build-controlplane {CONTROLPLANE}")
    with Fabric() as fabric, Cluster(fabric, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    """Yields an API namespace for this case, with its additions to the network."""
    with World(cluster, tmp_path) as fresh:
        yield fresh


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.value)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Returns the proxy under test: each of FERRULE_SUBJECTS."""
    chosen: Subject = request.param
    return chosen


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.value)
def site(request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yields two nodes with a proxy each, for all cases of a module; each case has its own `world`."""
    with Site(cluster, request.param, tmp_path_factory.mktemp("site")) as made:
        yield made
