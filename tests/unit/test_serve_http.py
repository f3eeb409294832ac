"""Tests the two fixed ports over sockets: responses as in kube-proxy's recording, and limits whatever a client does."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ferrule.observe.health import ProxyHealth, Readiness, Subsystem
from ferrule.observe.metrics import Metrics
from ferrule.serve import listener as listeners
from ferrule.serve.admin import admin_handler
from ferrule.serve.health import health_handler
from ferrule.serve.http import Limits, Request, Response
from ferrule.serve.listener import Endpoint, Listener, ListenError, open_socket
from ferrule.serve.profiling import profiling_handler
from ferrule.testing.waiting import soon, until
from tests.http_client import Reply, ask, parse, run_on, running

STOCK = Path(__file__).parent.parent / "data" / "stock"
LOCAL = Endpoint("127.0.0.1", 0)


class Daemon:
    """The objects that the two handlers read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.health = ProxyHealth(60.0, clock=lambda: self.now, wall_ns=lambda: 1_795_471_067_839_461_748)
        self.readiness = Readiness({Subsystem.LISTS: "no list yet"})
        self.metrics = Metrics({"version": "0.1.0"})

    def health_port(self, *, in_full: bool = True) -> Listener:
        handler = health_handler(self.health, self.readiness, self.metrics, in_full=in_full)
        return Listener("healthz", LOCAL, handler)

    def admin_port(
        self,
        *,
        in_full: bool = True,
        profiling: bool = False,
        build: dict[str, str] | None = None,
        flags: dict[str, str] | None = None,
    ) -> Listener:
        handler = admin_handler(
            self.metrics,
            self.readiness,
            in_full=in_full,
            configz=lambda: b'{"kubeproxy.config.k8s.io":{}}',
            profiling=profiling_handler() if profiling else None,
            build=build,
            flags=flags,
        )
        return Listener("metrics", LOCAL, handler)


