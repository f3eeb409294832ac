"""Traffic that runs while something happens, and the verdict on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ferrule.testing.lab import Host, finish

RATE = 200


@dataclass(slots=True)
class Verdict:
    """Filled when the load has ended."""

    connections: int = 0
    """New connections made, each with a question and an answer."""
    errors: list[str] = field(default_factory=list)
    beats: int = 0
    """Lines exchanged on the long-lived stream."""
    broken: str | None = None
    """What broke the stream, if anything did."""

    def assert_unbroken(self, at_least: int = 1) -> None:
        """No connection failed, the stream lives, and there was traffic worth the name."""
        assert not self.errors, f"{len(self.errors)} of {self.connections} connections failed: {self.errors[:5]}"
        assert self.broken is None, f"the stream broke after {self.beats} lines: {self.broken}"
        assert self.connections >= at_least, f"only {self.connections} connections"
        assert self.beats > 0, "the stream carried nothing"


@contextmanager
def load(client: Host, address: str, port: int, rate: float = RATE) -> Iterator[Verdict]:
    """`rate` new connections a second and one stream, from `client`; look at the verdict after the block."""
    verdict = Verdict()
    stream = client.start("stream", address, str(port))
    try:
        knock = client.start("knock", address, str(port), str(rate))
    except BaseException:
        stream.kill()
        stream.communicate()
        raise
    try:
        yield verdict
    except BaseException:
        for child in (knock, stream):
            child.kill()
            child.communicate()
        raise
    counted = finish(knock)
    verdict.connections, verdict.errors = counted["connections"], counted["errors"]
    counted = finish(stream)
    verdict.beats, verdict.broken = counted["beats"], counted["broken"]
