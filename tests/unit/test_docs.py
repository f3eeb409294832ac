"""The pages that describe the code name existing files, and the list of design pages is complete."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESIGN = ROOT / "docs" / "design"
PAGES = [ROOT / "ARCHITECTURE.md", *sorted(DESIGN.glob("*.md"))]

PATH = re.compile(r"`((?:python|rust|hack|docs|bench|tests|deploy|examples)/[\w./-]+|[\w/]+/\w+\.(?:py|rs))`")
"""A path from the root, or a file with a folder before it, relative to one of `BASES`."""

BASES = ("", "python/ferrule", "rust/engine/src", "rust/engine", "docs")


def named(page: Path) -> set[str]:
    return set(PATH.findall(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_file_is_there(page: Path) -> None:
    missing = {path for path in named(page) if not any((ROOT / base / path).exists() for base in BASES)}
    assert missing == set()


@functools.cache
def words_of_code() -> frozenset[str]:
    sources = [path for folder in ("python", "rust") for path in (ROOT / folder).rglob("*")]
    texts = [path.read_text() for path in sources if path.suffix in (".py", ".pyi", ".rs")]
    return frozenset(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_without_a_folder_is_there(page: Path) -> None:
    named = set(re.findall(r"`(\w+\.(?:py|rs))`", page.read_text()))
    files = {path.name for folder in ("python", "rust", "tests") for path in (ROOT / folder).rglob("*.*")}
    assert named - files == set()


@pytest.mark.parametrize("page", sorted(DESIGN.glob("*.md")), ids=lambda page: page.name)
def test_every_named_function_and_type_is_there(page: Path) -> None:
    """Whatever stands in backticks and looks like code: `Type.method`, `module::Type`, `function()`, `snake_case`."""
    named = re.findall(r"`((?:[A-Za-z]\w*(?:\.|::))*[A-Za-z]\w*)(?:\(\))?`", page.read_text())
    code = {name for name in named if re.search(r"[._:]|[a-z][A-Z]|^[A-Z][a-z]", name)}
    code -= {name for name in code if name.endswith((".py", ".rs"))}
    assert {name for name in code if not set(re.findall(r"\w+", name)) <= words_of_code()} == set()


def test_each_arrow_has_its_files() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+\'?) \| .* \| (.*) \|$", text, re.M)
    drawn = {one or other for one, other in re.findall(r"─ ?(\d+\'?) ?─|◄── (\d+) plan", text)}
    assert {number for number, _ in rows} == drawn
    assert all(PATH.search(files) for _, files in rows)


def test_every_design_page_is_listed() -> None:
    listed = set(re.findall(r"\]\((\w+\.md)\)", (DESIGN / "README.md").read_text()))
    assert listed == {page.name for page in DESIGN.glob("*.md")} - {"README.md"}


def test_kubectl_logs_is_given_no_field_selector() -> None:
    commands = [line for page in (ROOT / "docs").rglob("*.md") for line in page.read_text().splitlines()]
    shown = [line for line in commands if re.search(r"^\$.*kubectl.* logs ", line)]
    assert shown
    assert [line for line in shown if "--field-selector" in line] == [], "the command does not have that flag"
