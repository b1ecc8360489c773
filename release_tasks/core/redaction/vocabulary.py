"""The different words of a text: a log repeats them, so that they are searched much faster than the text."""

from __future__ import annotations

import functools

__all__ = ["DIGITS", "Vocabulary", "with_zeros"]

_SHORT = 2048  # bytes; in a shorter text a search is as fast
_LINE = 256  # bytes; in a line a look-up of each place is faster than a search for each hint
_START = 2  # bytes of a hint
DIGITS = bytes.maketrans(b"123456789", b"0" * 9)


class Vocabulary:
    """The different words of a text in lower case, in ``words``, with 0 for each digit: times and numbers differ."""

    def __init__(self, lower: bytes) -> None:
        self.words = list(dict.fromkeys(lower.translate(DIGITS).split()))
        self._text = lower.translate(DIGITS) if len(lower) < _SHORT else b"\n".join(self.words)

    def those_in(self, hints: tuple[bytes, ...]) -> list[bytes]:
        """Return the hints that the text may have: it has the longest word of each."""
        text = self._text
        if len(text) > _LINE:
            return [hint for hint, longest in _longest(hints) if longest in text]
        table = _by_start(hints)
        starts = {text[at : at + _START] for at in range(len(text) - 1)} & table.keys()
        return [hint for start in starts for hint, longest in table[start] if longest in text]


@functools.cache
def with_zeros(hint: bytes) -> bytes:
    """Return ``hint`` as it is in the words of a vocabulary."""
    return hint.translate(DIGITS)


@functools.cache
def _longest(hints: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    return [(hint, max(hint.translate(DIGITS).split(), key=len)) for hint in hints]


@functools.cache
def _by_start(hints: tuple[bytes, ...]) -> dict[bytes, list[tuple[bytes, bytes]]]:
    table: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for hint, longest in _longest(hints):
        table.setdefault(longest[:_START], []).append((hint, longest))
    return table
