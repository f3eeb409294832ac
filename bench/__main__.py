"""`make bench`, `make bench-full`: engine, tools, whole daemons on a real API server, stock kube-proxy beside ferrule.

Progress goes to stderr, every result immediately to the JSON file; at the end tables and plots are written. The run
continues after a failed row; it exits with 1 if any failed, or if a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.e2e.harness.fabric import Fabric

from bench import plan, report, results, shapes
from bench.ground import Ground, Setting, setting
from bench.plan import ALONE, BACKENDS, DAEMON, SUBJECTS, Part
from bench.probe import Unfinished
from bench.results import Results
from bench.rows import change, engine, packets, start, tool
from bench.runner import Runner, Step, because, calm, say
from bench.shapes import Shape
from ferrule._engine import build_info

TOOL = {"tool": tool.tool, "kernel": tool.kernel}
"""Rows that do not need the daemon."""

EXAMPLES = """subjects: ferrule as installed; stock: kube-proxy, iptables mode; stock-nftables: its nftables mode;
ferrule-flat: with dispatch flat (first sync and packets only). What the rows are: bench/README.md.

examples:
  make bench                                              five minutes: engine rows, all proxies at 1,000 Services
  make bench-full                                         everything; writes docs/performance.md and its plots
  make bench-full ARGS='--resume'                         only what the last run has not measured
  make bench-full ARGS='--resume --redo engine,change'    repeat these rows
  make bench ARGS='--shapes 10000x4 --rows start,change --subjects ferrule,stock --backends legacy'
  make bench ARGS='--shapes 30000x4 --subjects stock --backends nft --rows start --patience 3000'
  make bench ARGS='--report-only target/bench/full.json'  tables and plots again
