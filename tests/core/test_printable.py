"""Text of others is shown and does nothing."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from release_tasks.core.printable import output_lines, printable

ACTING = "\x00\x07\x1b\x7f\x9b\u061c\u200b\u200e\u202e\u2066\ufeff\udcff\U000e0041"


def test_what_acts_is_replaced_and_what_is_shown_stays() -> None:
    """Controls, marks of direction and lone surrogates become U+FFFD, one for one; letters of any script stay."""
    assert printable(ACTING) == "\ufffd" * len(ACTING)
    assert printable("tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713") == (
        "tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713"
    )


@given(st.text(st.characters(max_codepoint=sys.maxunicode)))
def test_nothing_that_acts_comes_through(text: str) -> None:
    """Whatever is written, no control or format character is left, the length stays, and it can be encoded."""
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in shown if c not in "\t\n")
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown


def test_output_is_shown_without_colours_and_progress() -> None:
    """Of a coloured line the words are left, of a redrawn one its last state, of a title nothing."""
    data = b"\x1b[1;31mred\x1b[0m\n10%\r50%\rdone\r\n\x1b]0;title\x07after \xff\n\n\n"
    assert output_lines(data) == ["red", "done", "after \ufffd"]
