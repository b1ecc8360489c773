"""Secrets that are known by the name of their column: lines of CSV, and an INSERT with its names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release_tasks.core.redaction.harmless import is_harmless_word, is_reference
from release_tasks.core.redaction.views import Span

__all__ = ["find_columns"]

_NAME = re.compile(
    rb"(?i)[\w .-]{0,40}(?:password|passwd|secret(?: access key| key)?|token|api[_ -]?key|private[_ -]?key)$"
)
_HEADER = re.compile(rb"[\"']?[A-Za-z][\w .-]{0,60}[\"']?(?:[,;\t][\"']?[A-Za-z][\w .-]{0,60}[\"']?){1,40}\r?$")
_MOST_LINES = 1000
_INSERT = re.compile(
    rb"(?i)insert\s{1,4}into\s{1,4}\S{1,128}\s{0,4}\(([^()]{3,1000})\)\s{0,4}values\s{0,4}\(([^\n]{3,4000})"
)
_CELL = re.compile(
    rb"\s{0,8}(?:[NE]?'((?:[^'\n]|''){0,1000})'|\"([^\"\n]{0,1000})\"|([^,()'\"\n]{0,1000}))\s{0,8}(?:,|(?=\)))"
)


def find_columns(data: bytes, lower: bytes) -> Iterator[Span]:
    """Yield the places of values in the column of a secret; ``lower`` is ``data`` in lower case."""
    if b"insert" in lower:
        for insert in _INSERT.finditer(data):
            yield from _inserted(insert)
    for word in (b"password", b"passwd", b"secret", b"token", b"key"):
        at = lower.find(word) if b"\n" in data else -1
        while at >= 0:
            end = data.find(b"\n", at)
            if end < 0:
                break
            start = data.rfind(b"\n", 0, at) + 1
            if _has_separator(data, at, at + len(word)) and end - start < 2000:
                yield from _csv(data, start, end)
            at = lower.find(word, end)


def _has_separator(data: bytes, start: int, end: int) -> bool:
    return (
        data[end : end + 1] in (b",", b";", b"\t")
        or data[max(start - 1, 0) : start] in (b",", b";", b"\t")
        or (data[end : end + 2] == b"\r\n" or data[end : end + 1] == b"\n")
    )


def _csv(data: bytes, start: int, end: int) -> Iterator[Span]:
    header = data[start:end].rpartition(b": ")[2].rstrip(b"\r")  # a log may write something before it
    if _HEADER.match(header) is None:
        return
    separator = next(sign for sign in (b",", b";", b"\t") if sign in header)
    names = [name.strip(b"\"' ") for name in header.split(separator)]
    secrets = [index for index, name in enumerate(names) if _NAME.match(name)]
    at = end + 1
    for _ in range(_MOST_LINES if secrets else 0):
        line = data[at : data.find(b"\n", at) % (len(data) + 1)]
        cells = line.split(separator)
        if len(cells) != len(names):
            return
        for index in secrets:
            cell = cells[index].strip(b"\"' \r")
            if len(cell) >= 4 and not is_harmless_word(cell) and not is_reference(cell):
                place = at + sum(len(each) + 1 for each in cells[:index]) + cells[index].find(cell)
                yield place, place + len(cell)
        at += len(line) + 1


def _inserted(insert: re.Match[bytes]) -> Iterator[Span]:
    names = [name.strip(b"\"'`[] \t\r\n") for name in insert[1].split(b",")]
    at = insert.start(2)
    for name in names:
        cell = _CELL.match(insert.string, at)
        if cell is None:
            return
        group = next((each for each in (1, 2) if cell[each]), None)
        if group is not None and _NAME.match(name) and len(cell[group]) >= 4 and not is_harmless_word(cell[group]):
            yield cell.span(group)
        at = cell.end()
