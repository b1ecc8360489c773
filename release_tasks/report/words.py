"""The meaning of each status word, with its style on a terminal. The meanings are also the CSS classes of the page."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

__all__ = ["SIGNS", "Meaning", "meaning_of", "quoted_if_like_verdict", "style_of"]

Meaning = Literal["good", "bad", "warn", "quiet"]

_WORDS: dict[Meaning, str] = {
    "good": "passed ready restored noop verified ok success running done intact clean finished healthy granted "
    "approved signed restarted",
    "bad": "failed blocked damaged broken unhealthy unreadable unreachable bad live flapping",
    "warn": "skipped degraded unverifiable in_progress advisory undone discarded stopped rejected unchecked revoked "
    "inconclusive unknown refused",
}
_MEANINGS: dict[str, Meaning] = {
    **{word: meaning for meaning, words in _WORDS.items() for word in words.split()},
    "rolled back": "warn",
    "rolled back, unwell": "bad",
    "rollback unfinished": "bad",
}
_STYLES: dict[Meaning, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "quiet": ""}
# Words that begin the answer of a task and have no meaning of their own.
_OTHER_VERDICTS = "act planned written extracted missing pending none note unsigned"
_VERDICT = re.compile(
    rf"[\W\d_]*(?:{'|'.join([*' '.join(_WORDS.values()).split(), *_OTHER_VERDICTS.split()]).upper()})(?![\w-]|\.\w)"
)
# The sign before a result: in Unicode, and in ASCII.
SIGNS: dict[Meaning, tuple[str, str]] = {"good": ("\u2713", "+"), "bad": ("\u2717", "x"), "warn": ("-", "-")}


def quoted_if_like_verdict(line: str) -> str:
    """Return a line that is no verdict; with a sign before it where it begins as one does, with ``RESTORED``.

    Signs and digits before the word do not count, and its letters may have another width or style.
    """
    is_like = not line.startswith("| ") and _VERDICT.match(unicodedata.normalize("NFKC", line))
    return f"| {line}" if is_like else line


def meaning_of(word: str) -> Meaning:
    """Return the meaning of a status word; ``quiet`` for any other text."""
    return _MEANINGS.get(word, "quiet")


def style_of(word: str) -> str:
    """Return the terminal style of a status word or a ``heading``; empty for any other text."""
    return "bold" if word == "heading" else _STYLES[meaning_of(word)]
