"""The table of attackers in docs/guarantees.md: each row that promises something names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_SECTION = "## Attackers and what they can do"


def rows() -> list[list[str]]:
    """Return the cells of each row of the table."""
    page = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
    section = page.partition(_SECTION)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_promise_against_an_attacker_names_its_tests() -> None:
    """A row without a test promises nothing, and says so."""
    assert len(rows()) >= 12
    for row in rows():
        assert len(row) == 4, row
        attacker, can, cannot, tests = row
        assert attacker and can, row
        files = re.findall(r"`(tests/[^`]+\.py)`", tests)
        assert files or (cannot, tests) == ("nothing is promised", "none"), attacker
        for file in files:
            text = (REPOSITORY / file).read_text(encoding="utf-8")
            assert "def test_" in text, file
