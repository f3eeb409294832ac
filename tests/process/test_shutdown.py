"""SIGTERM ends `ferrule run` in every state, without waiting for work in progress.

Each case blocks the program at a known place for far longer than the test waits, sends the signal once that place says
that it was reached, and sees the process end. No case depends on when the signal arrives.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ferrule.process import shutdown
from ferrule.process.runner import SEARCH_PATH
from ferrule.testing.netns import NetNs
from ferrule.testing.waiting import eventually
from tests.e2e.harness.process import STOP_SECONDS, Process
from tests.objects import NODE, V4, endpoint, endpoint_slice, service
from tests.process.ferrule import CONFIG, rules, write

pytestmark = pytest.mark.netns

BLOCKED_SECONDS = 4 * int(STOP_SECONDS)
"""How long a blocked place would block: a test that waited for it fails."""

PROGRAM = f"""
import os, sys, time
import ferrule.process.runner as runner
folder, patch, *arguments = sys.argv[1:]
runner.SEARCH_PATH = (folder + "/bin", *runner.SEARCH_PATH)
def block(*_):
    open(folder + "/reached", "w").close()
    time.sleep({BLOCKED_SECONDS})
exec(patch)
from ferrule.cli import main
sys.exit(main(arguments))
"""
"""`ferrule` with the tools of a folder before the machine's. `patch` may put `block` somewhere."""


class Case:
    """A daemon and the place where it is to block."""

    def __init__(self, netns: NetNs, folder: Path) -> None:
        self.netns = netns
        self.folder = folder
        self.process: Process | None = None
        (folder / "bin").mkdir()
        write(folder / "manifests", "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.10")])])

    @property
    def daemon(self) -> Process:
        assert self.process is not None
        return self.process

    def tool(self, name: str) -> None:
        """Puts a tool before the machine's own that blocks from `arm` on, and a process below it."""
        real = shutil.which(name, path=os.pathsep.join(SEARCH_PATH))
        path = self.folder / "bin" / name
        lines = [
            "#!/bin/sh",
            f'[ -e {self.folder}/armed ] || exec {real} "$@"',
            "trap '' TERM INT",
            f"sleep {BLOCKED_SECONDS} &",
            f"echo $$ $! > {self.folder}/pids",
            f"mv {self.folder}/pids {self.folder}/reached",
            "wait",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)

    def arm(self) -> None:
        (self.folder / "armed").touch()

    def start(self, *arguments: str, patch: str = "", under: tuple[str, ...] = (), **config: object) -> None:
        path = self.folder / "config.conf"
        if not path.exists():
            path.write_text(json.dumps(CONFIG | config))
        argv = (sys.executable, "-c", PROGRAM, str(self.folder), patch, "run", f"--config={path}", *arguments)
        self.process = Process(self.netns, (*under, *argv), self.folder / "ferrule.log")

    def run(self, *arguments: str, patch: str = "", **config: object) -> None:
        """Starts it on the folder of manifests."""
        folder = f"--manifests={self.folder}/manifests"
        self.start(folder, "--hostname-override=node-1", *arguments, patch=patch, **config)

    def synced(self) -> None:
        self.daemon.wait_for('"Synced"', "ipv4")
        self.daemon.wait_for('"Synced"', "ipv6")

    def change(self) -> None:
        write(self.folder / "manifests", "web.yaml", [NODE, service(), endpoint_slice([endpoint("10.128.1.11")])])

    def reached(self) -> list[int]:
        """Once the place was reached. Returns the processes that block there."""

        def probe() -> bool:
            if (self.folder / "reached").exists():
                return True  # the daemon may have ended since, where the case makes a task fail there
            assert self.daemon.alive, self.daemon.tail()
            return False

        eventually(probe, lambda: f"the place was not reached:\n{self.daemon.tail()}")
        return [int(pid) for pid in (self.folder / "reached").read_text().split()]


@pytest.fixture
def case(netns: NetNs, tmp_path: Path) -> Iterator[Case]:
    case = Case(netns, tmp_path)
    yield case
    if case.process is not None:
        case.process.kill()


