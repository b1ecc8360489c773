"""Make text of a service, a file name or a command safe to print on a terminal or a page."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["output_lines", "printable"]

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
# Controls; formats, such as marks of the writing direction; surrogates; separators of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for every character that controls a terminal or a page.

    Tabs and newlines stay. A file name that is not UTF-8 contains surrogates (PEP 383), and no stream can encode those.
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or unicodedata.category(c) not in _UNPRINTABLE else _REPLACEMENT for c in text)


def output_lines(data: bytes) -> list[str]:
    """Return the output of a command as printable lines: no escape sequences, no empty lines at the end."""
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    # A progress bar writes its line many times, separated by \r; the last text is the one that stays visible.
    lines = [printable(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
