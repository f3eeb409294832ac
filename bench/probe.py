"""Measures one change at a time: a warm connection to the API server, a Service that moves, a client."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.harness.cluster import LOCALHOST, PORT, Cluster
from tests.e2e.harness.fabric import NodeHost
from tests.e2e.harness.world import World

from bench import shapes
from bench.shapes import Request, Shape

HERE = Path(__file__).parent


class Unfinished(Exception):
    """A measurement was stopped after a number of seconds: a lower bound, and a result."""

    def __init__(self, seconds: float, what: str) -> None:
        super().__init__(what)
        self.seconds = seconds


class Writer:
    """One warm connection to the API server, so that a write needs no handshake."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._context = ssl.create_default_context(cafile=str(cluster.ca))
        self._context.load_cert_chain(cluster.admin_cert.cert, cluster.admin_cert.key)
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        plain = self._cluster.host.netns.call(lambda: socket.create_connection((LOCALHOST, PORT), 15.0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = http.client.HTTPConnection(LOCALHOST, PORT, timeout=15.0)
        connection.sock = self._context.wrap_socket(plain, server_hostname=LOCALHOST)
        return connection

    def send(self, request: Request) -> float:
        """Sends a request. Returns the monotonic time of sending, once it is accepted."""
        try:
            return self._send(request)
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            # The server closes idle connections; every write here may be repeated.
            self._connection.close()
            self._connection = self._connect()
            return self._send(request)

    def _send(self, request: Request) -> float:
        method, path, body, content = request
        begun = time.monotonic()
        self._connection.request(method, path, json.dumps(body), {"Content-Type": content})
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]!r}")
        return begun

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()


class Probe:
    """A Service `probe` whose only endpoint moves between two real Pods, and a client that reports the responding
    Pod."""

    def __init__(self, world: World, node: NodeHost) -> None:
        self.world = world
        self.pods = [world.pod(name, node, app="probe") for name in ("probe-a", "probe-b")]
        self._now = 0
        self._client = world.client(node, "pinger")
        self._shape = Shape(1, 1, namespace=world.namespace)
        created = world.service("probe", selector={})
        self.address = created["spec"]["clusterIP"]
        target = created["spec"]["ports"][0]["targetPort"]
        slice_ = shapes.endpoint_slice(self._shape, 0, 0, [self.pods[0].ip])
        slice_["metadata"]["labels"]["kubernetes.io/service-name"] = "probe"
        # The Service's port is called main, as in the harness.
        slice_["ports"] = [{"name": "main", "port": target, "protocol": "TCP"}]
        world.api.create(slice_)

    def move(self) -> tuple[Request, str]:
        """Returns the write that moves the endpoint, and the Pod that responds afterwards."""
        self._now = 1 - self._now
        pod = self.pods[self._now]
        return shapes.patch(self._shape, 0, [pod.ip]), pod.name

    @property
    def current(self) -> str:
        """The Pod that should respond."""
        return self.pods[self._now].name

    @contextmanager
    def asking(self, patience: float) -> Iterator[Answers]:
        """Runs the client in the block, hundreds of requests per second; starts once the right Pod responds."""
        child = self._client.netns.popen(
            (sys.executable, "-S", str(HERE / "ping.py"), self.address, "80"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            answers = Answers(child)
            answers.wait_for(self.current, patience)
            yield answers
        finally:
            child.kill()
            child.communicate()


class Answers:
    """Reads the pinger's lines with a deadline."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(child,), name="pinger", daemon=True).start()

    def _read(self, child: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ValueError):  # closed while we read
            for line in child.stdout or ():
                self._lines.put(line)
        self._lines.put("")

    def wait_for(self, name: str, patience: float) -> float:
        """Returns the monotonic time of this Pod's first response; raises `Unfinished`."""
        end = time.monotonic() + patience
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Unfinished(patience, f"{name} did not answer") from None
            if not line:
                raise RuntimeError("the pinger ended")
            who, when = line.split()
            if who == name:
                return float(when)
