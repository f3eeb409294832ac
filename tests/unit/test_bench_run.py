"""Tests the bench's plan of a run, and the handling of failed rows."""

from pathlib import Path

import pytest
from bench import plan, results
from bench.probe import Unfinished
from bench.results import Results
from bench.runner import RowTimeout, Runner, Step, because, deadline


def keys(**narrow: tuple[str, ...]) -> list[str]:
    wanted = {"rows": (*plan.ALONE, *plan.DAEMON), "subjects": plan.SUBJECTS, "backends": plan.BACKENDS} | narrow
    return [step.key for step in plan.steps(plan.FULL, **wanted)]


def test_the_full_run_has_each_subject_once_and_fits_in_its_time() -> None:
    every = keys()
    assert len(set(every)) == len(every)
    for key in ("start/30000x4/ferrule/nft", "start/10000x4/stock/nft", "change/10000x4/stock-nftables/nft", "engine"):
        assert key in every
    assert not any("stock-nftables/legacy" in key for key in every)
    assert (
        sum(step.guess for step in plan.steps(plan.FULL, (*plan.ALONE, *plan.DAEMON), plan.SUBJECTS, plan.BACKENDS))
        < 45 * 60
    )


def test_options_narrow_the_run() -> None:
    assert keys(rows=("start",), subjects=("stock",), backends=("legacy",)) == [
        f"start/{label}/stock/legacy"
        for label in ("1000x4", "5000x4", "10000x4", "30000x4", "1000x4x3-dual", "100x250", "500x500")
    ]


def runner(path: Path, *, keep: bool = False, budget: float | None = None, found: Results | None = None) -> Runner:
    steps = [Step("a", "1x1", "ferrule", "nft"), Step("b", "1x1", "ferrule", "nft")]
    return Runner(steps, found or Results(), path, budget, keep)


def boom() -> dict[str, float]:
    raise RuntimeError("no such thing")


def give_up() -> dict[str, float]:
    raise Unfinished(120, "no first sync")


def test_a_row_that_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    run = runner(path)
    assert run.run(run.steps[0], boom, 5).status == "failed"
    assert results.load(path).rows[0].reason == "RuntimeError: no such thing"
    assert run.run(run.steps[1], give_up, 5).status == "unfinished"
    assert [row.status for row in results.load(path).rows] == ["failed", "unfinished"]
    assert not any(run.wanted(step) for step in run.steps)


def test_what_was_measured_is_kept_and_what_failed_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = runner(path)
    first.run(first.steps[0], lambda: {"x": 1.0}, 5)
    first.run(first.steps[1], boom, 5)
    again = runner(path, keep=True, found=results.load(path))
    assert [again.wanted(step) for step in again.steps] == [False, True]
    again.run(again.steps[1], lambda: {"x": 2.0}, 5)
    assert [(row.status, row.values) for row in results.load(path).rows] == [("ok", {"x": 1.0}), ("ok", {"x": 2.0})]


def test_what_is_written_down_has_no_folder_of_this_machine() -> None:
    said = because(RuntimeError(f"{results.ROOT}/bench/flows.py: exit 1 " + "x" * 2000))
    assert said.startswith("RuntimeError: bench/flows.py: exit 1")
    assert len(said) < 1000


def test_a_spent_budget_skips(tmp_path: Path) -> None:
    run = runner(tmp_path / "r.json", budget=-1)
    assert run.run(run.steps[0], boom, 5).status == "skipped"


def test_a_deadline_ends_what_takes_too_long() -> None:
    with pytest.raises(RowTimeout), deadline(0.05):
        while True:
            pass


def test_what_is_named_is_measured_once_more(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = runner(path)
    for step in first.steps:
        first.run(step, lambda: {"x": 1.0}, 5)
    again = runner(path, keep=True, found=results.load(path))
    again.redo = ("b/1x1",)
    assert [again.wanted(step) for step in again.steps] == [False, True]
