"""Generates traffic during a change, and evaluates it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ferrule.testing.lab import Host, finish

RATE = 200


@dataclass(frozen=True, slots=True)
class Knock:
    """New connections of one kind, `rate` per second, each with a request and a response."""

    client: Host
    address: str
    port: int
    rate: float = RATE
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.client.name} → {self.address}:{self.port}/{self.protocol}"


@dataclass(slots=True)
class Verdict:
    """The result of a load, available at its end."""

    connections: int = 0
    """Number of new connections of all kinds."""
    by_kind: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """Duration of the load in seconds."""
    errors: list[str] = field(default_factory=list)
    beats: int = 0
    """Number of lines exchanged on the long-lived stream."""
    broken: str | None = None
    """The failure of the stream, if any."""

    def assert_unbroken(self, at_least: int = 1) -> None:
        """Checks that no connection failed, the stream is open, and there was enough traffic."""
        assert not self.errors, f"{len(self.errors)} of {self.connections} connections failed: {self.errors[:5]}"
        assert self.broken is None, f"the stream broke after {self.beats} lines: {self.broken}"
        assert self.connections >= at_least, f"only {self.connections} connections"
        assert self.beats > 0, "the stream carried nothing"

    def __str__(self) -> str:
        return (
            f"{self.connections} connections in {self.seconds:.1f} s, {len(self.errors)} failed; "
            f"{self.beats} lines on the stream, broken: {self.broken}; {self.by_kind}"
        )


@contextmanager
def load(client: Host, address: str, port: int, rate: float = RATE) -> Iterator[Verdict]:
    """Runs `rate` new connections per second and one stream from `client`; read the result after the block."""
    with mixed_load((client, address, port), [Knock(client, address, port, rate)]) as verdict:
        yield verdict


@contextmanager
def mixed_load(stream: tuple[Host, str, int], knocks: Sequence[Knock]) -> Iterator[Verdict]:
    """Runs all these kinds concurrently and one stream (client, address, port); read the result after the block."""
    verdict = Verdict()
    with ExitStack() as undo:
        host, address, port = stream
        talking = host.start("stream", address, str(port))
        undo.callback(_end, talking)
        since = time.monotonic()
        knocking: list[tuple[Knock, subprocess.Popen[str]]] = []
        for knock in knocks:
            words = (knock.address, str(knock.port), str(knock.rate), knock.protocol)
            knocking.append((knock, knock.client.start("knock", *words)))
            undo.callback(_end, knocking[-1][1])
        yield verdict
        verdict.seconds = time.monotonic() - since
        for knock, child in knocking:
            counted = finish(child)
            verdict.by_kind[str(knock)] = counted["connections"]
            verdict.connections += counted["connections"]
            verdict.errors += (f"{knock}: {error}" for error in counted["errors"])
        counted = finish(talking)
        verdict.beats, verdict.broken = counted["beats"], counted["broken"]


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.kill()
    child.communicate()
