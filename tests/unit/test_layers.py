"""The import contracts are enforced: each forbidden import makes lint-imports fail."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FORBIDDEN = {
    "Layers": ("sync/cadence.py", "import ferrule.daemon"),
    "Layers of observe": ("observe/health.py", "import ferrule.observe.metrics"),
    "Layers of source": ("source/folder.py", "import ferrule.source.cluster"),
    "Only ferrule.process starts processes": ("source/api/exec_plugin.py", "import kubernetes_asyncio"),
    "Pure modules reach": ("config/gates.py", "import ferrule.process.memory_file"),
    "The dataplane and processes know nothing": ("dataplane/netlink.py", "from ferrule.config import Settings"),
    "The sync loop is given its clock": ("sync/intake.py", "import time"),
}
"""By contract: a file, and the line that violates it. The pure one does so only through another module."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Returns a copy of the package and its contracts, for edits."""
    shutil.copy(ROOT / ".importlinter", tmp_path)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python" / "ferrule", tmp_path / "ferrule", ignore=ignored)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_contract_is_tried() -> None:
    names = re.findall(r"^name = (.+)$", (ROOT / ".importlinter").read_text(), re.M)
    assert len(names) == len(FORBIDDEN)
    for name in names:
        assert any(name.startswith(start) for start in FORBIDDEN), name


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_a_forbidden_import_is_found(copy: Path, contract: str) -> None:
    file, line = FORBIDDEN[contract]
    path = copy / "ferrule" / file
    before = path.read_text()
    path.write_text(
        before.replace("\nfrom __future__ import annotations\n", f"\nfrom __future__ import annotations\n{line}\n")
    )
    assert path.read_text() != before
    found = lint(copy)
    assert found.returncode != 0
    assert re.search(rf"^{re.escape(contract)}\b[^\n]*BROKEN$", found.stdout, re.M), found.stdout


def test_a_package_in_no_layer_is_found(copy: Path) -> None:
    assert lint(copy).returncode == 0
    (copy / "ferrule" / "attic").mkdir()
    (copy / "ferrule" / "attic" / "__init__.py").touch()
    found = lint(copy)
    assert found.returncode != 0
    assert "attic" in found.stdout


# ---------------------------------------------------------------- pure modules


def pure(what: str) -> list[str]:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return contracts["importlinter:contract:pure"][what].split()


def path_of(module: str, root: Path) -> Path:
    return (root / module.replace(".", "/")).with_suffix(".py")


def test_each_pure_module_is_kept_from_each_impure_one(copy: Path) -> None:
    forbidden = pure("forbidden_modules")
    assert {"os", "pathlib", "subprocess", "socket", "time"} <= set(forbidden)
    for module in pure("source_modules"):
        path = path_of(module, copy)
        path.write_text(path.read_text() + "".join(f"import {name}\n" for name in forbidden))
    found = lint(copy)
    reported = set(re.findall(r"^ *-? *(ferrule\S+) -> (\w+) \(l\.\d+\)", found.stdout, re.M))
    expected = {(module, name) for module in pure("source_modules") for name in forbidden}
    assert expected - reported == set()


IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "compile"}
IMPURE_METHODS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}
IMPURE_IMPORTS = {"urllib.request", "urllib.response"}
"""What a contract about imports cannot see: builtins, and modules of which one half is pure."""


def impure(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.add(node.func.id)
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if (owner, node.attr) in IMPURE_METHODS:
                found.add(f"{owner}.{node.attr}")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & IMPURE_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & IMPURE_IMPORTS
    return found


@pytest.mark.parametrize("module", pure("source_modules"))
def test_pure_modules_call_nothing_impure(module: str) -> None:
    assert impure(path_of(module, ROOT / "python").read_text()) == set()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("open('x')", "open"),
        ("datetime.datetime.now(UTC)", "datetime.now"),
        ("stamp = datetime.now", "datetime.now"),
        ("date.today()", "date.today"),
        ("print(1)", "print"),
        ("from urllib.request import urlopen", "urllib.request"),
        ("from urllib import request", "urllib.request"),
        ("import urllib.request", "urllib.request"),
    ],
)
def test_impure_calls_are_found(line: str, name: str) -> None:
    assert impure(line) == {name}