def on_port(loop: str, listener: Listener, scenario: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(listener.run()):
            await until(lambda: listener.ports)
            await scenario(listener.ports[0])

    run_on(loop, main)


def same_head(ours: Reply, recording: str) -> None:
    theirs = parse((STOCK / recording).read_bytes())
    assert ours.status_line == theirs.status_line
    varying = {"Date", "Content-Length"}
    assert ours.headers.keys() - {"Connection"} == theirs.headers.keys()
    assert {k: v for k, v in ours.headers.items() if k not in varying and k != "Connection"} == {
        k: v for k, v in theirs.headers.items() if k not in varying
    }
    assert int(ours.headers["Content-Length"]) == len(ours.body)
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", ours.headers["Date"])


# ---------------------------------------------------------------- as stock


def test_health_ports_heads_and_bodies_are_stocks(loop: str) -> None:
    daemon = Daemon()
    daemon.health.set_node_eligible(True)
    daemon.health.updated("ipv4")
    daemon.health.updated("ipv6")

    async def scenario(port: int) -> None:
        for path in ("healthz", "livez"):
            reply = await ask(port, f"/{path}")
            same_head(reply, f"http-{path}.txt")
            assert list(json.loads(reply.body)) == list(
                json.loads(parse((STOCK / f"http-{path}.txt").read_bytes()).body)
            )
        for path in ("/", "/healthz/", "/metrics", "//healthz"):
            reply = await ask(port, path)
            same_head(reply, "http-not-found.txt")
            assert reply.body == b"404 page not found\n"

    on_port(loop, daemon.health_port(), scenario)


def test_admin_ports_heads_and_bodies_are_stocks(loop: str) -> None:
    async def scenario(port: int) -> None:
        for path, recording in (("/healthz", "http-metrics-healthz.txt"), ("/proxyMode", "http-proxyMode.txt")):
            reply = await ask(port, path)
            same_head(reply, recording)
            assert reply.body == parse((STOCK / recording).read_bytes()).body
        same_head(await ask(port, "/configz"), "http-configz.txt")
        same_head(await ask(port, "/livez"), "http-not-found.txt")
        for path in ("/debug/pprof/", "/debug/pprof/profile?seconds=1"):
            assert (await ask(port, path)).status == 404, "profiling was not asked for"

    on_port(loop, Daemon().admin_port(), scenario)


def test_pages_for_people_and_slis(loop: str) -> None:
    daemon = Daemon()

    async def scenario(port: int) -> None:
        slis = await ask(port, "/metrics/slis")
        assert re.fullmatch(
            rb"# HELP process_start_time_seconds .*\n# TYPE process_start_time_seconds gauge\n"
            rb"process_start_time_seconds [\d.e+]+\n",
            slis.body,
        )
        assert slis.headers.keys() == (await ask(port, "/metrics")).headers.keys()
        flagz = await ask(port, "/flagz")
        assert flagz.body.decode().splitlines()[3:] == ["bind-address 0.0.0.0", "cleanup false"]
        statusz = (await ask(port, "/statusz")).body.decode()
        assert "\nBinary version:  0.1.0\nPaths:  /configz /flagz /healthz /metrics /proxyMode\n" in statusz
        assert re.search(
            r"^Started:  \w{3} \w{3} [ \d]\d [\d:]{8} UTC \d{4}\nUp:  0 hr 00 min \d\d sec$", statusz, re.M
        )

    shown = {"cleanup": "false", "bind-address": "0.0.0.0"}
    on_port(loop, daemon.admin_port(build={"version": "0.1.0"}, flags=shown), scenario)

    async def hidden(port: int) -> None:
        for path in ("/flagz", "/statusz"):
            assert (await ask(port, path)).status == 404, "its feature gate is off"

    on_port(loop, daemon.admin_port(), hidden)


def test_bad_health_is_503_and_counted(loop: str) -> None:
    daemon = Daemon()

    async def scenario(port: int) -> None:
        daemon.health.updated("ipv4")
        daemon.health.queued("ipv4")
        assert (await ask(port, "/healthz")).status == 503, "not eligible"
        assert (await ask(port, "/livez")).status == 200
        daemon.now += 60
        assert (await ask(port, "/livez")).status == 503
        reply = await ask(port, "/readyz")
        assert (reply.status, json.loads(reply.body)["reasons"]) == (503, {"lists": "no list yet"})
        daemon.readiness.release(Subsystem.LISTS)
        assert (await ask(port, "/readyz")).status == 200

    on_port(loop, daemon.health_port(), scenario)
    samples = {
        (sample.name, sample.labels.get("code")): sample.value
        for metric in daemon.metrics.registry.collect()
        for sample in metric.samples
        if sample.name.startswith("kubeproxy_proxy_")
    }
    assert samples == {
        ("kubeproxy_proxy_healthz_total", "503"): 1,
        ("kubeproxy_proxy_livez_total", "200"): 1,
        ("kubeproxy_proxy_livez_total", "503"): 1,
    }


@pytest.mark.parametrize("in_full", [True, False])
def test_reasons_are_quoted_only_in_full(loop: str, in_full: bool) -> None:
    daemon = Daemon()
    quoted = "line 7: -A KUBE-SEP-X --to-destination 10.128.1.10:8080 in /etc/ferrule/shop.yaml"
    daemon.readiness.hold(Subsystem.SERVICES, quoted)

    async def scenario(port: int) -> None:
        reply = await ask(port, "/readyz")
        assert (reply.status, reply.headers["Content-Type"]) == (503, "application/json")
        reasons = json.loads(reply.body)["reasons"]
        assert reasons.keys() == {"lists", "services"}
        assert reasons["services"] == (quoted if in_full else "the last sync failed")

    for listener in (daemon.health_port(in_full=in_full), daemon.admin_port(in_full=in_full)):
        on_port(loop, listener, scenario)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        (":1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
    ],
)
def test_which_addresses_only_this_host_reaches(address: str, loopback: bool) -> None:
    endpoint = Endpoint.parse(address, 1)
    assert endpoint is not None
    assert endpoint.is_loopback is loopback


def test_metrics_are_served_and_negotiated(loop: str) -> None:
    async def scenario(port: int) -> None:
        plain = await ask(port, "/metrics")
        assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert re.fullmatch(r"\d{10}", plain.headers["Process-Start-Time-Unix"])
        assert b"# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram\n" in plain.body
        assert b"\nprocess_resident_memory_bytes " in plain.body
        packed = await ask(port, "/metrics", headers="Accept-Encoding: gzip\r\n")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body).startswith(b"# HELP")
        other = await ask(port, "/metrics", headers="Accept: application/openmetrics-text;version=1.0.0\r\n")
        assert other.headers["Content-Type"].startswith("application/openmetrics-text")
        one = await ask(port, "/metrics?name[]=ferrule_build_info&name[]=process_open_fds")
        names = [line.split("{")[0].split()[0] for line in one.body.decode().splitlines() if line[0] != "#"]
        assert sorted(names) == ["ferrule_build_info", "process_open_fds"]

    on_port(loop, Daemon().admin_port(), scenario)