"""

NO_SYNC = "its first sync was given up"
"""Not a failure: the row of the start reports it."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; exits for invalid options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = _words
    parser.add_argument(
        "--full", action="store_true", help="all sizes and rows (an hour and a quarter) instead of the short run"
    )
    parser.add_argument(
        "--shapes", type=words, help="SERVICESxENDPOINTS[xPORTS][-dual],… with all daemon rows asked for"
    )
    parser.add_argument("--rows", type=words, help=f"of {', '.join((*ALONE, *DAEMON))}")
    parser.add_argument("--subjects", type=words, default=SUBJECTS, help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--backends", type=words, default=BACKENDS, help=f"of {', '.join(BACKENDS)}")
    parser.add_argument(
        "--json", type=Path, help="results; grows row by row (default: target/bench/short.json, full.json)"
    )
    parser.add_argument("--docs", type=Path, help="a folder for performance.md and plots (default: docs with --full)")
    parser.add_argument(
        "--redo", type=words, default=(), help="with --resume: repeat rows with this prefix (start/30000x4,…)"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has, measure the rest")
    parser.add_argument(
        "--report-only", type=Path, metavar="FILE", help="measure nothing: tables and plots from a file"
    )
    parser.add_argument("--minutes", type=float, help="start no row after this time (default: 80 with --full)")
    parser.add_argument(
        "--patience", type=float, help="seconds for a first sync (default: 300; 60 where it is hopeless)"
    )
    parser.add_argument("--min-sync", default="10ms", help="minSyncPeriod of all proxies (default: %(default)s)")
    parser.add_argument("--change-seconds", type=float, help="for one change after the other (default: 10, full 12)")
    parser.add_argument("--churn-seconds", type=float, default=15.0, help="default: %(default)s")
    parser.add_argument("--churn-percent", type=float, default=1.0, help="endpoints replaced a minute (default: 1)")
    parser.add_argument("--flood", type=int, default=10_000, help="changes of the flood row (default: %(default)s)")
    parser.add_argument("--idle-seconds", type=float, default=35.0, help="default: %(default)s")
    parser.add_argument(
        "--calm", type=float, default=20.0, help="maximum seconds to wait for an idle machine (default: 20)"
    )
    asked = parser.parse_args(argv)
    for option, known in (("rows", (*ALONE, *DAEMON)), ("subjects", SUBJECTS), ("backends", BACKENDS)):
        unknown = [word for word in getattr(asked, option) or () if word not in known]
        if unknown:
            parser.error(f"--{option}: {', '.join(unknown)}: not one of {', '.join(known)}")
    try:
        for label in asked.shapes or ():
            shapes.parse(label)
    except ValueError as error:
        parser.error(f"--shapes: {error}")
    return asked


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def parts(asked: argparse.Namespace) -> tuple[Part, ...]:
    """Returns the parts that the options select, before rows, subjects and backends restrict them."""
    profile = plan.FULL if asked.full else plan.SHORT
    if asked.shapes:
        known = {part.shape: part for part in profile}
        every = asked.rows or ("start", "change", "restart")
        return tuple(
            # Explicit rows take precedence over the profile.
            replace(known.get(label, Part(label, every)), rows=asked.rows or known.get(label, Part(label, every)).rows)
            for label in asked.shapes
        )
    return profile


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench. Returns the exit code."""
    asked = parse(argv)
    if asked.report_only:
        return conclude(results.load(asked.report_only), asked.docs or results.ROOT / "docs")
    build = build_info()
    if build["profile"] != "release":
        print("ferrule: the engine is a debug build, which measures nothing: run `make build`", file=sys.stderr)
        return 2
    path = asked.json or results.ROOT / "target" / "bench" / ("full.json" if asked.full else "short.json")
    found = results.load(path) if asked.resume and path.exists() else Results()
    found.machine, found.versions = results.machine(), results.versions(build)
    found.settings = settings(asked)
    every = plan.steps(parts(asked), asked.rows or (*ALONE, *DAEMON), asked.subjects, asked.backends)
    minutes = asked.minutes or (80.0 if asked.full else None)
    runner = Runner(every, found, path, minutes * 60 if minutes else None, keep=asked.resume, redo=asked.redo)
    say(f"{len(every)} rows, about {sum(step.guess for step in every if not runner.have(step)) / 60:.0f} min; {path}")
    Run(runner, asked).all()
    return conclude(found, asked.docs or (results.ROOT / "docs" if asked.full else None))


def settings(asked: argparse.Namespace) -> dict[str, object]:
    """Returns what the rows depend on besides their names."""
    return {
        "minSyncPeriod": asked.min_sync,
        "churn percent a minute": asked.churn_percent,
        "churn seconds": asked.churn_seconds,
        "idle seconds": asked.idle_seconds,
        "flows": packets.FLOWS,
        "connections": packets.CONNECTIONS,
    }


def conclude(found: Results, docs: Path | None) -> int:
    """Prints and writes tables, plots, the verdict."""
    print(report.summary(found))
    if docs is not None:
        for path in report.write(found, docs):
            say(f"wrote {path}")
    bad = [row for row in found.rows if row.status == "failed" or (row.status == "skipped" and row.reason != NO_SYNC)]
    missed = [check for check in report.checks(found) if check.met is False]
    for row in bad:
        say(f"{row.status}: {row.key}: {row.reason}")
    for check in missed:
        say(f"bar missed: {check.name}: {check.measured}, wanted {check.wanted}")
    return 1 if bad or missed else 0


class Run:
    """Runs the steps, grouped by what they share: a shape's API content, a daemon's lifetime."""

    def __init__(self, runner: Runner, asked: argparse.Namespace) -> None:
        self.runner, self.asked = runner, asked
        self._change_seconds = asked.change_seconds or (12.0 if asked.full else 10.0)

    def all(self) -> None:
        """Runs all steps in the order of the plan."""
        alone = [step for step in self.runner.steps if step.row in ALONE and self.runner.wanted(step)]
        for step in alone:
            self._alone(step)
        labels = list(dict.fromkeys(s.shape for s in self.runner.steps if s.row in DAEMON and self.runner.wanted(s)))
        if not labels:
            return
        with ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="ferrule-bench-"))
            ground = Ground(undo.enter_context(Fabric()), Path(folder))
            undo.callback(ground.close)
            for label in labels:
                self._shape(ground, shapes.parse(label))

    def _alone(self, step: Step) -> None:
        if step.row == "engine":
            self._engine(step)
            return
        bodies: dict[str, Callable[[], dict[str, float]]] = {
            "plan": lambda: engine.plan(shapes.parse(step.shape)),
            "tool": lambda: TOOL[step.subject](shapes.parse(step.shape), step.backend),
            "empty": lambda: packets.empty(step.backend),
        }
        if step.row != "plan":
            calm(self.asked.calm)
        self.runner.run(step, bodies[step.row], 900.0)

    def _engine(self, step: Step) -> None:
        """Runs the engine's bench: one step, many rows."""

        def body() -> dict[str, float]:
            count = 0
            for row in engine.cargo():
                self.runner.results.add(row)
                count += 1
                say(f"    {row.subject:<44} {row.reason}{' FAILED' if row.status == 'failed' else ''}")
            return {"rows": float(count)}

        self.runner.run(step, body, engine.CARGO_SECONDS)

    def _steps(self, label: str, subject: str = "", backend: str = "") -> list[Step]:
        return [
            step
            for step in self.runner.steps
            if step.row in DAEMON
            and step.shape == label
            and (not subject or (step.subject, step.backend) == (subject, backend))
            and self.runner.wanted(step)
        ]

    def _skip(self, steps: Iterable[Step], reason: str) -> None:
        for step in steps:
            self.runner.skip(step, reason)

    def _shape(self, ground: Ground, shape: Shape) -> None:
        if self.runner.late:
            self._skip(self._steps(shape.label), "out of time: the run's budget was spent")
            return
        say(f"filling the API server with {shape.label}")
        try:
            say(f"filled in {ground.fill(shape):.1f} s")
        except Exception as error:  # no API server, no rows of this shape
            self._skip(self._steps(shape.label), f"the API server could not be filled: {because(error)}")
            ground.close()
            ground.shape = None
            return
        for subject, backend in dict.fromkeys((s.subject, s.backend) for s in self._steps(shape.label)):
            calm(self.asked.calm)
            try:
                with setting(ground, subject, backend, self.asked.min_sync) as here:
                    self._life(here, self._steps(shape.label, subject, backend))
            except Exception as error:  # setting up or clearing away
                say(f"{subject} {backend} at {shape.label}: {because(error)}")
                self._skip(self._steps(shape.label, subject, backend), because(error))

    def _life(self, here: Setting, steps: list[Step]) -> None:
        """Runs one daemon's rows, from its first start to the rules that it leaves."""
        by_row = {step.row: step for step in steps}
        patience = self.asked.patience or plan.patience(here.shape, here.subject, here.backend)
        limit = patience + 600
        if not self._begin(here, by_row.get("start"), patience):
            found = self.runner.results.find("start", here.shape.label, here.subject, here.backend)
            bound = found is not None and found.status == "unfinished"
            self._skip((s for s in steps if s.row != "start"), NO_SYNC if bound else "its start did not end well")
            return
        bodies: dict[str, Callable[[], dict[str, float]]] = {
            "change": lambda: change.change(here, self._change_seconds),
            "churn": lambda: change.churn(here, self.asked.churn_percent, self.asked.churn_seconds),
            "burst": lambda: change.burst(here, min(patience, 120.0)),
            "flood": lambda: change.flood(here, self.asked.flood),
            "idle": lambda: change.idle(here, self.asked.idle_seconds),
            "restart": lambda: start.restart(here, patience),
            "packets": lambda: packets.packets(here),
        }
        for row, body in bodies.items():
            step = by_row.get(row)
            if step is None:
                continue
            if not here.running and row != "packets":
                self._skip([step], "the daemon had ended")
                continue
            self.runner.run(step, body, limit)

    def _begin(self, here: Setting, step: Step | None, patience: float) -> bool:
        if step is not None:
            return self.runner.run(step, lambda: start.start(here, patience), patience + 600).status == "ok"
        try:
            start.start(here, patience)
        except Unfinished:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
