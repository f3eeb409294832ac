"""Tests processes: input of any size, time limits, cancellation, a clean environment, no leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ferrule.dataplane.outcome import check, classify, quote
from ferrule.errors import DataplaneError, FailureKind
from ferrule.process import child
from ferrule.process.child import high_water
from ferrule.process.completed import Completed
from ferrule.process.runner import STACK_BYTES, STDERR_LIMIT, Runner, ToolRun
from ferrule.testing.waiting import Limits, eventually, until
from tests.http_client import run_on
from tests.loops import LOOPS


@pytest.fixture
def run(loop: str) -> Callable[..., Completed]:
    def call(*argv: str, **options: object) -> Completed:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            return runner.run(Runner().run(argv, **options))  # type: ignore[arg-type]

    return call


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_large_input_comes_back_whole(run: Callable[..., Completed]) -> None:
    run("true")
    before = descriptors()
    data = os.urandom(1 << 20) * 8
    assert run("cat", stdin=data).stdout == data
    assert descriptors() <= before, "no descriptor is left open"


def test_exit_codes_and_stderr(run: Callable[..., Completed]) -> None:
    done = run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", "err\n")
    assert run("sh", "-c", "kill -9 $$").exit_code == -9


def test_gigabytes_of_stderr_are_not_kept(run: Callable[..., Completed]) -> None:
    done = run("sh", "-c", "head -c 30000000 /dev/zero >&2; echo fine")
    assert len(done.stderr) == STDERR_LIMIT
    assert done.stdout == b"fine\n"


HANGS = "sleep 1000 & echo $! > {mark}; wait"  # time: for ever


def written(mark: Path) -> int:
    """The number in it, once it is whole."""
    text = mark.read_text() if mark.exists() else ""
    return int(text) if text.endswith("\n") else 0


def test_what_hangs_is_killed_with_its_children(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "pid"

    async def scenario() -> None:
        limits = Limits(monkeypatch, 17.0)
        # time: a stand-in, see `Limits`
        task = asyncio.create_task(Runner().run(("sh", "-c", HANGS.format(mark=mark)), timeout=17.0))
        await until(lambda: written(mark))
        await limits.expire()
        with pytest.raises(DataplaneError, match="no end after 17 s: killed") as caught:
            await task
        assert caught.value.kind is FailureKind.HUNG

    run_on(loop, scenario)

    def gone() -> bool:
        # An orphan: the process that adopts it reaps it at some time.
        try:
            return "State:\tZ" in Path(f"/proc/{written(mark)}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    eventually(gone, "the grandchild lives on")


def test_a_missing_program_is_named(run: Callable[..., Completed]) -> None:
    with pytest.raises(DataplaneError, match="no-such-program is not installed") as caught:
        run("no-such-program")
    assert caught.value.kind is FailureKind.MISSING


def test_the_environment_is_clean(run: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LIBDIR", "/evil")
    monkeypatch.setenv("LD_PRELOAD", "")
    names = {line.split(b"=")[0] for line in run("env").stdout.splitlines()}
    assert names <= {b"PATH", b"LC_ALL", b"PWD", b"SHLVL", b"_"}


def test_tools_get_a_deep_stack(run: Callable[..., Completed]) -> None:
    kib = run("sh", "-c", "ulimit -s").stdout.strip()
    assert kib == b"unlimited" or int(kib) >= STACK_BYTES // 1024


def test_cancelling_kills_and_reaps(tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    async def scenario() -> None:
        task = asyncio.create_task(Runner().run(("sh", "-c", f"echo $$ > {mark}; exec sleep 1000")))  # time: for ever
        await until(lambda: written(mark))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert not Path(f"/proc/{written(mark)}").exists()


MIB = 1 << 20


def observed(*argv: str, **options: float) -> ToolRun:
    runs: list[ToolRun] = []
    with contextlib.suppress(DataplaneError):
        asyncio.run(Runner(observers=[runs.append]).run(argv, **options))  # type: ignore[arg-type]
    (run,) = runs
    return run


def test_a_tool_with_a_higher_peak_than_ferrule_reports_it() -> None:
    # Pages that are touched and freed again: the peak counts.
    greedy = f"x = bytearray({(MIB + high_water()) // MIB + 100} << 20)"
    run = observed("python3", "-c", f"{greedy}\nx[::4096] = b'1' * len(x[::4096])\ndel x\nsum(range(3_000_000))")
    assert (run.tool, run.exit_code) == ("python3", 0)
    assert run.usage.max_rss is not None
    assert run.usage.max_rss > high_water() + 90 * MIB
    assert 0 < run.usage.cpu_seconds <= run.usage.seconds * 1.5  # time: a ratio within one run


@pytest.mark.parametrize("size", [0, 200 * MIB])
def test_ferrules_own_peak_is_never_reported_for_a_tool(size: int) -> None:
    """Between fork and exec the child shares this process's memory, which `wait4` reports for a small tool."""
    ours = bytearray(size)
    ours[::4096] = b"1" * len(ours[::4096])
    assert observed("true").usage.max_rss is None


