"""Follows a faulty server over real sockets on loopback, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ferrule._engine import InputError
from ferrule.config.schema import ClientConnection
from ferrule.source.api.access import Access, Material
from ferrule.source.api.client import ApiClient, ApiResponse, RequestSeen, Timeouts
from ferrule.source.api.credentials import Credentials
from ferrule.source.api.events import EventRecorder
from ferrule.source.api.exec_plugin import ExecCredential
from ferrule.source.api.follow import Follower
from ferrule.source.api.outcome import ApiError, Cause
from ferrule.source.api.resources import resources
from ferrule.testing import fake_answers
from ferrule.testing.fake_api import FakeApi
from ferrule.testing.waiting import PATIENCE, Limits, until
from ferrule.types import Kind
from tests.loops import LOOPS
from tests.objects import service

TLS = Path(__file__).parent.parent / "data" / "tls"

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def run(loop: str) -> Callable[[Scenario], None]:
    """Runs a scenario on each loop."""

    def go(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(scenario())

    return go


@dataclass
class Report:
    """The fields of an IngestReport that are read."""

    resource_version: str
    error_code: int | None = None
    malformed: str | None = None


@dataclass
class Store:
    """A sink that keeps objects by name, as the engine does."""

    names: dict[Kind, dict[str, str]] = field(default_factory=dict)
    batches: list[bytes] = field(default_factory=list)
    swaps: int = 0
    aborts: int = 0
    open: dict[Kind, list[bytes]] = field(default_factory=dict)

    async def begin_list(self, kind: Kind) -> None:
        assert kind not in self.open
        self.open[kind] = []

    async def feed_list(self, kind: Kind, chunk: bytes) -> None:
        self.open[kind].append(chunk)

    async def end_list(self, kind: Kind) -> Any:
        body = b"".join(self.open.pop(kind))
        try:
            found = json.loads(body)
            items, version = found["items"], found["metadata"]["resourceVersion"]
        except (ValueError, KeyError) as error:
            raise InputError(f"no list: {error}") from error
        self.names[kind] = {i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in items}
        self.swaps += 1
        return Report(version)

    async def abort_list(self, kind: Kind) -> None:
        del self.open[kind]
        self.aborts += 1

    async def ingest(self, kind: Kind, frames: bytes) -> Any:
        assert frames.endswith(b"\n"), "whole frames only"
        self.batches.append(frames)
        report = Report("")
        for line in frames.splitlines():
            if not line.strip():
                continue
            try:
                event = json.loads(line)
                what, thing = event["type"], event["object"]
            except (ValueError, KeyError, TypeError):
                report.malformed = line[:50].decode(errors="replace")
                continue
            if what == "ERROR":
                report.error_code = thing["code"]
                continue
            report.resource_version = thing["metadata"]["resourceVersion"]
            if what == "DELETED":
                self.names[kind].pop(thing["metadata"]["name"], None)
            elif what != "BOOKMARK":
                self.names[kind][thing["metadata"]["name"]] = report.resource_version
        return report


@dataclass
class Told:
    """An observer that records all calls."""

    said: list[tuple[str, ...]] = field(default_factory=list)

    def listed(self, kind: Kind, seconds: float, version: str) -> None:
        assert seconds >= 0
        self.said.append(("listed", kind, version))

    def relist(self, kind: Kind, reason: str) -> None:
        self.said.append(("relist", kind, reason))

    def reconnect(self, kind: Kind, reason: str) -> None:
        self.said.append(("reconnect", kind, reason))

    def failing(self, kind: Kind, reason: str, since: float) -> None:
        assert since > 0
        self.said.append(("failing", kind, reason))

    def ok(self, kind: Kind) -> None:
        self.said.append(("ok", kind))

    def auth_failed(self, reason: str) -> None:
        self.said.append(("auth_failed", reason))

    def auth_ok(self) -> None:
        self.said.append(("auth_ok",))

    def of(self, what: str) -> list[tuple[str, ...]]:
        return [s for s in self.said if s[0] == what]


PATIENT = Timeouts(connect=PATIENCE, headers=PATIENCE, idle=PATIENCE)


class Impatient(ApiClient):
    """Waits for a moment only where the server is told to say nothing, which it goes on doing on any machine."""

    api: FakeApi

    def stream(
        self, path: str, query: Mapping[str, str], *, idle: float | None = None
    ) -> contextlib.AbstractAsyncContextManager[ApiResponse]:
        verb = "watch" if "watch" in query else "list"
        silent = any(fault.times and fault.verb == verb and fault.respond in SILENT for fault in self.api.faults)
        return super().stream(path, query, idle=1.0 if silent else idle)


UNLIMITED = ClientConnection(qps=-1)


class Bench:
    """A server, a client and a follower with short waits, whose full lengths are recorded."""

    def __init__(self, api: FakeApi, access: Access | None = None, **options: Any) -> None:
        self.api = api
        self.store = Store()
        self.told = Told()
        self.waits: list[float] = []
        self.seen: list[RequestSeen] = []
        self.credentials = Credentials(access or Access(api.url, "test"))
        self.client = Impatient(
            self.credentials, version="1", limits=UNLIMITED, timeouts=PATIENT, observer=self.seen.append
        )
        self.client.api = api
        # Its clock stands: nothing becomes calm, or too old to count as at once, by being slow.
        self.follower = Follower(
            self.client,
            self.store,
            self.told,
            clock=lambda: 1000.0,
            sleep=self._wait,
            random=lambda: 0.0,
            **options,
        )

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0.01)  # time: keeps a back-off from becoming a busy loop, nothing looks at it

    @contextlib.asynccontextmanager
    async def following(self, kind: Kind = "Service") -> AsyncIterator[None]:
        async with self.client:
            task = asyncio.create_task(self.follower.run(resources("node-1")[kind]))
            try:
                yield
                if task.done():
                    task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @property
    def names(self) -> set[str]:
        return set(self.store.names.get("Service", {}))


def with_bench(scenario: Callable[[Bench], Awaitable[None]], **options: Any) -> Scenario:
    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api, **options)
            api.put(service("a"))
            async with bench.following():
                await scenario(bench)

    return go


# ---------------------------------------------------------------- when all is well


def test_it_lists_from_the_cache_then_watches_with_bookmarks(run: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        api = bench.api
        await until(lambda: api.open_watches)
        assert bench.names == {"a"}
        api.put(service("b"))
        await until(lambda: bench.names == {"a", "b"})
        api.delete("Service", "a", "shop")
        await until(lambda: bench.names == {"b"})
        (listed,), (watched,) = api.asked("Service", "list"), api.asked("Service", "watch")
        assert listed.query == {
            "labelSelector": "!service.kubernetes.io/service-proxy-name",
            "fieldSelector": "spec.clusterIP!=None",
            "resourceVersion": "0",
        }
        assert {k: v for k, v in watched.query.items() if "Selector" not in k} == {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": "101",
            "timeoutSeconds": "270",
        }
        assert listed.headers["User-Agent"].startswith("ferrule/1 (linux/")
        assert listed.headers["Accept"] == "application/json"
        assert listed.headers["Accept-Encoding"] == "identity"
        assert bench.told.said == [("listed", "Service", "101")]
        assert bench.waits == []
        assert {(r.method, r.code, r.host) for r in bench.seen} == {("GET", "200", f"127.0.0.1:{api.port}")}

    run(with_bench(scenario))


def test_a_watch_that_ends_goes_on_from_the_last_bookmark(run: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        api = bench.api
        await until(lambda: api.open_watches)
        api.bookmark("Service")
        await until(lambda: bench.store.batches)
        # The server ends it regularly, as it does after timeoutSeconds.
        api._ending = True
        api._poke()
        await until(lambda: not api.open_watches)
        api._ending = False
        await until(lambda: len(api.asked("Service", "watch")) == 2)
        assert api.asked("Service", "watch")[1].query["resourceVersion"] == "102"
        assert len(api.asked("Service", "list")) == 1
        assert bench.told.of("failing") == []

    run(with_bench(scenario))


def test_frames_that_come_together_are_passed_together(run: Callable[[Scenario], None]) -> None:
    frames = [
        json.dumps(
            {"type": "ADDED", "object": {"metadata": {"name": f"n{i}", "resourceVersion": f"{200 + i}"}}}
        ).encode()
        for i in range(50)
    ]

    async def scenario(bench: Bench) -> None:
        api = bench.api
        await until(lambda: len(bench.names) == 51)
        assert len(bench.store.batches) <= 2
        assert api.asked("Service", "watch")[0].query["resourceVersion"] == "101"

    async def go() -> None:
        async with FakeApi() as api:
            api.put(service("a"))
            bench = Bench(api)
            api.fail(fake_answers.stream(b"\n".join(frames) + b"\n"), verb="watch")
            async with bench.following():
                await scenario(bench)

    run(go)


# ---------------------------------------------------------------- faults


def gone_as_frame() -> fake_answers.Respond:
    status = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    return fake_answers.stream(json.dumps(status).encode() + b"\n")


SILENT = [fake_answers.black_hole() for _ in range(2)]

WATCH_FAULTS: dict[str, tuple[fake_answers.Respond, bool, str]] = {
    "410 as status": (fake_answers.answer(410, "Expired", "too old"), True, "status (410): too old"),
    "410 as frame": (gone_as_frame(), True, "the resource version is too old (410)"),
    "too large": (
        fake_answers.answer(
            504, "Timeout", "Too large resource version", causes=[{"reason": "ResourceVersionTooLarge"}]
        ),
        True,
        "Too large resource version",
    ),
    "500": (fake_answers.answer(500, "InternalError", "etcdserver: leader changed"), False, "leader changed"),
    "429": (fake_answers.answer(429, "TooManyRequests", retry_after=7), False, "status (429)"),
    "empty 200": (fake_answers.stream(), False, "ended immediately without an event"),
    "html 502": (fake_answers.text(502, "<h1>Bad gateway"), False, "status (502): <h1>Bad gateway"),
    "html 200": (fake_answers.text(200, "<h1>Please log in"), False, "answered with text/html, not application/json"),
    "junk line": (fake_answers.stream(b"<html>\n"), False, "contains an invalid event: <html>"),
    "half a frame": (fake_answers.stream(b'{"type":"ADDED","obj'), False, "ended within a frame (20 bytes"),
    "cut": (fake_answers.stream(b"\n", cut=True), False, "broken"),
    "black hole": (SILENT[0], False, "connected, but the response stalled"),
    "no headers": (fake_answers.black_hole(headers=False), False, "timeout: connected, but no response"),
}


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_connection_that_breaks_before_an_answer_is_one_request(run: Callable[[Scenario], None], verb: str) -> None:
    """aiohttp would send a GET once more, past back-off, limiter and metrics."""
    broken = 4

    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api)
            api.put(service("a"))
            api.fail(fake_answers.reset(), verb=verb, times=broken)
            async with bench.following():
                # The server has a watch before its client knows; stopping in between would be one more error.
                await until(lambda: api.open_watches and len(bench.seen) >= broken + 2)
        assert bench.waits == [0.8, 1.6, 3.2, 6.4]
        assert len(api.asked("Service", verb)) == broken + 1
        assert [r.code for r in bench.seen].count("<error>") == broken
        assert all("broken: the connection ended without a response" in said[2] for said in bench.told.of("failing"))

    run(go)


@pytest.mark.parametrize("fault", WATCH_FAULTS)
def test_a_failed_watch(run: Callable[[Scenario], None], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    respond, lists_again, reason = WATCH_FAULTS[fault]

    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api)
            limits = Limits(monkeypatch, PATIENT.connect + PATIENT.headers)
            api.put(service("a"))
            api.fail(respond, verb="watch")
            async with bench.following():
                if fault == "no headers":
                    await until(lambda: api.asked("Service", "watch"))
                    await limits.expire()
                await until(lambda: bench.told.of("failing"))
                assert bench.names == {"a"}, "nothing that the API does takes anything away"
                api.put(service("b"))
                api.put(service("c"))
                await until(lambda: bench.names == {"a", "b", "c"})
                await until(lambda: bench.told.of("ok"))
        assert reason in bench.told.of("failing")[0][2]
        assert bench.waits[0] == (7.0 if fault == "429" else 0.8)
        lists = api.asked("Service", "list")
        if lists_again:
            assert len(bench.told.of("relist")) == 1
            assert "resourceVersion" not in lists[1].query, "the newest, not the cache's"
        else:
            assert len(lists) == 1, "the version is kept"
            assert api.asked("Service", "watch")[1].query["resourceVersion"] == "101"
            assert bench.told.of("reconnect")

    run(go)


LIST_FAULTS: dict[str, tuple[fake_answers.Respond, str]] = {
    "truncated JSON": (
        fake_answers.stream(b'{"metadata":{"resourceVersion":"9"},"items":[{"meta'),
        "list cannot be used",
    ),
    "cut": (fake_answers.stream(b'{"items":[', cut=True), "the response ended early"),
    "silence": (SILENT[1], "the response stalled"),
    "empty": (fake_answers.stream(), "list cannot be used"),
    "no version": (fake_answers.stream(b'{"metadata":{"resourceVersion":""},"items":[]}'), "no resourceVersion"),
    "html": (fake_answers.text(200, "<h1>hello"), "answered with text/html"),
    "503": (fake_answers.answer(503, "ServiceUnavailable", retry_after=9), "status (503)"),
    "redirect": (fake_answers.text(302, "elsewhere"), "status (302)"),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_a_failed_list_changes_nothing_and_is_retried(run: Callable[[Scenario], None], fault: str) -> None:
    respond, reason = LIST_FAULTS[fault]

    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api)
            api.put(service("a"))
            async with bench.following():
                await until(lambda: api.open_watches)
                api.compact()
                api.fail(respond, verb="list")
                # Not part of the history: only a list contains it.
                api.objects["Service"]["shop/late"] = service("late") | {
                    "metadata": {"name": "late", "resourceVersion": "5"}
                }
                api.fail(fake_answers.answer(410, "Expired"), verb="watch")
                api._ending = True
                api._poke()
                await until(lambda: not api.open_watches)
                api._ending = False
                await until(lambda: any(reason in said[2] for said in bench.told.of("failing")))
                if fault != "no version":
                    assert bench.names == {"a"}
                await until(lambda: bench.names == {"a", "late"})
        assert bench.store.open == {}, "whatever was begun was ended or aborted"
        # The watch that ended at once, the 410, and then the list itself.
        assert bench.waits[:3] == [0.8, 0.8, 9.0 if fault == "503" else 1.6], "each sort has its own back-off"

    run(go)


def test_a_server_that_answers_every_watch_with_nothing_is_not_asked_in_a_loop(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.api.fail(fake_answers.stream(), verb="watch", times=-1)
        await until(lambda: len(bench.waits) >= 12)
        assert bench.waits[:8] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
        lists = bench.api.asked("Service", "list")
        assert len(lists) == 3, "the first, and one after each five failures"
        assert lists[1].query["resourceVersion"] == "101"
        assert bench.names == {"a"}

    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api)
            api.put(service("a"))
            api.fail(fake_answers.stream(), verb="watch", times=-1)
            async with bench.following():
                await scenario(bench)

    run(go)


def test_a_five_megabyte_object_passes_and_a_line_without_end_does_not(run: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        big = service("big")
        big["metadata"]["annotations"] = {"x": "y" * (5 << 20)}
        await until(lambda: bench.api.open_watches)
        bench.api.put(big)
        await until(lambda: "big" in bench.names)
        assert bench.told.of("failing") == []
        bench.api.raw_frame("Service", b"x" * (7 << 20))
        bench.api.version += 1
        bench.api.raw_frame("Service", b"x" * (7 << 20))
        await until(lambda: bench.told.of("failing"))
        assert f"longer than {6 << 20} bytes" in bench.told.of("failing")[0][2]

    run(with_bench(scenario, frame_limit=6 << 20))


def test_refused_then_back(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        async with FakeApi() as api:
            api.put(service("a"))
        # Not there (any more); the port is known and free.
        bench = Bench(api)
        async with bench.following():
            await until(lambda: len(bench.waits) >= 3)
            assert f"{api.url}: refused: connection refused [test]" in bench.told.of("failing")[0][2]
            assert {r.code for r in bench.seen} == {"<error>"}
            async with api:
                await until(lambda: bench.names == {"a"})
                await until(lambda: api.open_watches)
            failed = len(bench.told.of("failing"))
            await until(lambda: len(bench.told.of("failing")) > failed)
            assert bench.names == {"a"}
            async with api:
                api.put(service("b"))
                await until(lambda: bench.names == {"a", "b"})
                await until(lambda: bench.told.said[-1][0] == "ok")

    run(go)


# ---------------------------------------------------------------- who we are


def test_a_rotated_token_is_noticed_at_once(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def go() -> None:
        token = tmp_path / "token"
        token.write_text("old")
        async with FakeApi(tokens={"old"}) as api:
            api.put(service("a"))
            access = Access(api.url, "test", token=Material("token", path=token))
            bench = Bench(api, access)
            async with bench.following():
                await until(lambda: api.open_watches)
                api.tokens = {"new"}
                token.write_text("new")
                api._ending = True
                api._poke()
                await until(lambda: not api.open_watches)
                api._ending = False
                await until(lambda: api.open_watches)
                # The 401 was answered with the new token, within the same request.
                assert not any("401" in said[2] for said in bench.told.of("failing"))
                assert api.requests[-1].headers["Authorization"] == "Bearer new"
                assert api.requests[-2].headers["Authorization"] == "Bearer old"
                assert bench.told.of("auth_failed") == []

    run(go)


@pytest.mark.parametrize("code", [401, 403])
def test_denied_access_and_its_end_are_reported_once(
    run: Callable[[Scenario], None], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        async with FakeApi() as api:
            api.put(service("a"))
            bench = Bench(api)
            api.fail(fake_answers.answer(code, "Forbidden", "node-1 may not list services"), times=4)
            async with bench.following():
                await until(lambda: bench.names == {"a"})
            assert [said[0] for said in bench.told.said if said[0].startswith("auth")] == ["auth_failed", "auth_ok"]
            assert f"({code}): node-1 may not list services" in bench.told.of("auth_failed")[0][1]
            assert bench.waits == [0.8, 1.6, 3.2, 6.4]

    run(go)
    errors = [r for r in caplog.records if r.levelname == "ERROR"]
    assert [r.getMessage() for r in errors] == ["Cannot follow the API server; rules stay as they are"]


def test_an_exec_plugin_is_run_again_after_a_401(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        given = iter(["stale", "fresh"])

        async def plugin(_: dict[str, Any]) -> ExecCredential:
            return ExecCredential(next(given), b"", b"", None)

        async with FakeApi(tokens={"fresh"}) as api:
            access = Access(api.url, "test", exec_config={"command": "x"})
            client = ApiClient(Credentials(access, plugin=plugin), version="1")
            async with client, client.stream("/api/v1/services", {}) as answer:
                assert b"".join([c async for c in answer.chunks()]).startswith(b"{")
        assert [r.headers["Authorization"] for r in api.requests] == ["Bearer stale", "Bearer fresh"]

    run(go)


def server_tls(name: str, *, client_ca: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / f"{name}.pem", TLS / f"{name}.key")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(TLS / "ca.pem")
    return context


def material(name: str) -> Material:
    return Material(name, path=TLS / name)


async def failure(access: Access) -> ApiError:
    async with ApiClient(Credentials(access), version="1", timeouts=PATIENT) as client:
        with pytest.raises(ApiError) as caught:
            async with client.stream("/api/v1/services", {}):
                pass
    return caught.value


def test_client_certificates(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        async with FakeApi(tls=server_tls("server", client_ca=True)) as api:
            api.put(service("a"))
            access = Access(
                api.url, "test", ca=material("ca.pem"), certificate=material("client.pem"), key=material("client.key")
            )
            bench = Bench(api, access)
            async with bench.following():
                await until(lambda: bench.names == {"a"})
            without = await failure(Access(api.url, "test", ca=material("ca.pem")))
            assert without.cause in (Cause.TLS, Cause.BROKEN)

    run(go)


def test_another_ca_is_named_with_the_one_that_was_expected(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        async with FakeApi(tls=server_tls("other-server")) as api:
            error = await failure(Access(api.url, "test", ca=material("ca.pem")))
            assert error.cause is Cause.TLS
            assert "unable to get local issuer certificate" in error.detail
            assert f"Expected: issued by CN=kubernetes from {TLS / 'ca.pem'} (ca.pem)" in error.detail
            assert error.detail.endswith(f"openssl s_client -connect {api.url.removeprefix('https://')}")
            assert api.requests == []

    run(go)


def test_the_servers_name_is_verified_and_may_be_given(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        async with FakeApi(tls=server_tls("server")) as api:
            wrong = await failure(Access(f"https://localhost:{api.port}", "test", ca=material("ca.pem")))
            assert wrong.cause is Cause.TLS
            assert "localhost" in wrong.detail
            named = Access(api.url, "test", ca=material("ca.pem"), tls_server_name="kubernetes.test")
            async with ApiClient(Credentials(named), version="1") as client, client.stream("/api/v1/nodes", {}):
                pass
            other = await failure(Access(api.url, "test", ca=material("ca.pem"), tls_server_name="nobody.test"))
            assert "nobody.test" in other.detail

    run(go)


def test_servers_that_are_none(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{unused.getsockname()[1]}"
            assert (await failure(Access(url, "test"))).cause is Cause.REFUSED
        gone = await failure(Access("https://api.invalid:6443", "/etc/kubeconfig"))
        assert gone.cause is Cause.UNRESOLVED
        assert "'api.invalid' resolves to nothing [/etc/kubeconfig]" in gone.detail
        async with FakeApi() as plain:
            spoken = await failure(Access(plain.url.replace("http:", "https:"), "test"))
            assert spoken.cause is Cause.TLS
        async with FakeApi(tls=server_tls("server")) as secret:
            spoken = await failure(Access(secret.url.replace("https:", "http:"), "test"))
            assert spoken.cause in (Cause.CONTENT, Cause.BROKEN)

    run(go)


# ---------------------------------------------------------------- limits


def test_a_huge_list_does_not_stay_in_memory(run: Callable[[Scenario], None]) -> None:
    size, piece = 60 << 20, b'{"metadata":{"name":"x"}},' * 40000
    counted = 0

    class Counting(Store):
        async def feed_list(self, _: Kind, chunk: bytes) -> None:
            nonlocal counted
            assert len(chunk) <= 1 << 20
            counted += len(chunk)

        async def end_list(self, kind: Kind) -> Any:
            del self.open[kind]
            return Report("7")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece) + 1):
            yield piece

    async def go() -> None:
        async with FakeApi() as api:
            bench = Bench(api)
            bench.follower.sink = Counting()
            api.fail(fake_answers.generated(parts), verb="list")
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                async with bench.following():
                    await until(lambda: bench.told.of("listed"))
                    _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert counted >= size
        # The server's half of the socket is in it, too: its current piece, and what it has not got rid of yet.
        assert peak - before < 8 << 20, f"{(peak - before) >> 10} KiB"

    run(go)


def test_events_are_created_repeated_and_given_up(run: Callable[[Scenario], None]) -> None:
    async def go() -> None:
        now = 0.0
        async with FakeApi() as api:
            client = ApiClient(Credentials(Access(api.url, "test")), version="1")
            async with client:
                recorder = EventRecorder(client, "node-1", clock=lambda: now, wall=lambda: 1e9 + now)
                task = asyncio.create_task(recorder.run())
                recorder.starting()
                recorder.default_mode("mode is empty: iptables")
                recorder.health_check_failed("shop", "web", "port 30000 is in use")
                await until(lambda: len(api.events) == 3)
                assert [(e["reason"], e["action"], e["type"], e["regarding"]["kind"]) for e in api.events.values()] == [
                    ("Starting", "StartKubeProxy", "Normal", "Node"),
                    ("KubeProxyDefaultMode", "StartKubeProxy", "Warning", "Node"),
                    ("FailedToStartServiceHealthcheck", "Listen", "Warning", "Service"),
                ]
                assert {e["reportingController"] for e in api.events.values()} == {"kube-proxy"}
                now = 200.0
                recorder.health_check_failed("shop", "web", "port 30000 is in use")
                await until(lambda: any("series" in e for e in api.events.values()))
                patched = next(e for e in api.events.values() if "series" in e)
                assert patched["series"]["count"] == 2
                assert api.asked("Event", "patch")[0].headers["Content-Type"] == "application/merge-patch+json"
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    run(go)


def test_events_that_are_forbidden_are_complained_about_once(
    run: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def go() -> None:
        async with FakeApi() as api:
            api.fail(fake_answers.answer(500, "InternalError"), verb="post", times=1)
            api.fail(fake_answers.answer(403, "Forbidden"), verb="post", times=-1)
            async with ApiClient(Credentials(Access(api.url, "test")), version="1", limits=UNLIMITED) as client:
                recorder = EventRecorder(client, "node-1", clock=lambda: 0.0, sleep=sleep)
                task = asyncio.create_task(recorder.run())
                for number in range(4):
                    recorder.not_programmed("shop", f"web-{number}", "why")
                await until(lambda: len(api.asked("Event", "post")) == 5)
                # One more: nothing is sent between the last of these and this one.
                recorder.not_programmed("shop", "later", "why")
                await until(lambda: len(api.asked("Event", "post")) == 6)
                posts = [json.loads(post.body)["regarding"]["name"] for post in api.asked("Event", "post")]
                assert posts == ["web-0", "web-0", "web-1", "web-2", "web-3", "later"]
                assert not task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    run(go)
    assert slept == [10.0], "a passing failure is tried again, a refusal is not"
    said = [r for r in caplog.records if "Cannot write Events" in r.getMessage()]
    assert len(said) == 1
