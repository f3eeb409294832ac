"""Runs steps in order, prints progress, and writes each result before the next step."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from bench.probe import Unfinished
from bench.results import ROOT, Results, Row
from bench.stats import number

REASON_LENGTH = 600


class RowTimeout(Exception):
    """The row exceeded its time limit."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row to measure, with an estimate of its seconds."""

    row: str
    shape: str = ""
    subject: str = ""
    backend: str = ""
    guess: float = 5.0

    @property
    def key(self) -> str:
        """The key of the row."""
        return Row(self.row, self.shape, self.subject, self.backend).key

    def __str__(self) -> str:
        return " ".join(part for part in (self.row, self.shape, self.subject, self.backend) if part)


@dataclass(slots=True)
class Runner:
    """Runs steps. `steps` is the whole plan, for progress and remaining time."""

    steps: list[Step]
    results: Results
    path: Path
    budget: float | None = None
    """Seconds; steps that would start later are skipped and recorded as such."""
    keep: bool = False
    """Whether rows in the file are kept."""
    redo: tuple[str, ...] = ()
    """Prefixes of keys that are measured again."""
    begun: float = field(default_factory=time.monotonic)
    _done: set[str] = field(default_factory=set)

    def wanted(self, step: Step) -> bool:
        """Returns whether the step is planned and not measured yet."""
        return step in self.steps and step.key not in self._done and not self.have(step)

    def have(self, step: Step) -> bool:
        """Returns whether the step was measured in an earlier run."""
        found = self.results.find(step.row, step.shape, step.subject, step.backend)
        again = bool(self.redo) and step.key.startswith(self.redo)
        return self.keep and not again and found is not None and found.status in ("ok", "unfinished")

    @property
    def late(self) -> bool:
        """Whether the time budget is spent."""
        return self.budget is not None and time.monotonic() - self.begun > self.budget

    def run(self, step: Step, body: Callable[[], dict[str, float]], limit: float) -> Row:
        """Runs a step for at most `limit` seconds. The body returns the row's values."""
        row = Row(step.row, step.shape, step.subject, step.backend)
        if self.late:
            return self.skip(step, "out of time: the run's budget was spent")
        say(f"{self._head()} {step} … (about {step.guess:.0f} s, {self._left()} to go)")
        since = time.monotonic()
        try:
            with deadline(limit):
                row.values = body()
        except Unfinished as given_up:
            row.status, row.reason, row.values = "unfinished", str(given_up), {"seconds": given_up.seconds}
        except KeyboardInterrupt:
            raise
        except Exception as error:  # a failed row is recorded, and the next one runs
            row.status, row.reason = "failed", because(error)
        row.took = round(time.monotonic() - since, 2)
        self.record(step, row)
        return row

    def skip(self, step: Step, reason: str) -> Row:
        """Records a skipped step."""
        row = Row(step.row, step.shape, step.subject, step.backend, status="skipped", reason=reason)
        self.record(step, row)
        return row

    def record(self, step: Step, row: Row) -> None:
        """Writes a row to the file immediately."""
        self._done.add(step.key)
        self.results.add(row)
        self.results.save(self.path)
        shown = ", ".join(f"{name} {number(value)}" for name, value in row.values.items())
        state = "" if row.status == "ok" else f" {row.status.upper()}: {row.reason}"
        say(f"{self._head()} {step}: {shown}{state} [{row.took:.1f} s]")

    def _head(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
        done = sum(step.key in self._done or self.have(step) for step in self.steps)
        return f"[{minutes:02d}:{seconds:02d} {done}/{len(self.steps)}]"

    def _left(self) -> str:
        left = sum(step.guess for step in self.steps if step.key not in self._done and not self.have(step))
        return f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"


def because(error: Exception) -> str:
    """Returns the published text of a failure, without this machine's paths."""
    return f"{type(error).__name__}: {error}".replace(f"{ROOT}/", "")[:REASON_LENGTH]


def say(line: str) -> None:
    """Prints progress on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `RowTimeout` in the block; main thread only."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise RowTimeout(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def calm(most: float, busy: float = 0.25) -> None:
    """Waits until the machine is idle: the kernel frees a large namespace's rules after its end."""
    end = time.monotonic() + most
    while time.monotonic() < end:
        before = _jiffies()
        time.sleep(1.0)
        idle, total = (after - was for after, was in zip(_jiffies(), before, strict=True))
        if total and 1 - idle / total < busy:
            return


def _jiffies() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
