"""The pages that describe the code name existing files, and the list of design pages is complete."""

from __future__ import annotations

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
