"""What a status word means to its reader, and how a terminal shows that; CSS classes of the page are the meanings."""

from __future__ import annotations

from typing import Literal

__all__ = ["SIGNS", "Meaning", "meaning_of", "style_of"]

Meaning = Literal["good", "bad", "warn", "quiet"]

_WORDS: dict[Meaning, str] = {
    "good": "passed ready restored noop verified ok success running done intact clean finished healthy granted "
    "approved signed restarted",
    "bad": "failed blocked damaged broken unhealthy unreadable unreachable bad live",
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
# The sign before a result, and the one where there is only ASCII.
SIGNS: dict[Meaning, tuple[str, str]] = {"good": ("\u2713", "+"), "bad": ("\u2717", "x"), "warn": ("-", "-")}


def meaning_of(word: str) -> Meaning:
    """Return what a status word means; ``quiet`` for every other text."""
    return _MEANINGS.get(word, "quiet")


def style_of(word: str) -> str:
    """Return the style of a status word or a ``heading`` on a terminal; none for another text."""
    return "bold" if word == "heading" else _STYLES[meaning_of(word)]
