"""docs/design/seam.md names everything that `_engine.pyi` declares, with the right counts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = ast.parse((ROOT / "python/ferrule/_engine.pyi").read_text())
PAGE = (ROOT / "docs/design/seam.md").read_text()

EXCEPTIONS = {"Exception", "ValueError", "RuntimeError"}


def declared() -> dict[str, list[str]]:
    """What the stub declares, by the groups of the page."""
    exceptions, values, calls, functions, constants = set(EXCEPTIONS), [], [], [], []
    for node in STUB.body:
        if isinstance(node, ast.ClassDef):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if bases & exceptions:
                exceptions.add(node.name)
            elif node.name == "Engine":
                methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                calls += [name for name in methods if not name.startswith("__")]
            else:
                values.append(node.name)
        elif isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            constants.append(node.target.id)
    return {
        "Calls of `Engine`": calls,
        "Functions": functions,
        "Constants": constants,
        "Classes besides `Engine`": values,
        "Exceptions": sorted(exceptions - EXCEPTIONS),
    }


def documented() -> dict[str, tuple[int, list[str]]]:
    """Rows of the page's table: group, count, names."""
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| ([^|]+?) \|$", PAGE, re.M)
    return {group: (int(count), re.findall(r"`(\w+)`", names)) for group, count, names in rows}


@pytest.mark.parametrize("group", declared())
def test_the_page_has_every_name(group: str) -> None:
    count, names = documented()[group]
    assert sorted(names) == sorted(declared()[group])
    assert count == len(names)


def test_the_page_has_no_other_group() -> None:
    assert documented().keys() == declared().keys()
    assert all(declared().values())
