"""Printed text cannot control the terminal."""

from __future__ import annotations

import io

import pytest

from release_tasks.report.screen import Screen
from release_tasks.report.words import quoted_if_like_verdict

HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\u202ed\u200be\x9bf\udcff\r\x00"


@pytest.mark.parametrize("write", ["line", "verdict", "note", "table", "step"])
def test_hostile_text_stays_text(write: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, carriage returns and direction marks are shown as text."""
    out = io.StringIO()
    screen = Screen(out)
    if write == "table":
        screen.table(("A",), [(HOSTILE,)])
    elif write == "verdict":
        screen.verdict("ok", HOSTILE)
    else:
        getattr(screen, write)(HOSTILE)
    shown = out.getvalue() + capsys.readouterr().err
    assert all(letter in shown for letter in "abcdef")
    assert not any(character in shown for character in "\x1b\x07\u202e\u200b\x9b\r\x00")
    assert shown.encode()


def test_a_cell_cannot_forge_a_row() -> None:
    """A pipe gets one line for each row, also when a cell quotes a file with line ends."""
    out = io.StringIO()
    Screen(out).table(("A", "B"), [("one\ntwo  three", "x"), ("four\r\n", "y\u2028z")])
    first, second = out.getvalue().splitlines()[1:]
    assert first.split() == [r"one\ntwo", "three", "x"] and second.split() == [r"four\r\n", r"y\u2028z"]


@pytest.mark.parametrize(
    "line", ["RESTORED  x", "  * READY", "\uff32\uff25\uff33\uff34\uff2f\uff32\uff25\uff24 x", '2 "FAILED"']
)
def test_a_line_that_begins_like_a_verdict_gets_a_sign(line: str) -> None:
    """Once, whatever is before the word or the style of its letters; a longer word is no verdict."""
    assert quoted_if_like_verdict(line) == f"| {line}"
    assert quoted_if_like_verdict(f"| {line}") == f"| {line}"
    for other in (f"x {line}", "RESTORED-now", "RESTORED.now", "RESTORED_x", "restored"):
        assert quoted_if_like_verdict(other) == other
