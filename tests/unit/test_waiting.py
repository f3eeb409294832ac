"""Tests the waiting helpers: they return immediately on success, fail without it, and virtual time is exact."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest

from ferrule.testing import waiting
from ferrule.testing.waiting import (
    Limits,
    VirtualLoop,
    ended,
    eventually,
    happened,
    in_virtual_time,
    let_pass,
    soon,
    until,
)


def test_what_comes_is_returned_and_what_does_not_is_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0, None, "", "there"])
    assert eventually(lambda: next(looks)) == "there"
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    with pytest.raises(AssertionError, match="said so"):
        eventually(lambda: False, lambda: "said so")
    waits = (sys.executable, "-c", "import sys; sys.stdin.read()")
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as child, pytest.raises(AssertionError, match="no end"):
        ended(child, "no end")
    with pytest.raises(AssertionError, match="did not happen"):
        happened(threading.Event())


def test_an_end_has_an_exit_code() -> None:
    with subprocess.Popen((sys.executable, "-c", "import sys; sys.exit(3)")) as child:
        assert ended(child) == 3


def test_on_an_event_loop_the_deadline_is_by_its_clock() -> None:
    async def never() -> bool:
        return False

    async def scenario() -> float:
        with pytest.raises(AssertionError, match="did not happen"):
            await until(never)
        with pytest.raises(AssertionError, match="nothing came"):
            await soon(asyncio.Event().wait(), "nothing came")
        assert await until(lambda: 7) == 7
        return asyncio.get_running_loop().time()

    assert in_virtual_time(scenario()) == pytest.approx(2 * waiting.PATIENCE, abs=2 * waiting.PAUSE)


def test_virtual_time_passes_only_while_everything_waits() -> None:
    seen: list[tuple[float, str]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(3600, lambda: seen.append((loop.time(), "timer")))
        release = threading.Event()
        thread = loop.run_in_executor(None, release.wait)
        thread.add_done_callback(lambda _: seen.append((loop.time(), "thread")))
        loop.call_soon(release.set)
        await thread
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            loop.call_later(1, right.send, b"x")
            assert await loop.sock_recv(left, 1) == b"x"
            seen.append((loop.time(), "socket"))
        loop.busy(2)
        await let_pass(7200)

    begun = time.monotonic()
    in_virtual_time(scenario())
    assert [(round(at), what) for at, what in seen] == [(0, "thread"), (1, "socket"), (3600, "timer")]
    assert time.monotonic() - begun < 3600  # time: virtual hours against real ones


def test_time_that_passes_for_real_is_refused() -> None:
    with pytest.raises(AssertionError, match="a guess"):
        asyncio.run(let_pass(0.0))


def test_a_limit_is_over_when_the_test_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def limited(seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):  # time: 0 and a stand-in
                await asyncio.Event().wait()
        except TimeoutError:
            return "over"
        return "never"

    async def scenario() -> None:
        limits = Limits(monkeypatch, 17.0)
        assert await limited(0.0) == "over", "any other is what it was"
        with pytest.raises(AssertionError, match="nothing is limited to 17 s"):
            await limits.expire()
        task = asyncio.create_task(limited(17.0))
        await limits.expire()
        assert await task == "over"

    in_virtual_time(scenario())
