"""Private keys: a block of many lines, or the same in one line with ``\\n``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release_tasks.core.redaction.views import Span

__all__ = ["LONGEST_KEY", "find_private_keys", "unfinished_key"]

LONGEST_KEY = 32 << 10  # bytes; RSA of 16384 bits needs 13 KiB
_BEGIN = re.compile(rb"-{4,5} ?BEGIN (?:[A-Z0-9]{1,20} ){0,4}(?:PRIVATE KEY(?: BLOCK)?|SECRET KEY(?: BLOCK)?) ?-{4,5}")
_END = re.compile(rb"-{4,5} ?END (?:[A-Z0-9]{1,20} ){0,4}(?:PRIVATE|SECRET) KEY(?: BLOCK)? ?-{4,5}")
# A key without its end: lines of base64, with what a log or a literal writes around them.
_BODY = re.compile(
    rb"(?:(?:\r?\n|\\r|\\n|[ \t\"'|>+,])*(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]{4,20}: [^\n\\]{1,100}(?=\r?\n|\\n)"
    rb"))*(?:\r?\n|\\r|\\n)?[A-Za-z0-9+/=]{0,64}"
)


_PUTTY = re.compile(rb"Private-Lines: \d{1,3}\r?\n((?:[A-Za-z0-9+/=]{1,80}(?:\r?\n|\Z)){1,300})")
_LINES_OF_PUTTY = re.compile(rb"Private-Lines: (\d{1,3})\r?\n")
_BODY_BEFORE = re.compile(rb"(?:(?<![^\n])[ \t]{0,20}[A-Za-z0-9+/=]{1,128}\r?\n){1,1000}[ \t]{0,20}\Z")


def find_private_keys(data: bytes) -> Iterator[Span]:
    """Yield the places of private keys, also of one whose end is missing."""
    at = data.find(b"BEGIN ")
    end: re.Match[bytes] | None = None
    is_searched = False
    while at >= 0:
        begin = _BEGIN.search(data, max(at - 6, 0), at + 100)
        if begin is None:
            at = data.find(b"BEGIN ", at + 1)
            continue
        if not is_searched or (end is not None and end.start() < begin.end()):
            end, is_searched = _END.search(data, begin.end()), True
        is_whole = end is not None and end.end() - begin.start() <= LONGEST_KEY
        if is_whole and end is not None:
            span = begin.start(), end.end()
        else:
            body = _BODY.match(data, begin.end(), begin.end() + LONGEST_KEY)
            span = begin.start(), body.end() if body is not None else begin.end()
        yield span
        at = data.find(b"BEGIN ", span[1])
    yield from (match.span(1) for match in _PUTTY.finditer(data))
    if b"END " in data:
        yield from _find_ends(data)


def _find_ends(data: bytes) -> Iterator[Span]:
    """Yield the places of keys whose beginning is missing, because the output before it was left out."""
    at = 0
    while (end := _END.search(data, at)) is not None:
        begin = data.rfind(b"BEGIN ", max(end.start() - LONGEST_KEY, at), end.start())
        if begin < 0:
            start = max(end.start() - LONGEST_KEY, at)
            lines = _BODY_BEFORE.search(data, start, end.start())
            yield (lines.start() if lines is not None else end.start()), end.end()
        at = end.end()


def unfinished_key(data: bytes | bytearray) -> int:
    """Return where a private key begins whose end is missing, or -1; the end may be in the next part of a stream."""
    lines = _LINES_OF_PUTTY.search(data, max(len(data) - LONGEST_KEY, 0))
    if lines is not None and data.count(b"\n", lines.end()) <= int(lines[1]):
        return lines.start()
    at = data.rfind(b"BEGIN ")
    begin = _BEGIN.search(data, max(at - 6, 0)) if at >= 0 else None
    if begin is None or _END.search(data, begin.end()) or len(data) - begin.start() > LONGEST_KEY:
        return -1
    return begin.start()
