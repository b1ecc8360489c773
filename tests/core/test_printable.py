"""Text from outside is shown without any effect on the terminal."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from release_tasks.core.printable import output_lines, printable

CONTROLS = "\x00\x07\x1b\x7f\x9b\u061c\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\udcff\U000e0041"


def test_control_characters_are_replaced_and_letters_stay() -> None:
    """Controls, direction marks, line ends and single surrogates become U+FFFD, one for one; letters stay."""
    assert printable(CONTROLS) == "\ufffd" * len(CONTROLS)
    assert printable("tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713") == (
        "tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713"
    )


@given(st.text(st.characters(max_codepoint=sys.maxunicode)))
def test_no_control_character_is_left(text: str) -> None:
    """For any text the length stays the same, and the result can be encoded."""
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in shown if c not in "\t\n")
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown


def test_output_is_shown_without_colours_and_progress() -> None:
    """A coloured line keeps its words, a redrawn line its last state, a terminal title nothing."""
    data = b"\x1b[1;31mred\x1b[0m\n10%\r50%\rdone\r\n\x1b]0;title\x07after \xff\n\n\n"
    assert output_lines(data) == ["red", "done", "after \ufffd"]