def test_profiling_looks_inside_and_leaves_nothing_on(loop: str) -> None:
    import tracemalloc

    async def scenario(port: int) -> None:
        assert b"goroutine" in (await ask(port, "/debug/pprof/")).body
        assert b"test_serve_http" in (await ask(port, "/debug/pprof/goroutine?debug=2")).body
        handler = profiling_handler()
        both = await asyncio.gather(
            *(handler(Request(f"/debug/pprof/{what}", {"seconds": ("0.1",)})) for what in ("profile", "heap"))
        )
        assert [answer.status for answer in both] == [200, 409], "one at a time"
        profile = await ask(port, "/debug/pprof/profile?seconds=0.1")
        assert re.search(rb"^MainThread;.* \d+$", profile.body, re.M)
        heap = await ask(port, "/debug/pprof/heap?seconds=0.1")
        assert re.match(rb"\d+ bytes in \d+ blocks", heap.body)
        assert not tracemalloc.is_tracing()
        for seconds in ("0", "-1", "61", "nan", "inf", "soon"):
            assert (await ask(port, f"/debug/pprof/heap?seconds={seconds}")).status == 400
        assert (await ask(port, "/debug/pprof/cmdline")).status == 404

    on_port(loop, Daemon().admin_port(profiling=True), scenario)


# ---------------------------------------------------------------- misbehaving clients


def echo(limits: Limits, body: bytes = b"ok") -> Listener:
    async def handle(_: Request) -> Response:
        return Response(body)

    return Listener("test", LOCAL, handle, limits=limits)