def ended(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def probing(case: Case) -> None:
    case.tool("iptables-nft")
    case.arm()
    case.run()


def writing_with_a_tool(case: Case) -> None:
    case.tool("iptables-nft-restore")
    case.run("--backend=nft", ferrule={"nftWrites": "tool"})
    case.synced()
    case.arm()
    case.change()


def writing_with_the_legacy_tool(case: Case) -> None:
    case.tool("iptables-legacy-restore")
    case.run("--backend=legacy")
    case.synced()
    case.arm()
    case.change()


def reading_back_with_a_tool(case: Case) -> None:
    case.tool("iptables-legacy-save")
    case.run("--backend=legacy")
    case.synced()
    case.arm()
    case.netns.run("iptables-legacy", "-w", "5", "-t", "nat", "-F")
    case.netns.run("iptables-legacy", "-w", "5", "-t", "nat", "-X")


def looking_for_canaries(case: Case) -> None:
    case.tool("iptables-nft")
    case.run("--backend=nft")
    case.synced()
    case.arm()


def running_a_credential_plugin(case: Case) -> None:
    case.tool("true")
    case.arm()
    user = {"exec": {"command": f"{case.folder}/bin/true", "apiVersion": "client.authentication.k8s.io/v1"}}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (case.folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    case.start(clientConnection={"kubeconfig": f"{case.folder}/kubeconfig"})


STATES = (
    probing,
    writing_with_a_tool,
    writing_with_the_legacy_tool,
    reading_back_with_a_tool,
    looking_for_canaries,
    running_a_credential_plugin,
)


@pytest.mark.parametrize("state", STATES)
def test_a_running_tool_is_killed_and_not_waited_for(case: Case, state: Callable[[Case], None]) -> None:
    state(case)
    blocking = case.reached()
    assert len(blocking) == 2, "the tool and a process that it started"
    assert not any(map(ended, blocking)), "they ended too early for this case to show anything"
    assert case.daemon.stop() == 0, case.daemon.tail()
    assert "Ending on request; the rules stay in place" in case.daemon.tail(1)
    eventually(lambda: all(map(ended, blocking)), "the tool or its process lives on")


THREADS = {
    "a write over netlink": "import ferrule.dataplane.nftables as n; n._transact = block",
    "a read-back over netlink": "import ferrule.dataplane.nftables as n; n._converse = block",
    "a walk over tracked flows": "import ferrule.dataplane.conntrack as c; c.clean = block",
    # The probe keeps the function itself: it reads on the event loop.
    "a read of addresses": "import ferrule.host.probe, ferrule.host.addresses as a; a.local_addresses = block",
}


@pytest.mark.parametrize("place", THREADS)
def test_a_thread_in_a_system_call_is_not_joined(case: Case, place: str) -> None:
    case.run("--backend=nft", patch=THREADS[place])
    case.reached()
    assert case.daemon.stop() == 0, case.daemon.tail()
    assert "Ending on request; the rules stay in place" in case.daemon.tail(1)


BLOCKED_TASK = """
import ferrule.daemon.composition as composition, ferrule.daemon.lifetime as lifetime
async def task(_):
    block()
composition.sample_loop_lag = task
"""
LOOPS = {"uvloop": "", "asyncio": "lifetime._loop_factory = lambda: None"}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_blocked_main_thread_is_not_waited_for(case: Case, loop: str) -> None:
    """A full pipe behind stderr blocks it in a write, for example. No log line is written then."""
    case.run("--backend=nft", patch=f"{BLOCKED_TASK}\n{LOOPS[loop]}")
    case.reached()
    assert case.daemon.stop() == 0
    assert "Ending" not in case.daemon.text()


def test_an_idle_daemon_on_the_plain_loop_ends_and_leaves_the_rules(case: Case) -> None:
    case.run("--backend=nft", patch=f"import ferrule.daemon.lifetime as lifetime\n{LOOPS['asyncio']}")
    case.synced()
    assert case.daemon.stop() == 0
    assert "Ending on request; the rules stay in place" in case.daemon.tail(1)
    assert V4 in rules(case.netns, "nft")


def test_it_ends_while_it_reads_its_configuration(case: Case) -> None:
    fifo = case.folder / "config.conf"
    os.mkfifo(fifo)
    case.run()
    writer: list[int] = []

    def opened() -> bool:
        try:
            writer.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False  # it has not opened the file for reading yet
        return True

    eventually(opened, lambda: f"the file was not read:\n{case.daemon.tail()}")
    try:
        assert case.daemon.stop() == 0
    finally:
        os.close(writer[0])


def test_process_one_of_a_container_ends_while_it_probes(case: Case) -> None:
    """The kernel discards a signal to process 1 that has no handler for it."""
    case.tool("iptables-nft")
    case.arm()
    case.start(f"--manifests={case.folder}/manifests", under=("unshare", "--pid", "--fork", "--kill-child"))
    case.reached()
    parent = case.daemon.pid
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert case.daemon.wait() == 0, case.daemon.tail()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_work_that_a_signal_cut_short_is_not_reported_as_done(case: Case, number: signal.Signals) -> None:
    case.tool("iptables-nft-restore")
    case.arm()
    case.run("--backend=nft", "--once", ferrule={"nftWrites": "tool"})
    case.reached()
    assert case.daemon.stop(number) == 128 + number
    assert "Ended by a signal before the work was complete" in case.daemon.tail(1)
    assert number.name in case.daemon.tail(1)


def test_a_cleanup_that_a_signal_cut_short_is_not_reported_as_done(case: Case) -> None:
    case.tool("iptables-nft-save")
    case.arm()
    argv = (sys.executable, "-c", PROGRAM, str(case.folder), "", "cleanup")
    case.process = Process(case.netns, argv, case.folder / "ferrule.log")
    blocking = case.reached()
    assert case.daemon.stop() == 128 + signal.SIGTERM
    eventually(lambda: all(map(ended, blocking)), "the tool or its process lives on")


def test_a_failed_task_ends_it_without_a_join(case: Case) -> None:
    """The reason comes from another task; the thread that still works is not joined."""
    failing = """
import ferrule.daemon.composition as composition, ferrule.dataplane.nftables as n, asyncio, os
n._transact = block
async def fail(_):
    while not os.path.exists(folder + "/reached"):
        await asyncio.sleep(0.01)
    raise RuntimeError("on purpose")
composition.sample_loop_lag = fail
import ferrule.cli
sys.argv[1:] = arguments
ferrule.cli.program()
"""
    case.run("--backend=nft", patch=failing)
    case.reached()
    assert case.daemon.wait() == 1
    assert "'event loop lag' failed: RuntimeError('on purpose')" in case.daemon.tail(1)


def test_the_documented_second_is_kept_by_construction() -> None:
    assert 0 < shutdown.ORDERLY_SECONDS < shutdown.ENFORCED_SECONDS < 1
