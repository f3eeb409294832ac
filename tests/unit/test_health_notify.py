"""Tests notifications to systemd over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferrule.observe.notify import Notifier
from ferrule.testing.waiting import PATIENCE, in_virtual_time, let_pass


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Yields a listening systemd: its address for the environment, and its socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@ferrule-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        channel.settimeout(PATIENCE)  # time: the deadline at which a test fails
        yield name, channel


def test_each_fact_is_one_datagram(supervisor: tuple[str, socket.socket]) -> None:
    name, channel = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("waiting for\nthe lists\nREADY=1")
    notifier.ready("2 Services\n programmed")
    notifier.ready()
    notifier.stopping()
    assert [channel.recv(4096) for _ in range(4)] == [
        b"STATUS=waiting for the lists READY=1",
        b"READY=1\nSTATUS=2 Services programmed",
        b"READY=1",
        b"STOPPING=1",
    ]


def test_signs_of_life_stop_when_we_are_not_alive(supervisor: tuple[str, socket.socket]) -> None:
    name, channel = supervisor
    channel.setblocking(False)
    alive, asked = True, 0

    def still_alive() -> bool:
        nonlocal asked
        asked += 1
        return alive

    async def scenario() -> None:
        nonlocal alive
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())})
        assert notifier.watchdog_seconds == 2
        task = asyncio.create_task(notifier.watch(still_alive))
        for said, asked_by_then in ((4, 4), (0, 8), (4, 12)):
            await let_pass(4)
            assert asked == asked_by_then, "at half the time"
            assert [channel.recv(4096) for _ in range(said)] == [b"WATCHDOG=1"] * said
            with pytest.raises(BlockingIOError):
                channel.recv(4096)
            alive = not alive
        task.cancel()

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog(environ: dict[str, str]) -> None:
    assert Notifier(environ).watchdog_seconds is None


def test_without_a_supervisor_nothing_is_sent_and_nothing_ends() -> None:
    async def scenario() -> None:
        notifier = Notifier({"WATCHDOG_USEC": "2000"})
        notifier.ready()
        task = asyncio.create_task(notifier.watch())
        await let_pass(3600)
        assert not task.done()
        task.cancel()

    in_virtual_time(scenario())


def test_a_dead_supervisor_is_mentioned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    for _ in range(3):
        notifier.ready()
    assert [record.message for record in caplog.records] == ["Cannot reach the supervisor"]
