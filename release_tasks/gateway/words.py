"""The words of a message's content, from the JSON of a channel: ``[poll] Lunch?; pizza; pasta``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["Words", "labelled", "rich_text"]

# The keys of a content, in the order of the text. A pair is an object, or a list of objects, with keys of its own.
Words = tuple["str | tuple[str, Words]", ...]

_MAX_LABEL = 64
_MAX_DEPTH = 32
# Keys that hold words in the contents of both channels. They are looked up in a content that has no entry of its own.
_COMMON_KEYS = (
    "title", "text", "body", "caption", "question", "description", "label", "name", "formatted_name", "first_name",
    "last_name", "phone_number", "address", "emoji", "data", "id", "details",
)  # fmt: skip
_RICH_KEYS = ("label", "text", "summary", "expression", "alternative_text", "credit")
_RICH_PARTS = ("caption", "blocks", "items", "cells", "buttons")


def labelled(kind: str, content: Any, words: Words | None) -> str:
    """Return the name of a kind of content, then the words of the content.

    Without ``words``, which are the keys of a known kind, all values with common names are taken.
    """
    found = dict.fromkeys(_any_words(content, _MAX_DEPTH)) if words is None else _words(content, words)
    return " ".join(filter(None, [f"[{kind[:_MAX_LABEL]}]", "; ".join(filter(None, found))]))


def rich_text(message: Any) -> str:
    """Return the text of a rich message of Telegram, one line for each block."""
    return "\n".join(filter(None, map(str.strip, _rich_lines(message, _MAX_DEPTH))))


def _words(content: Any, words: Words) -> Iterator[str]:
    for item in content if isinstance(content, list) else [content]:
        if not isinstance(item, dict):
            continue
        for word in words:
            if isinstance(word, str):
                yield from _values(word, item.get(word))
            else:
                inner = item.get(word[0])
                for part in inner if isinstance(inner, list) else [inner]:
                    yield ", ".join(filter(None, _words(part, word[1])))


def _values(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _values(key, item)
    elif isinstance(value, str):
        yield value.strip()
    elif isinstance(value, (int, float)) and value is not False:
        yield key if value is True else f"{key} {value}"


def _any_words(content: Any, depth: int) -> Iterator[str]:
    if depth and isinstance(content, list):
        for item in content:
            yield from _any_words(item, depth - 1)
    elif depth and isinstance(content, dict):
        for key in _COMMON_KEYS:
            if not isinstance(content.get(key), (dict, list)):
                yield from _values(key, content.get(key))
        for value in content.values():
            if isinstance(value, (dict, list)):
                yield from _any_words(value, depth - 1)
    elif isinstance(content, str):
        yield content.strip()


def _rich_lines(block: Any, depth: int) -> Iterator[str]:
    if not depth:
        return
    if isinstance(block, list):
        for item in block:
            yield from _rich_lines(item, depth - 1)
    elif isinstance(block, dict):
        for key in _RICH_KEYS:
            yield _rich_words(block.get(key), depth - 1)
        for key in _RICH_PARTS:
            part = block.get(key)
            is_text = isinstance(part, str) or (isinstance(part, dict) and "type" in part and key == "caption")
            yield from [_rich_words(part, depth - 1)] if is_text else _rich_lines(part, depth - 1)


def _rich_words(text: Any, depth: int) -> str:
    """Return the characters of a RichText: text, a list of RichTexts, or an object with a RichText."""
    if isinstance(text, str):
        return text
    if depth and isinstance(text, list):
        return "".join(_rich_words(part, depth - 1) for part in text)
    if depth and isinstance(text, dict):
        first = next((text[key] for key in ("text", "expression", "alternative_text") if key in text), "")
        return _rich_words(first, depth - 1)
    return ""
