"""Text of others, made harmless: what a service, a file name or a command wrote, for people to read."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["output_lines", "printable"]

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_UNSEEN = ("Cc", "Cf", "Cs")  # controls, formats such as the marks that turn the writing direction, lone surrogates
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for everything that acts on a terminal or a page instead of being shown.

    Tabs and newlines stay. A file name that is not UTF-8 holds lone surrogates (PEP 383), which no stream takes.
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or unicodedata.category(c) not in _UNSEEN else _REPLACEMENT for c in text)


def output_lines(data: bytes) -> list[str]:
    """Return what a command wrote as lines that are safe to show: no escape sequences, no empty lines at the end."""
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    # Of a line that a progress bar wrote again and again, only the last state is of interest.
    lines = [printable(line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
