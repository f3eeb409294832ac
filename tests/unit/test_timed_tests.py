"""`hack/check-timed-tests` finds each form of a time in a test, and nothing else."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "hack" / "check-timed-tests"

SPOILED = {
    "sleep": ["time.sleep(n)", "await asyncio.sleep(0.05)", "await asyncio.sleep(0)", "sleep(1)"],
    "sleep in a shell": [
        'run("sleep", "1000")',
        'run("sh", "-c", "true; sleep 0.1; exit 7")',
        'run("sh", "-c", f"{x}; sleep 1 & echo $!")',
    ],
    "wait": [
        "child.wait(20)",
        "child.wait(timeout=SECONDS)",
        "event.wait(limit)",
        "await asyncio.wait_for(x(), 3)",
        "await asyncio.wait_for(x(), max(0.0, y - 1))",
        "await asyncio.wait({x}, timeout=self.limit)",
        "with asyncio.timeout(10): pass",
        "child.communicate(timeout=2 * n)",
        "channel.settimeout(0.2)",
        "channel.settimeout(1 if slow else 2)",
        "thread.join(PATIENCE)",
        "pool.submit(x).result(5)",
        'socket.create_connection(("::1", 80), 5)',
        "select.select([x], [], [], 0.5)",
        "poll.poll(100)",
        'HTTPConnection("::1", 80, timeout=5)',
        "def run(*argv, timeout=30.0): pass",
        "def run(argv, timeout: float = LIMIT): pass",
    ],
    "clock": [
        "assert time.monotonic() - begun < 10",
        "assert 10 > time.perf_counter() - begun",
        "begun = time.monotonic()\nx()\ntook = clock() - begun\nassert took < 10",
        "end = loop.time() + 8\nwhile loop.time() < end: pass",
        "assert (end := time.time()) == 7",
        "assert datetime.now() > then",
        "assert answer.seconds < 1",
        'assert answer["elapsed"] <= 2 * other',
    ],
}

FINE = [
    "await wait_for(lambda: x)",
    "await until(lambda: clock.now == 7)",
    'daemon.wait_for("Synced", family)',
    "child.wait()",
    "channel.settimeout(None)",
    "x = await first.wait()",
    '"".join(names)',
    '", ".join([x] * 9)',
    "pool.result(name)",
    "assert seconds >= 0",
    "assert report.seconds == 3.0",
    "seen.append(time.monotonic())",
    '"""Docs may say: sleep 5."""',
    "timeout = Timeouts(connect=PATIENCE)",
    "def run(argv, timeout): pass",
]


main = runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture
def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Checks one file. Returns what is said of it, empty where all is well."""

    def check(text: str) -> str:
        path = tmp_path / "test_x.py"
        path.write_text(text)
        code, said = main([str(path)]), capsys.readouterr().err
        assert code == (1 if said else 0)
        return said.replace(f"{tmp_path}/", "")

    return check


def whole(sample: str, comment: str = "") -> str:
    lines = sample.splitlines()
    lines[-1] += comment
    return "async def test() -> None:\n    x()\n    " + "\n    ".join(lines) + "\n"


@pytest.mark.parametrize(("kind", "sample"), [(kind, sample) for kind in SPOILED for sample in SPOILED[kind]])
def test_a_time_is_found_and_may_have_a_reason(checked: Callable[[str], str], kind: str, sample: str) -> None:
    found = checked(whole(sample))
    line = 2 + len(sample.splitlines())
    what = kind.partition(" ")[0]
    assert f"ferrule: test_x.py:{line}: {what}: `{sample.splitlines()[-1]}`" in found
    assert "# time: reason" in found
    assert checked(whole(sample, "  # time: it is so")) == ""
    assert checked(whole(sample, "  # time:")), "a reason is not optional"
    above = whole(sample).splitlines()
    above.insert(line - 1, "    # time: it is so")
    assert checked("\n".join(above)) == ""


def test_what_is_no_time_is_not_found(checked: Callable[[str], str]) -> None:
    assert checked("".join(whole(sample) for sample in FINE)) == ""


def test_a_comment_at_the_end_of_several_lines_counts(checked: Callable[[str], str]) -> None:
    sample = "x = run(\n        a,\n        timeout=7,  # time: it is so\n    )"
    assert checked(whole(sample)) == ""


def test_no_test_depends_on_time_without_a_reason() -> None:
    found = subprocess.run((sys.executable, SCRIPT), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