async def at_end(reader: asyncio.StreamReader) -> bytes:
    """Reads until the connection ends."""
    got = b""
    try:
        while chunk := await reader.read(65536):
            got += chunk
    except ConnectionError:
        pass
    return got


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS to a plain port
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100)) + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["tls", "long header", "long path", "many headers", "no path", "a tunnel"],
)
def test_nonsense_gets_400_the_door_and_no_log_line(
    loop: str, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(port: int) -> None:
        caplog.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        reply = parse(await at_end(reader))
        assert (reply.status, reply.body) == (400, b"400 Bad Request")
        assert "Server" not in reply.headers
        writer.close()
        assert caplog.records == []
        assert (await ask(port)).status == 200

    on_port(loop, echo(Limits()), scenario)


def test_only_reading_is_allowed_and_a_body_is_not_waited_for(loop: str) -> None:
    async def scenario(port: int) -> None:
        reply = await ask(port, "/", method="DELETE")
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
        head = await ask(port, "/", method="HEAD")
        assert (head.status, head.headers["Content-Length"], head.body) == (200, "2", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc")
        assert parse(await at_end(reader)).status == 200
        writer.close()

    on_port(loop, echo(Limits()), scenario)


@pytest.mark.parametrize("expected", ["100-continue", "something"])
def test_an_expectation_changes_nothing(loop: str, expected: str) -> None:
    async def scenario(port: int) -> None:
        reply = await ask(port, "/", headers=f"Expect: {expected}\r\n")
        assert (reply.status, reply.body) == (200, b"ok")

    on_port(loop, echo(Limits()), scenario)


def test_a_malformed_request_behind_a_good_one_gets_an_answer_of_its_own(loop: str) -> None:
    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(2) == b"ok"
        writer.write(b"nonsense\r\n\r\n")
        reply = parse(await at_end(reader))
        assert (reply.status, reply.body) == (400, b"400 Bad Request")
        writer.close()

    on_port(loop, echo(Limits()), scenario)


def test_an_empty_answer_has_a_head(loop: str) -> None:
    async def scenario(port: int) -> None:
        reply = await ask(port)
        assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "0", b"")

    on_port(loop, echo(Limits(), b""), scenario)


def test_a_client_that_leaves_ends_its_handler(loop: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handle(_: Request) -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Response(b"")

    async def scenario(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        writer.close()
        await soon(ended.wait())

    on_port(loop, Listener("test", LOCAL, handle), scenario)


def test_a_connection_is_used_again(loop: str) -> None:
    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Connection:" not in head
            assert await reader.readexactly(2) == b"ok"
        writer.close()

    on_port(loop, echo(Limits()), scenario)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: ", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_silent_and_slow_clients_are_let_go(loop: str, said: bytes) -> None:
    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        got = await at_end(reader)  # comes to an end without our doing
        assert got.endswith(b"ok") if said.endswith(b"\r\n\r\n") else got == b""
        writer.close()

    on_port(loop, echo(Limits(idle_seconds=0.5)), scenario)


def test_a_client_that_does_not_read_is_given_up(loop: str) -> None:
    async def scenario(port: int) -> None:
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: len(pool) == 1)
            await until(lambda: len(pool) == 0)

    listener = echo(Limits(response_seconds=0.2), b"x" * (8 << 20))
    pool = listener._http.connections
    on_port(loop, listener, scenario)


def test_at_the_limit_the_oldest_connection_goes_and_probes_are_answered(loop: str) -> None:
    async def scenario(port: int) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        await until(lambda: len(pool) == 8)
        for _ in range(20):
            assert (await ask(port)).body == b"ok"
        assert len(pool) <= 8
        assert await at_end(silent[0][0]) == b"", "the oldest one was cut"
        for _, writer in silent:
            writer.close()

    listener = echo(Limits(connections=8))
    pool = listener._http.connections
    on_port(loop, listener, scenario)


def test_at_the_limit_a_request_in_progress_is_spared(loop: str) -> None:
    async def scenario(port: int) -> None:
        release = asyncio.Event()
        gates.append(release)
        oldest = asyncio.ensure_future(ask(port, "/slow"))
        await until(lambda: reached)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        assert (await ask(port)).body == b"ok"
        release.set()
        assert (await oldest).body == b"ok"
        for _, writer in silent:
            writer.close()

    gates: list[asyncio.Event] = []
    reached: list[str] = []

    async def handle(request: Request) -> Response:
        if request.path == "/slow":
            reached.append(request.path)
            await gates[0].wait()
        return Response(b"ok")

    on_port(loop, Listener("test", LOCAL, handle, limits=Limits(connections=8)), scenario)


def test_a_handler_that_fails_is_a_500_and_one_line(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(_: Request) -> Response:
        raise RuntimeError("broken")

    async def scenario(port: int) -> None:
        reply = await ask(port)
        assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")

    on_port(loop, Listener("test", LOCAL, handle), scenario)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["Cannot answer"]


# ---------------------------------------------------------------- listening


def test_a_taken_port_is_tried_again_and_said_once(
    loop: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str | None] = []
    tries: list[Endpoint] = []

    def tried(endpoint: Endpoint, limits: Limits) -> socket.socket:
        tries.append(endpoint)
        return open_socket(endpoint, limits)

    monkeypatch.setattr(listeners, "open_socket", tried)

    async def handle(_: Request) -> Response:
        return Response(b"mine")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            listener = Listener(
                "healthz", Endpoint("127.0.0.1", port), handle, on_state=states.append, retry_seconds=0.01
            )
            async with running(listener.run()):
                await until(lambda: len(tries) >= 4)
                assert states == [f"cannot listen on 127.0.0.1:{port}: address already in use"]
                other.close()
                await until(lambda: listener.ports)
                assert (await ask(port)).body == b"mine"
                assert states[1:] == [None]
            with pytest.raises(ConnectionRefusedError):
                await ask(port)

    run_on(loop, main)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["Cannot listen"]


def test_hard_fail_ends_with_name_and_reason(loop: str) -> None:
    async def handle(_: Request) -> Response:
        return Response(b"")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            endpoint = Endpoint("127.0.0.1", other.getsockname()[1])
            with pytest.raises(
                ListenError, match=r"metrics: cannot listen on 127\.0\.0\.1:\d+: address already in use"
            ):
                await Listener("metrics", endpoint, handle, hard_fail=True).run()

    run_on(loop, main)


def test_the_end_does_not_wait_for_clients(loop: str) -> None:
    """A running handler and an idle client: both are disconnected, and the port is free immediately."""
    started = asyncio.Event()

    async def handle(_: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        return Response(b"")

    async def main() -> None:
        listener = Listener("test", LOCAL, handle)
        async with running(listener.run()):
            await until(lambda: listener.ports)
            port = listener.ports[0]
            busy, idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            busy[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await started.wait()
        assert await at_end(busy[0]) == b""
        assert await at_end(idle[0]) == b""
        busy[1].close()
        idle[1].close()
        with socket.create_server(("127.0.0.1", port)):
            pass

    run_on(loop, main)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("", None),
        ("127.0.0.1:10249", Endpoint("127.0.0.1", 10249)),
        ("127.0.0.1", Endpoint("127.0.0.1", 7)),
        ("0.0.0.0:10256", Endpoint("0.0.0.0", 10256, dual=True)),
        ("[::]:10256", Endpoint("::", 10256, dual=True)),
        (":10256", Endpoint("::", 10256, dual=True)),
        ("::", Endpoint("::", 7, dual=True)),
        ("[::1]:1", Endpoint("::1", 1)),
        ("fd00::1", Endpoint("fd00::1", 7)),
    ],
)
def test_addresses(text: str, endpoint: Endpoint | None) -> None:
    assert Endpoint.parse(text, 7) == endpoint


@pytest.mark.parametrize("text", ["localhost:1", "1.2.3.4:", "1.2.3.4:65536", "1.2.3:1", "[::1", "1.2.3.4:x", "::1:x"])
def test_bad_addresses_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Endpoint.parse(text, 7)
