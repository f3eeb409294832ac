"""Tests the conntrack clean-up without a kernel: queueing, retries, logs, and responses of unusual kernels."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferrule._engine import ConntrackView, Engine, EngineOptions, StalePlan
from ferrule.dataplane import conntrack
from ferrule.dataplane.conntrack import Cleaned, ConntrackCleaner, clean, why
from ferrule.testing.waiting import happened, in_virtual_time, let_pass, until
from tests.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, messages
from tests.objects import NODE_PORT, endpoint, endpoint_slice, service

DATA = Path(__file__).parents[2] / "rust/engine/tests/data"
DUMP = (DATA / "conntrack-ipv4.bin").read_bytes()
"""Seven entries to 10.96.0.10:53 and others; three are stale when only 10.128.2.1:5353 serves there."""
DONE = HEADER.pack(HEADER.size + 4, NLMSG_DONE, 2, 1, 0) + bytes(4)
INTERRUPTED = 0x10


class Cluster:
    """An engine with a kernel that accepts everything."""

    def __init__(self) -> None:
        self.engine = Engine(EngineOptions(node_name="node-1"))
        self.engine.replace("Node", [b"[]"])
        self.engine.observe("ipv4", b"")

    def put(self, *endpoints: str, **spec: Any) -> None:
        services = [service(protocol="UDP", port=53, **spec)] if spec.pop("exists", True) else []
        slices = [endpoint_slice([endpoint(e) for e in endpoints], protocol="UDP", port=5353)]
        self.engine.replace("Service", [json.dumps(services).encode()])
        self.engine.replace("EndpointSlice", [json.dumps(slices).encode()])

    def sync(self, *endpoints: str, **spec: Any) -> ConntrackView | None:
        self.put(*endpoints, **spec)
        plan = self.engine.plan("ipv4")
        if plan is not None:
            self.engine.commit(plan)
        return self.engine.conntrack_view("ipv4")

    def view(self, *endpoints: str, **spec: Any) -> ConntrackView:
        view = self.sync(*endpoints, **spec)
        assert view is not None
        return view


# ---------------------------------------------------------------- when there is a view


def test_a_view_comes_once_a_change_and_only_for_udp() -> None:
    cluster = Cluster()
    assert cluster.engine.conntrack_view("ipv4") is None, "nothing was planned yet"
    assert cluster.view("10.128.2.1").frontends == 1
    assert cluster.engine.conntrack_view("ipv4") is None
    assert cluster.sync("10.128.2.1", sessionAffinity="ClientIP") is None, "no matter to flows"
    assert cluster.sync("10.128.2.1", "10.128.2.2") is not None
    assert cluster.sync("10.128.2.1", "10.128.2.2", type="NodePort", nodePort=NODE_PORT) is not None
    assert cluster.sync("10.128.2.1", "10.128.2.2", type="NodePort", nodePort=NODE_PORT) is None
    assert cluster.engine.set_local_addresses(["172.31.250.2"])
    assert cluster.engine.conntrack_view("ipv4") is not None, "the node port answers on another address"


def test_no_view_while_the_rules_are_in_doubt() -> None:
    cluster = Cluster()
    cluster.view("10.128.2.1")
    cluster.put("10.128.2.2")
    plan = cluster.engine.plan("ipv4")
    assert plan is not None
    assert cluster.engine.conntrack_view("ipv4") is None, "a plan is in flight"
    cluster.engine.abandon(plan)
    assert cluster.engine.conntrack_view("ipv4") is None, "the outcome is unknown"
    with pytest.raises(StalePlan):
        cluster.engine.commit(plan)
    assert cluster.sync("10.128.2.2") is not None


def test_a_view_keeps_off_flows_that_the_next_plan_is_about() -> None:
    cluster = Cluster()
    view = cluster.view("10.128.2.1")
    assert view.stale(DUMP).count == 3
    cluster.put("10.128.2.9")
    assert cluster.engine.plan("ipv4") is not None
    assert view.stale(DUMP).count == 0, "10.128.2.9 may be serving before this walk is over"


# ---------------------------------------------------------------- what waits


class Kernel:
    """Replaces `reconcile`: each pass waits for a release, and may fail."""

    def __init__(self, *errors: OSError | None) -> None:
        self.errors = list(errors)
        self.views: list[ConntrackView] = []
        self.complete = True
        self.gate: asyncio.Event | None = None

    async def __call__(self, view: ConntrackView) -> Cleaned:
        self.views.append(view)
        if self.gate is not None:
            await self.gate.wait()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return Cleaned(view.family, 0.0, 7, 3, 0, complete=self.complete)


def test_a_newer_view_replaces_a_waiting_one_and_inherits_its_work() -> None:
    cluster, kernel = Cluster(), Kernel()
    views = [
        cluster.view("10.128.2.1"),
        cluster.view("10.128.2.1", clusterIP="10.96.0.77", clusterIPs=["10.96.0.77"]),
        cluster.view("10.128.2.9", clusterIP="10.96.0.78", clusterIPs=["10.96.0.78"]),
    ]

    async def serve() -> None:
        cleaner = ConntrackCleaner(reconcile=kernel)
        kernel.gate = asyncio.Event()
        task = asyncio.create_task(cleaner.run())
        cleaner.after_sync("ipv4", views[0])
        await let_pass(1)
        cleaner.after_sync("ipv4", views[1])
        cleaner.after_sync("ipv4", views[2])
        await let_pass(3600)
        assert len(kernel.views) == 1, "one walk at a time"
        kernel.gate.set()
        await let_pass(3600)
        task.cancel()

    in_virtual_time(serve())
    assert len(kernel.views) == 2
    # 10.96.0.10 was removed with the second view, which never ran; its translated flows are still deleted.
    assert kernel.views[1].frontends == 3
    assert kernel.views[1].stale(DUMP).count == 3
    assert views[2].stale(DUMP).count == 0


def test_refusals_of_the_host_are_logged_once_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ferrule")
    refused = OSError(errno.EPERM, "Operation not permitted")
    cluster, kernel = Cluster(), Kernel(refused, refused, OSError(errno.EINVAL, "Invalid argument"))
    done: list[Cleaned] = []

    async def syncs() -> None:
        cleaner = ConntrackCleaner(done.append, kernel)
        cleaner.after_sync("ipv4", cluster.view("10.128.2.1"))
        await cleaner.clean_owed()
        assert "CAP_NET_ADMIN" in cleaner.degraded["ipv4"]
        cleaner.after_sync("ipv4", cluster.sync(exists=False))
        await cleaner.clean_owed()
        cleaner.after_sync("ipv4", None)
        await cleaner.clean_owed()
        assert "nf_conntrack_netlink" in cleaner.degraded["ipv4"]
        assert done == []
        cleaner.after_sync("ipv4", None)
        await cleaner.clean_owed()
        assert cleaner.degraded == {}
        await cleaner.clean_owed()

    asyncio.run(syncs())
    assert len(kernel.views) == 4
    assert [d.deleted for d in done] == [3]
    assert kernel.views[-1].frontends == 1, "the Service is gone, its flows are not forgotten"
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2, "once a reason"
    assert any("deleted again" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("how", ["cancelled", "incomplete"])
def test_an_unfinished_walk_is_still_owed(how: str) -> None:
    cluster, kernel = Cluster(), Kernel()
    kernel.complete = how != "incomplete"

    async def serve() -> None:
        cleaner = ConntrackCleaner(reconcile=kernel)
        kernel.gate = asyncio.Event()
        cleaner.after_sync("ipv4", cluster.view("10.128.2.1"))
        task = asyncio.create_task(cleaner.clean_owed())
        await until(lambda: kernel.views)
        if how == "cancelled":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        kernel.gate.set()
        await asyncio.gather(task, return_exceptions=True)
        cleaner.after_sync("ipv4", None)
        await cleaner.clean_owed()

    asyncio.run(serve())
    assert len(kernel.views) == 2


def test_a_cancelled_walk_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(_: ConntrackView, stop: threading.Event) -> Cleaned:
        begun.set()
        happened(stop)
        ended.set()
        return Cleaned("ipv4", 0.0, 0, 0, 0, complete=False)

    monkeypatch.setattr(conntrack, "clean", endless)

    async def serve() -> None:
        task = asyncio.create_task(conntrack.reconcile(Cluster().view("10.128.2.1")))
        await asyncio.to_thread(happened, begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(serve())
    assert ended.is_set()


# ---------------------------------------------------------------- what an odd kernel may answer


class Channel:
    """A netlink socket: `answer` maps a sent datagram to the datagrams that come back."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self._waiting: list[bytes] = []

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, data: bytes) -> None:
        self._waiting += self._answer(data)

    def recv(self, _: int) -> bytes:
        if not self._waiting:
            raise TimeoutError("timed out")
        data = self._waiting.pop(0)
        if data == b"ENOBUFS":
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return data


