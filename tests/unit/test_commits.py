"""hack/check-commits: what a commit message must be, and which commits are looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "hack/check-commits"
GOOD = "Write only what differs\n\nA rewrite of everything holds the lock for seconds.\n"

BAD = {
    "at most 72": GOOD.replace("differs", "differs" + "x" * 50),
    "a semicolon": GOOD.replace("differs", "differs; test it"),
    "a full stop": GOOD.replace("differs", "differs."),
    "capitalised verb": GOOD.replace("Write", "dataplane: write"),
    "not imperative: Writes": GOOD.replace("Write", "Writes"),
    "not imperative: Added": GOOD.replace("Write", "Added"),
    "not imperative: Fixing": GOOD.replace("Write", "Fixing"),
    "second line": GOOD.replace("\n\n", "\n"),
    "no body": GOOD.splitlines()[0] + "\n\nSigned-off-by: A <a@example.com>\n",
}
"""By a part of the complaint: a message."""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, *map(str, arguments)], capture_output=True, text=True, check=False)


def git(folder: Path, *arguments: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {f"GIT_{role}_{what}": "a@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        env={**own, **who, "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bad commit, which is the base, and a good one after it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "repository"
    (folder / "hack").mkdir(parents=True)
    git(folder, "init", "-q")
    commit(folder, "before the rule")
    (folder / "hack/commits-base").write_text(f"# Older commits\n{git(folder, 'rev-parse', 'HEAD')}\n")
    git(folder, "add", "-A")
    commit(folder, GOOD)
    return folder


def commit(folder: Path, message: str) -> None:
    git(folder, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message)


def test_a_good_message_passes(tmp_path: Path) -> None:
    message = tmp_path / "message"
    for text in (GOOD, GOOD.replace("Write", "Process"), GOOD + "\n# Please enter the commit message\n"):
        message.write_text(text)
        assert run(message).stderr == ""


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_message_is_found(tmp_path: Path, complaint: str) -> None:
    message = tmp_path / "message"
    message.write_text(BAD[complaint])
    done = run(message)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1, "one fault, one line"


def test_commits_after_the_base_are_checked(repository: Path) -> None:
    assert run(repository).returncode == 0
    commit(repository, "wip")
    commit(repository, GOOD)
    done = run(repository)
    assert done.returncode == 1
    assert "'wip'" in done.stderr
    assert "before the rule" not in done.stderr


@pytest.mark.parametrize(("depth", "found"), [(1, False), (2, True)])
def test_a_shallow_clone_is_checked_as_far_as_it_reaches(repository: Path, depth: int, found: bool) -> None:
    commit(repository, "wip")
    commit(repository, GOOD)
    clone = repository.parent / "clone"
    git(repository.parent, "clone", "-q", "--depth", str(depth), f"file://{repository}", str(clone))
    done = run(clone)
    assert ("'wip'" in done.stderr) is found
    assert "before the rule" not in done.stderr


def test_another_history_is_not_checked(repository: Path) -> None:
    """An import of the tree as one commit has a message of its own."""
    (repository / "hack/commits-base").write_text("0" * 40)
    commit(repository, "wip")
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to check" in done.stdout


def test_a_tree_without_history_passes(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to check" in done.stdout
