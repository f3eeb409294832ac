"""What the import contracts claim holds because a tool says so: each forbidden import really makes it fail."""

from __future__ import annotations

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
"""By contract: a file, and the line that breaks it. The pure one does so through another module only."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be spoilt."""
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
