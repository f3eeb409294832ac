"""The table of upstream's tests in tests/e2e/README.md names existing tests."""

from __future__ import annotations

import re
from pathlib import Path

E2E = Path(__file__).parents[1] / "e2e"


def rows() -> list[list[str]]:
    """Returns the rows without the heads of the two tables."""
    lines = (E2E / "README.md").read_text().partition("## Upstream's own")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if not row[0].startswith("Upstream (")]


def test_every_upstream_test_has_an_answer() -> None:
    assert len(rows()) > 40, "the table has another form now"
    for row in rows():
        assert len(row) == 2, row
        assert all(row), row


def test_every_test_of_ours_that_is_named_exists() -> None:
    named = 0
    for _, ours in rows():
        module = ""
        for said, test in re.findall(r"`(test_\w+)?::(test_\w+)`", ours):
            module = said or module
            text = (E2E / f"{module}.py").read_text()
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{module}::{test}"
            named += 1
    assert named > 40, "the table has another form now"
