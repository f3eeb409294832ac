"""The version has one place, Cargo.toml; whatever else names it agrees. Hooks call verbs that exist."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from ferrule._engine import build_info

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]

NAMED = re.compile(r'(?:ferrule[: ]|"Starting ferrule" version="|^(?:app)?[vV]ersion: )(\d+\.\d+\.\d+)', re.MULTILINE)
PLACES = (
    "README.md",
    "deploy/Containerfile",
    "deploy/README.md",
    "deploy/helm/ferrule/Chart.yaml",
    "deploy/manifests/daemonset.yaml",
    "deploy/swap/image.yaml",
    "docs/operations.md",
    "python/ferrule/cli/__init__.py",
)
"""Files that name the current version."""
MEASURED = ("docs/performance.md",)
"""Files that name the version that was measured."""


def named(text: str) -> set[str]:
    return set(NAMED.findall(text))


def test_the_extension_has_the_version_of_the_workspace() -> None:
    assert build_info()["version"] == VERSION


@pytest.mark.parametrize("place", PLACES)
def test_each_place_names_the_version(place: str) -> None:
    assert named((ROOT / place).read_text()) == {VERSION}


def test_no_other_place_names_a_version() -> None:
    folders = ("deploy", "docs", "python", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix not in (".so", ".pyc")]
    files += ROOT.glob("*.md")
    found = {
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and path.name != "CHANGELOG.md" and named(path.read_text())
    }
    assert found - set(MEASURED) == set(PLACES)


def test_every_crate_takes_the_version_of_the_workspace() -> None:
    manifests = [ROOT / member / "Cargo.toml" for member in ("rust/engine", "rust/bindings", "bench")]
    assert all(tomllib.loads(path.read_text())["package"]["version"] == {"workspace": True} for path in manifests)
    for lock in (ROOT / "Cargo.lock", ROOT / "rust/fuzz/Cargo.lock"):
        ours = {p["version"] for p in tomllib.loads(lock.read_text())["package"] if p["name"].startswith("ferrule-")}
        assert ours - {"0.0.0"} == {VERSION}, lock


def test_the_supported_version_is_this_one() -> None:
    supported = re.search(
        r"one supported version at a time: (\S+)\.$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE
    )
    assert supported
    assert VERSION.startswith(f"{supported[1]}.")


def test_the_changelog_has_a_dated_section_for_the_version_below_the_unreleased_changes() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(VERSION)} \(20\d\d-\d\d-\d\d\)", headings[1])


def test_hooks_call_verbs_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert {entry for entry in entries if entry.startswith("make ")} == {"make lint", "make test"}
    for entry in entries:
        if entry.startswith("make "):
            verb = entry.removeprefix("make ")
            assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        else:
            assert shutil.which(ROOT / entry)
