"""Values together with their text in a configuration file, because YAML turns some texts into other values.

``1.10`` becomes the number 1.1, ``yes`` becomes true, ``1:30`` becomes 90 and ``2024-01-01`` becomes a date. The loader
checks the text and not only the value.
"""

from __future__ import annotations

import datetime
import reprlib
from collections.abc import Mapping
from typing import Any

from attrs import frozen

__all__ = ["AsWritten", "exact_number", "meaning_of", "plain", "shown"]

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 80


@frozen(repr=False)
class AsWritten:
    """A value that is not text, and its ``text`` in the file, such as 1.1 and ``1.10``."""

    value: Any
    text: str

    def __repr__(self) -> str:
        return self.text


def plain(value: Any) -> Any:
    """Return ``value`` with the plain values at every depth."""
    if isinstance(value, AsWritten):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def shown(value: Any) -> str:
    """Return ``value`` for an error message: as it is written where that is known, and not longer than a line."""
    return "nothing: the key has no value" if value is None else _SHORT.repr(value)


def meaning_of(value: Any) -> str:
    """Return what an unquoted value means: ``the number 1.1``, ``true``, ``a date``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, datetime.date):
        return "a date"
    return "nothing" if value is None else f"a {type(value).__name__}"


def exact_number(value: Any) -> Any:
    """Return the plain value; raises ValueError for a number, also in a list, whose text has another meaning.

    YAML reads ``010`` as 8 and ``1:30`` as 90.
    """
    if isinstance(value, list):
        return [exact_number(each) for each in value]
    if not isinstance(value, AsWritten):
        return value
    number, text = value.value, value.text
    if isinstance(number, (int, float)) and not isinstance(number, bool) and not _is_decimal(text):
        raise ValueError(f"unquoted, {text} is {meaning_of(number)}: write it in plain decimal digits")
    return number


def _is_decimal(text: str) -> bool:
    digits = text.removeprefix("-")
    whole, _, fraction = digits.partition(".")
    has_leading_zero = len(whole) > 1 and whole.startswith("0")
    return digits.isascii() and whole.isdigit() and not has_leading_zero and (not fraction or fraction.isdigit())
