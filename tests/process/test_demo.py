"""The demo of the README's first screen passes, reports it, and leaves no namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ferrule.testing.netns import NAMES
from ferrule.testing.waiting import PATIENCE

pytestmark = pytest.mark.netns

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def test_the_demo_passes_and_cleans_up() -> None:
    demo = subprocess.Popen((sys.executable, str(DEMO)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out, _ = demo.communicate(timeout=2 * PATIENCE)  # time: the deadline at which the test fails
    assert demo.returncode == 0, out
    assert out.rstrip().endswith("PASS: every connection went where the manifests say.")
    assert len(out.splitlines()) < 60
    assert not [name for name in NAMES.iterdir() if name.name.startswith(f"ferrule-{demo.pid}-")]
