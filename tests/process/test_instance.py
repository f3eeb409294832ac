"""One ferrule runs per network namespace, and no other process can keep it out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferrule.dataplane import instance
from ferrule.errors import InputError
from ferrule.testing.daemon import Ferrule
from ferrule.testing.netns import NetNs
from tests.objects import service
from tests.process.ferrule import once, write

NOBODY_UID = 65534

OCCUPY = """
import socket, sys
held = socket.socket(socket.AF_UNIX)
held.bind(b"\\0ferrule/rules")
held.listen(int(sys.argv[1]))
callers = []
while len(callers) < int(sys.argv[2]):
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        caller.connect(b"\\0ferrule/rules")
    except BlockingIOError:
        break
    callers.append(caller)
print("held", flush=True)
sys.stdin.read()
"""
"""Holds the socket; fills the queue of callers that are not accepted, so that its credentials cannot be read."""


@contextmanager
def occupied(netns: NetNs, *, backlog: int = 128, callers: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process without rights that holds the socket of ferrule's lock."""
    argv = (*netns.prefix, "setpriv", f"--reuid={NOBODY_UID}", f"--regid={NOBODY_UID}", "--clear-groups", "--")
    argv += ("/usr/bin/env", "python3", "-c", OCCUPY, str(backlog), str(callers))
    with subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "manifests", "all.yaml", [service()])
    return tmp_path / "manifests"


needs_users = pytest.mark.skipif(
    Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"] or os.geteuid() != 0,
    reason="an unprivileged user namespace has one user only",
)


@needs_users
@pytest.mark.netns
@pytest.mark.parametrize("callers", [0, 10], ids=["credentials", "full queue"])
def test_a_process_without_rights_keeps_no_ferrule_out(netns: NetNs, folder: Path, callers: int) -> None:
    with occupied(netns, backlog=3, callers=callers) as other, Ferrule(netns, folder, "--backend", "nft") as first:
        warning = first.wait_for("Instance lock held by a process that is not ferrule")
        if not callers:
            assert f"uid={NOBODY_UID}" in warning
        first.wait_for('"Synced"', "ipv4")
        second = once(netns, folder, "--backend", "nft")
        assert second.returncode == 1
        assert "another ferrule already programs this network namespace" in second.stderr
        # The socket is free then, the namespace is not.
        other.kill()
        other.wait()
        third = once(netns, folder, "--backend", "nft")
        assert third.returncode == 1
        assert "another ferrule already programs this network namespace" in third.stderr
        told = netns.run(sys.executable, "-m", "ferrule", "cleanup", check=False)
        assert "warning: ferrule is running in this network namespace" in told.stderr
        assert first.child.poll() is None
    assert once(netns, folder, "--backend", "nft").returncode == 0


@pytest.mark.parametrize(
    ("holder", "is_ferrule"),
    [
        (instance.Holder(7, 0, ("python3", "-m", "ferrule", "run")), True),
        (instance.Holder(7, 0, ("/usr/bin/python3", "/usr/local/bin/ferrule", "run")), True),
        (instance.Holder(7, 0, ("/usr/bin/python3", "/usr/local/bin/kube-proxy", "--config=/var/lib/x")), True),
        (instance.Holder(0, 0, ()), True),  # root in a PID namespace that is not visible
        (instance.Holder(7, 0, ("nginx",)), False),
        (instance.Holder(7, 0, ("cat", "a", "b", "/usr/local/bin/ferrule")), False),
        (instance.Holder(7, NOBODY_UID, ("python3", "-m", "ferrule", "run")), False),
        (instance.Holder(0, -1, ()), False),
    ],
)
def test_who_counts_as_ferrule(holder: instance.Holder, is_ferrule: bool) -> None:
    assert holder.is_ferrule is is_ferrule


def test_the_lock_file_alone_excludes(tmp_path: Path) -> None:
    """Two sockets' names, one file: as with a holder of the socket that is not a ferrule."""
    files = (tmp_path / "lock",)
    with instance.InstanceLock(b"\0ferrule/test-one", files):
        with pytest.raises(InputError, match="another ferrule"), instance.InstanceLock(b"\0ferrule/test-two", files):
            pass
        assert instance.running(b"\0ferrule/test-two", files) == "ferrule"
    assert instance.running(b"\0ferrule/test-two", files) is None
    with instance.InstanceLock(b"\0ferrule/test-two", files):
        pass


def test_a_file_that_others_can_open_is_not_used(tmp_path: Path) -> None:
    readable, linked, private = (tmp_path / name for name in ("readable", "linked", "private"))
    readable.touch(0o644)
    readable.chmod(0o644)
    linked.symlink_to(readable)
    assert instance.open_private(readable, create=True) is None
    assert instance.open_private(linked, create=True) is None
    assert instance.open_private(tmp_path / "missing" / "file", create=True) is None
    with instance.InstanceLock(b"\0ferrule/test-three", (readable, linked, private)):
        assert private.stat().st_mode & 0o777 == 0o600
        assert instance.running(b"\0ferrule/test-four", (private,)) == "ferrule"
