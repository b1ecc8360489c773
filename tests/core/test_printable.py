"""Text from outside is shown without any effect on the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from release_tasks.core.printable import json_escaped, one_line, output_lines, printable
from release_tasks.core.typed import quoted

CONTROLS = "\x00\x07\x1b\x7f\x9b\u061c\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\udcff\U000e0041\u3164\u2800\uffff"
texts = st.text(st.characters(max_codepoint=sys.maxunicode)) | st.text(st.sampled_from(CONTROLS + "a\n\t\r\u0301"))


def test_control_characters_are_escaped_and_letters_stay() -> None:
    """Controls, direction marks, line ends, single surrogates and characters without a shape are visible escapes."""
    assert printable(CONTROLS) == (
        r"\x00\x07\x1b\x7f\u009b\u061c\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\xff\U000e0041\u3164\u2800\uffff"
    )
    assert printable("tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713") == (
        "tab\tand\nline, \u05e9\u05dc\u05d5\u05dd, caf\u00e9, \u2713"
    )


def test_characters_without_a_shape_are_escaped() -> None:
    """All of Unicode's Default_Ignorable_Code_Point, and blanks of single scripts; an emoji keeps its selector."""
    ignorable = [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), 0xAD, 0x34F, 0x61C, 0x115F]
    ignorable += [0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0, *range(0x200B, 0x2010), *range(0x202A, 0x202F)]
    ignorable += [*range(0x2060, 0x2070), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)]
    ignorable += [
        *range(0xE0000, 0xE0100),
        *range(0xE01F0, 0xE1000),
        0x1107F,
        0x13441,
        0x13442,
        0x2D7F,
        0x16FE4,
        0x1D159,
    ]
    assert [f"{code:x}" for code in ignorable if chr(code) in printable("a" + chr(code))] == []
    assert one_line("\u26a0\ufe0f degraded \u2764\ufe0f") == "\u26a0\ufe0f degraded \u2764\ufe0f"
    assert one_line("\ufe0fa \u2800\ufe0f \u26a0\ufe0f\ufe0f") == "\\ufe0fa \\u2800\\ufe0f \u26a0\ufe0f\\ufe0f"


def test_a_flood_of_accents_ends_after_the_fourth() -> None:
    """Accents that languages use stay; more on one letter would cover the lines above and below."""
    assert printable("e\u0301\u0323 o" + "\u0308" * 6) == "e\u0301\u0323 o" + "\u0308" * 4 + r"\u0308\u0308"


@given(texts)
def test_no_control_character_is_left(text: str) -> None:
    """For any text the result can be encoded, and nothing in it is left to replace."""
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown if c not in "\t\n")
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown


@given(texts, st.integers(10, 60))
def test_a_value_is_one_line_of_limited_length(text: str, limit: int) -> None:
    """For any text and limit."""
    line = one_line(text, limit)
    assert len(line) <= limit and len(line.splitlines()) <= 1 and not set("\r\n\t") & set(line)
    assert one_line(line, limit) == line


@given(texts)
def test_a_document_keeps_its_values_and_controls_nothing(text: str) -> None:
    """Escaped JSON has the same value, and only line ends as control characters."""
    document = json_escaped(json.dumps({text: [text, 1]}, indent=2, ensure_ascii=False))
    assert json.loads(document) == {text: [text, 1]}
    assert printable(document).replace("\t", "") == document or "\u0301" in text
    assert document.encode("utf-8")


def test_a_quoted_word_is_the_same_word_in_a_shell() -> None:
    """A pasted command has no control characters, and the shell reads the same bytes."""
    words = [
        "plain",
        "",
        "a b",
        "it's",
        "; rm -rf /",
        "$(id)",
        "`id`",
        "!!",
        "-n",
        "a\nb",
        "\x1b[201~\nid\n",
        "\\",
        "\t",
    ]
    words += ["caf\u00e9\n", "\udcff", "\\x41\x1b41", "'\x9b'", "\u202e'$HOME", "\u3164"]
    line = " ".join(map(quoted, words))
    assert printable(line) == line and not set("\t\n") & set(line)
    script = f"printf '%s\\0' {line}"
    found = subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout
    assert found.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_output_is_shown_without_colours_and_progress() -> None:
    """A coloured line keeps its words, a redrawn line its last state, a terminal title nothing."""
    data = b"\x1b[1;31mred\x1b[0m\n10%\r50%\rdone\r\n\x1b]0;title\x07after \xff\n\n\n"
    assert output_lines(data) == ["red", "done", "after \ufffd"]


def test_a_title_without_an_end_hides_no_line() -> None:
    """A terminal would wait for the end of the title; the lines after it are shown."""
    assert output_lines(b"\x1b]0;title\nerror: disk full\n") == ["", "error: disk full"]
