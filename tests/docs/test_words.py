"""Plain English: homely words that the project replaced by field terms do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PLACES = ("release_tasks", "dev", "docs", "tests", ".ci", ".github")
SUFFIXES = {".py", ".md", ".html", ".yml", ".yaml", ".cfg", ".toml", ""}
PLAIN = {
    "told": "message, or reported",
    "nobody": "no sender, no command, no test: name the subject",
    "whoever": "name the person or program",
    "somebody": "name the person or program",
    "unwell": "unhealthy",
    "mend|mends|mended": "fix",
    "beside": "next to",
    "stray|strays": "unexpected file, or leftover",
    "trail": "audit events",
    "crowds": "shared ids",
    "patience": "grace period",
    "way back": "rollback options, or rollback",
    "goes back": "rolls back",
    "hindrance": "blocker",
    "by hand": "manually",
}
# Public words: a status word of release.report, and the id of a row of the decision guide.
PUBLIC = re.compile(r"rolled back, unwell|nobody.asked")


@pytest.mark.parametrize("words", PLAIN)
def test_homely_words_do_not_come_back(words: str) -> None:
    """The message has each place, and the field term to write instead."""
    pattern = re.compile(rf"\b({words})\b", re.IGNORECASE)
    files = [path for place in PLACES for path in (REPOSITORY / place).rglob("*") if path.suffix in SUFFIXES]
    found = []
    for path in [*files, *REPOSITORY.glob("*.md"), *REPOSITORY.glob("*.py"), REPOSITORY / "invoke.yaml"]:
        if path == Path(__file__) or not path.is_file() or "__pycache__" in path.parts:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if pattern.search(PUBLIC.sub("", line)):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")
    assert not found, f"write {PLAIN[words]} instead:\n" + "\n".join(found)
