"""hack/check-assertions finds tests that cannot fail, and passes those that can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELPERS = """
def check(value):
    assert value

def indirect(value):
    check(value)

def prepare(value):
    return value

class Harness:
    def wait(self):
        raise TimeoutError("never came")
"""
START = "import asyncio\nimport pytest\nfrom tests.helpers import Harness, check, indirect, prepare\n"

CANNOT_FAIL = {
    "nothing": "def test_a():\n    x = 1\n",
    "only calls": "def test_a():\n    prepare(1)\n",
    "a constant": "def test_a():\n    assert True\n",
    "a block that never runs": "def test_a():\n    if False:\n        assert prepare(1)\n",
    "a method": "class TestA:\n    def test_a(self):\n        prepare(1)\n",
    "a coroutine": "async def test_a():\n    await prepare(1)\n",
    "a helper's name for something else": "def test_a(check):\n    check(1)\n",
    "a row that switches it off": (
        "@pytest.mark.parametrize(('x', 'expected'), [(1, 2), (2, None)])\n"
        "def test_a(x, expected):\n"
        "    assert x\n"
        "    if expected is not None:\n"
        "        assert x == expected\n"
    ),
    "one row of a single column": (
        "@pytest.mark.parametrize('expected', [1, pytest.param(None, id='x')])\n"
        "def test_a(expected):\n"
        "    assert prepare(1)\n"
        "    if expected:\n"
        "        assert expected == prepare(1)\n"
    ),
    "a function in a row": ("@pytest.mark.parametrize('mode', [check, prepare])\ndef test_a(mode):\n    mode(1)\n"),
}
CAN_FAIL = {
    "an assertion": "def test_a():\n    assert prepare(1) == 1\n",
    "an exception": "def test_a():\n    with pytest.raises(ValueError):\n        prepare(1)\n",
    "a helper": "def test_a():\n    check(1)\n",
    "a helper of a helper": "def test_a():\n    indirect(1)\n",
    "a helper's method": "def test_a():\n    Harness().wait()\n",
    "a scenario inside": (
        "def test_a():\n    async def scenario():\n        assert prepare(1)\n\n    asyncio.run(scenario())\n"
    ),
    "a case": "def test_a():\n    match prepare(1):\n        case x:\n            assert x\n",
    "None with an assertion of its own": (
        "@pytest.mark.parametrize(('x', 'expected'), [(1, 2), (2, None)])\n"
        "def test_a(x, expected):\n"
        "    if expected is None:\n"
        "        with pytest.raises(ValueError):\n"
        "            prepare(x)\n"
        "    else:\n"
        "        assert x == expected\n"
    ),
    "None that is compared": (
        "@pytest.mark.parametrize(('x', 'expected'), [(2, None)])\n"
        "def test_a(x, expected):\n    assert prepare(x) == expected\n"
    ),
    "functions in rows": "@pytest.mark.parametrize('mode', [check, indirect])\ndef test_a(mode):\n    mode(1)\n",
}


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    tests = folder / "tests"
    tests.mkdir()
    (tests / "helpers.py").write_text(HELPERS)
    (tests / "test_sample.py").write_text(START + test)
    return subprocess.run(
        [sys.executable, ROOT / "hack/check-assertions", folder], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", CANNOT_FAIL)
def test_a_test_that_cannot_fail_is_found(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, CANNOT_FAIL[name])
    assert done.returncode == 1
    assert done.stderr.startswith("ferrule: tests/test_sample.py:")
    assert done.stderr.count("test_a ") == 1


@pytest.mark.parametrize("name", CAN_FAIL)
def test_a_test_that_can_fail_passes(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, CAN_FAIL[name])
    assert (done.returncode, done.stderr) == (0, "")


def test_every_test_of_this_repository_can_fail() -> None:
    done = subprocess.run([sys.executable, ROOT / "hack/check-assertions"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