def ack(sequence: int, code: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + 20, NLMSG_ERROR, 0, sequence, 0) + struct.pack("=i", -code) + bytes(16)


class OddKernel:
    """Responds to dumps with scripts, and deletes as told."""

    def __init__(self, dumps: list[list[bytes]], deletes: dict[int, int] | None = None) -> None:
        self.dumps = dumps
        self.deletes = deletes or {}
        self.asked: list[int] = []
        self.deleted = 0

    def open(self, _: int) -> Channel:
        return Channel(self.answer)

    def answer(self, data: bytes) -> list[bytes]:
        kinds = [kind for kind, _, _ in messages(data)]
        if kinds == [0x101]:
            self.asked.append(len(data))
            return self.dumps.pop(0)
        assert set(kinds) == {0x102}
        count = len(kinds)
        codes = [(n, self.deletes.get(n, 0)) for n in range(1, count + 1)]
        self.deleted += sum(code == 0 for _, code in codes)
        # Only failures answer, and the last one.
        return [b"".join(ack(n, code) for n, code in codes if code or n == count)]


def run(kernel: OddKernel, monkeypatch: pytest.MonkeyPatch, stop: threading.Event | None = None) -> Cleaned:
    monkeypatch.setattr(conntrack, "open_channel", kernel.open)
    return clean(Cluster().view("10.128.2.1"), stop or threading.Event())