def test_the_margin_above_our_own_peak_stays_small_on_large_machines() -> None:
    """A tool's figure below it is not shown: half a gigabyte would hide all of them."""
    assert [child.peak_margin(processors) // MIB for processors in (1, 16, 128, 1024)] == [0, 0, 4, 32]


def test_our_peak_is_never_below_what_a_child_inherits() -> None:
    """While other threads change this process's memory, as the engine's do."""
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            ours = bytearray(5 * MIB)
            ours[::4096] = b"1" * len(ours[::4096])

    threads = [threading.Thread(target=churn) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        above = []
        for _ in range(50):
            process = subprocess.Popen(["true"])
            own = high_water()
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
            above.append(used.ru_maxrss * 1024 - own)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert max(above) <= child.PEAK_MARGIN


def test_without_a_pidfd_the_end_is_polled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_pidfd", lambda _: None)
    assert observed("sh", "-c", "exit 3").exit_code == 3


def test_each_way_to_end_is_told_once() -> None:
    assert observed("/bin/sh", "-c", "exit 3").exit_code == 3
    assert observed("sh", "-c", "kill -9 $$").exit_code == -9
    hung = observed("sleep", "1000", timeout=0.1)  # time: whatever the machine does, it has no end of its own
    assert (hung.tool, hung.exit_code) == ("sleep", None)


def test_without_pidfds_the_end_is_seen_as_well(run: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert run("sh", "-c", "sleep 0.05; exit 7").exit_code == 7  # time: mostly ends after the first look for its end
    with pytest.raises(DataplaneError):
        run("sleep", "1000", timeout=0.1)  # time: as above


def done(code: int, stderr: str = "", stdout: bytes = b"") -> Completed:
    return Completed(("iptables-restore",), code, stdout, stderr)


LEGACY, NFT = "iptables-restore v1.8.9 (legacy): ", "iptables-nft-restore v1.8.9 (nf_tables): "

TEXTS = [
    (2, NFT + 'unknown option "--bogus"\nError occurred at line: 3\n', FailureKind.SYNTAX),
    (2, NFT + "Chain 'NOSUCH' does not exist\nError occurred at line: 4\n", FailureKind.SYNTAX),
    (2, NFT + "chain name `AAAAAAAAAAAAAAAAAAAAAAAAAAAAA' too long (must be under 29 chars)\n", FailureKind.SYNTAX),
    (4, NFT + "\nline 2: CHAIN_DEL failed (Device or resource busy): chain A\n", FailureKind.KERNEL),
    (4, NFT + "\nline 7: RULE_APPEND failed (No such file or directory): rule in chain X\n", FailureKind.KERNEL),
    (1, "iptables-nft-restore: COMMIT expected at line 3\n", FailureKind.SYNTAX),
    (
        2,
        LEGACY + "Couldn't load target `NOSUCH':No such file or directory\n\nError occurred at line: 3\n",
        FailureKind.SYNTAX,
    ),
    (2, LEGACY + "Invalid chain name `AAAAAAAAAAAAAAAAAAAAAAAAAAAAA' (28 chars max)\n", FailureKind.SYNTAX),
    (1, "iptables-restore: line 2 failed\n", FailureKind.KERNEL),
    (2, LEGACY + "iptables-restore: unable to initialize table 'nat'\n", FailureKind.KERNEL),
    (4, "Another app is currently holding the xtables lock. Stopped waiting after 1s.\n", FailureKind.LOCK),
    (4, NFT + "Could not fetch rule set generation id: Permission denied (you must be root)\n", FailureKind.PERMISSION),
    (4, "Fatal: can't open lock file /run/xtables.lock: Permission denied\n", FailureKind.PERMISSION),
    (-9, "", FailureKind.KILLED),
    (1, "an unknown message\n", FailureKind.UNKNOWN),
]


@pytest.mark.parametrize(("code", "stderr", "kind"), TEXTS)
def test_stderr_is_classified_once(code: int, stderr: str, kind: FailureKind) -> None:
    assert classify(done(code, stderr)) is kind


def test_success_and_the_two_lies() -> None:
    assert classify(done(0)) is None
    assert classify(done(0, stdout=b"# Table `nat' is incompatible, use 'nft' tool.\n")) is FailureKind.UNKNOWN
    assert (
        classify(done(0, NFT + "Could not fetch rule set generation id: Permission denied (you must be root)"))
        is FailureKind.PERMISSION
    )


def test_offending_lines_are_quoted_with_neighbours() -> None:
    payload = b"\n".join(b"rule %d" % n for n in range(1, 10))
    marks = {3: " ", 4: " ", 5: ">", 6: ">", 7: " ", 8: " "}
    assert quote(io.BytesIO(payload), [5, 6]) == [f"{mark} line {n}: rule {n}" for n, mark in marks.items()]
    assert quote(io.BytesIO(payload), [1])[0] == "> line 1: rule 1"
    assert quote(io.BytesIO(payload), [99]) == []
    with pytest.raises(DataplaneError, match=r"> line 3: rule 3"):
        check(done(2, TEXTS[0][1]), io.BytesIO(payload))
