"""Lines and columns: how a table is fitted to the width, and what is never broken."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from release_tasks.report.table import aligned_lines, fitting_lines, shortened, wrapped

RELEASE = "1.0.0-20261122083741"
SNAPSHOT = f"{RELEASE}_snapshot_20261122083742"
COLUMNS = ("SNAPSHOT", "KIND", "WHEN", "DETAIL")
TEXT = st.text(st.sampled_from("ab z日é-."), max_size=60)


def texts(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Return the lines of a table without their styles."""
    return ["".join(text for text, _ in line) for line in fitting_lines(columns, rows, width)]


def test_a_table_that_fits_has_one_line_per_row() -> None:
    """Each column is as wide as its widest cell."""
    rows = [("v1", "release", "today", ""), ("v22", "safety", "", "fine")]
    assert [line.rstrip() for line in texts(COLUMNS, rows, 80)] == aligned_lines(COLUMNS, rows)


def test_an_id_that_does_not_fit_is_on_its_own_line() -> None:
    """The other columns follow below it, indented and aligned."""
    rows = [(SNAPSHOT, "release", "2026-11-22 08:37:42", "proved and booted"), ("v2", "safety", "now", "")]
    assert texts(COLUMNS, rows, 60) == [
        "SNAPSHOT",
        "  KIND     WHEN                 DETAIL",
        SNAPSHOT,
        "  release  2026-11-22 08:37:42  proved and booted",
        "v2",
        "  safety   now",
    ]


def test_an_id_in_the_middle_is_below_its_row_with_its_name() -> None:
    """A row without it has no such line."""
    rows = [("12", "restored", SNAPSHOT, "a reason that is long enough to be wrapped here"), ("13", "noop", "", "")]
    assert texts(("SEQ", "STATUS", "CONCERNS", "WHY"), rows, 56) == [
        "SEQ  STATUS    WHY",
        "12   restored  a reason that is long enough to be",
        "               wrapped here",
        f"  concerns: {SNAPSHOT}",
        "13   noop",
    ]


@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=4),
    width=st.integers(min_value=20, max_value=120),
)
def test_no_line_is_too_wide_and_no_character_is_lost(rows: list[tuple[str, ...]], width: int) -> None:
    """For any cells, wide characters too, wrapping adds only spaces and column names."""
    lines = texts(COLUMNS, rows, width)
    assert all(cell_len(line) <= width for line in lines)
    shown = sorted(re.sub(r"\s", "", "".join(lines)))
    for letter in set("abz日é-.") & set("".join("".join(row) for row in rows)):
        assert shown.count(letter) >= sum(cell.count(letter) for row in rows for cell in row)


@given(text=st.text(st.sampled_from("ab z日"), max_size=200), width=st.integers(min_value=4, max_value=60))
def test_text_is_broken_between_words_only(text: str, width: int) -> None:
    """Only a word longer than the line makes a line too wide; all words are there in order."""
    lines = wrapped(text, width)
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert cell_len(line) <= width or " " not in line.strip() or not line.strip()


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (f"To go back to the state before: inv release.rollback --snapshot {SNAPSHOT}", None),
        (f"To restore: inv release.rollback --snapshot {SNAPSHOT} --force and so on", "--force"),
        (f"Run `inv release.verify --snapshot {SNAPSHOT}` before the service is started.", "`"),
        ("A sender requested an approval: inv pairing.approve telegram ABCD2345", None),
        ("It says what is wrong with it and how to look at it again: inv gate.run api-health", None),
        ("With the service's own restart: inv release.rollback --restart-command CMD", None),
    ],
)
def test_a_command_stays_on_one_line(message: str, command: str | None) -> None:
    """Half of a command may be another command: a rollback to the latest snapshot instead of the named one."""
    end = len(message) if command is None else message.rindex(command) + len(command)
    whole = message[message.index("inv ") : end]
    for width in (30, 40, 60, 80):
        assert any(whole in line for line in wrapped(message, width, "  ")), width


def test_truncated_text_is_marked() -> None:
    """The width is counted in cells, and text that fits is unchanged."""
    assert shortened("abcdef", 6, "...") == "abcdef"
    assert shortened("abcdefg", 6, "...") == "abc..."
    assert shortened("日本語日本語", 6, "…") == "日本…"