def with_flags(dump: bytes, flags: int) -> bytes:
    changed = bytearray(dump)
    changed[6:8] = struct.pack("=H", struct.unpack_from("=H", dump, 6)[0] | flags)
    return bytes(changed)


def test_entries_that_vanished_by_themselves_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = OddKernel([[DUMP]], {1: errno.ENOENT, 2: errno.EBUSY})
    done = run(kernel, monkeypatch)
    assert (done.seen, done.deleted, done.errors, done.complete) == (7, 1, 1, True)


def test_the_last_request_may_fail_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(OddKernel([[DUMP]], {3: errno.ENOENT}), monkeypatch)
    assert (done.deleted, done.errors) == (2, 0)


def test_a_kernel_that_cannot_filter_is_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = OddKernel([[ack(1, errno.EINVAL)], [DUMP]])
    assert run(kernel, monkeypatch).deleted == 3
    assert kernel.asked[0] > kernel.asked[1] == 20


def test_a_kernel_without_the_module_is_an_oserror_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError) as caught:
        run(OddKernel([[ack(1, errno.EINVAL)]] * 2), monkeypatch)
    assert "nf_conntrack_netlink" in why(caught.value)


def test_a_refused_delete_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError):
        run(OddKernel([[DUMP]], {1: errno.EPERM}), monkeypatch)


def test_a_silent_kernel_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError) as caught:
        run(OddKernel([[]]), monkeypatch)
    assert why(caught.value) == "timed out"


def test_an_interrupted_dump_is_repeated_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    body = with_flags(DUMP, INTERRUPTED)
    twice = OddKernel([[body], [DUMP]])
    assert run(twice, monkeypatch).complete
    assert len(twice.asked) == 2
    always = OddKernel([[body]] * 9)
    assert not run(always, monkeypatch).complete
    assert len(always.asked) == conntrack.DUMP_ATTEMPTS


def test_a_lost_datagram_begins_the_dump_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = OddKernel([[b"ENOBUFS"], [DUMP]])
    assert run(kernel, monkeypatch).complete
    kernel = OddKernel([[b"ENOBUFS"]] * 9)
    assert not run(kernel, monkeypatch).complete
    assert len(kernel.asked) == conntrack.DUMP_ATTEMPTS


def test_a_dump_in_many_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, at = [], 0
    while at < len(DUMP):
        (length,) = struct.unpack_from("=I", DUMP, at)
        entries.append(DUMP[at : at + length])
        at += (length + 3) & ~3
    assert len(entries) == 8
    done = run(OddKernel([entries]), monkeypatch)
    assert (done.seen, done.deleted, done.complete) == (7, 3, True)


def test_a_stopped_walk_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    stop.set()
    kernel = OddKernel([[DUMP]])
    assert not run(kernel, monkeypatch, stop).complete
    assert kernel.asked == []


def test_nonsense_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = OddKernel([[b"\xff" * 300, DONE]])
    done = run(kernel, monkeypatch)
    assert (done.seen, done.deleted, done.complete) == (0, 0, True)
