"""Clients of the HTTP ports cannot take the open files that rules, tools and other clients need."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferrule.errors import InputError
from ferrule.host import descriptors
from ferrule.testing.daemon import Ferrule, eventually
from ferrule.testing.netns import NetNs
from tests.objects import LB_IP, NODE, endpoint, endpoint_slice, service
from tests.process.ferrule import CONFIG, rules, write

HEALTH_CHECK_PORT = 30900
HEALTHZ_PORT = 10256

CROWD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
clients = [socket.create_connection(("127.0.0.1", int(port))) for port in sys.argv[2:] for _ in range(int(sys.argv[1]))]
print("open", flush=True)
sys.stdin.read()
"""
"""Opens connections and sends nothing."""

PROBE = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
connection.request("GET", "/healthz")
print(connection.getresponse().status)
"""


@contextmanager
def crowd(netns: NetNs, count: int) -> Iterator[None]:
    """Keeps `count` idle connections to each of the ports that every host may reach."""
    argv = (sys.executable, "-c", CROWD, str(count), str(HEALTH_CHECK_PORT), str(HEALTHZ_PORT))
    with netns.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        try:
            yield
        finally:
            child.kill()


@pytest.mark.netns
@pytest.mark.parametrize(("limit", "clients"), [(1024, 1500), (descriptors.NEEDED, 200)])
def test_idle_clients_take_no_file_that_rules_need(netns: NetNs, tmp_path: Path, limit: int, clients: int) -> None:
    config, folder = tmp_path / "config.conf", tmp_path / "manifests"
    config.write_text(json.dumps(CONFIG))
    balanced = service(
        lb=[LB_IP], type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=HEALTH_CHECK_PORT
    )
    write(folder, "all.yaml", [NODE, balanced, endpoint_slice([endpoint("10.128.1.5")])])
    under = ("prlimit", f"--nofile={limit}:{limit}", "--")
    arguments = ("--config", str(config), "--backend", "nft")

    def probe(port: int) -> str:
        return netns.run(sys.executable, "-c", PROBE, str(port), check=False).stdout.strip()

    with Ferrule(netns, folder, *arguments, under=under) as daemon:
        eventually(lambda: probe(HEALTH_CHECK_PORT) == "200", lambda: "\n".join(daemon.log))
        with crowd(netns, clients):
            # New clients are answered, at the cost of the oldest idle ones.
            assert probe(HEALTH_CHECK_PORT) == "200"
            assert probe(HEALTHZ_PORT) == "200"
            # A tool notices that the tables were flushed, and the rules are written again.
            netns.run("nft", "flush", "ruleset")
            daemon.wait_for("Tables flushed by another process", "ipv4")
            eventually(lambda: LB_IP in rules(netns, "nft"), lambda: "\n".join(daemon.log))
            # Changes of objects are followed.
            write(folder, "all.yaml", [NODE, balanced, endpoint_slice([endpoint("10.128.1.6")])])
            eventually(lambda: "10.128.1.6" in rules(netns, "nft"), lambda: "\n".join(daemon.log))
        assert daemon.child.poll() is None
        assert not [line for line in daemon.log if "Too many open files" in line]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The process's limits, which `setrlimit` changes here only."""
    now = {"soft": 1024, "hard": 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (now["soft"], now["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: now.update(soft=pair[0], hard=pair[1]))
    return now


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 4096, 4096),
        (1024, 524_288, descriptors.WANTED),
        (1024, resource.RLIM_INFINITY, descriptors.WANTED),
        (1 << 20, 1 << 20, 1 << 20),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_raised_and_never_lowered(limits: dict[str, int], soft: int, hard: int, raised: int) -> None:
    limits.update(soft=soft, hard=hard)
    descriptors.raise_limit()
    assert limits == {"soft": raised, "hard": hard}


def test_too_few_files_are_refused_with_the_remedy(limits: dict[str, int]) -> None:
    limits.update(soft=20, hard=20)
    with pytest.raises(InputError, match=r"at most 20 open files are allowed .* raise LimitNOFILE"):
        descriptors.raise_limit()


@pytest.mark.parametrize("files", [descriptors.NEEDED, 128, 256, 1024, 65_536])
def test_clients_leave_the_reserve(limits: dict[str, int], files: int) -> None:
    limits.update(soft=files, hard=files)
    clients = descriptors.client_share(1 / 2, 1024) + 2 * descriptors.client_share(1 / 8, 64)
    assert clients <= max(files - descriptors.RESERVE, 12)
    assert descriptors.client_share(1 / 2, 1024) == {64: 4, 128: 4, 256: 64, 1024: 448, 65_536: 1024}[files]
