"""Tests hack/audit: what fails it, and what is only reported because a database is unreachable."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / "hack/audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def answer(code: int, *packages: dict[str, object], stderr: str = "") -> subprocess.CompletedProcess[str]:
    text = json.dumps({"dependencies": packages, "fixes": []}) if packages else ""
    return subprocess.CompletedProcess((), code, text, stderr)


SAFE = {"name": "safe", "version": "1.0", "vulns": []}
SKIPPED = {"name": "skipped", "skip_reason": "Dependency not found"}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}


def test_a_vulnerable_package_fails(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.judge(answer(0, SAFE))
    assert not audit.judge(answer(1, SAFE, BAD, SKIPPED))
    assert "bad 2.0: PYSEC-1, fixed in 2.1" in capsys.readouterr().err


def test_an_unreachable_database_is_said_in_one_line(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.judge(answer(1, stderr="Traceback\nConnectionError: Could not resolve host"))
    assert audit.judge(answer(0, SAFE, SKIPPED))
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("ferrule: audit: Python advisories not checked")] == told
    assert len(told) == 2


def test_any_other_failure_fails(audit: ModuleType) -> None:
    assert not audit.judge(answer(2, stderr="usage: pip-audit"))


@pytest.mark.parametrize(("reachable", "good"), [(True, True), (True, False), (False, True), (False, False)])
def test_rust_is_checked_with_and_without_advisories(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], reachable: bool, good: bool
) -> None:
    program, log = tmp_path / "cargo-deny", tmp_path / "log"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{log}\n'
        f'case "$*" in *fetch*) echo "fatal: no host" >&2; exit {int(not reachable)};; *) exit {int(not good)};; esac\n'
    )
    program.chmod(0o755)
    assert audit.rust(str(program)) is good
    checked = log.read_text().splitlines()[-1]
    assert "licenses bans sources" in checked
    assert ("advisories" in checked) is reachable
    assert capsys.readouterr().out.count("\n") == int(not reachable)


def test_the_engine_may_not_depend_on_python_or_a_runtime() -> None:
    banned = {entry["crate"]: entry for entry in tomllib.loads((ROOT / "deny.toml").read_text())["bans"]["deny"]}
    assert banned["pyo3"]["wrappers"] == ["ferrule-bindings"]
    assert "tokio" in banned
