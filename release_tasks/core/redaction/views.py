"""Other readings of the same bytes: without escapes, decoded, or with wrapped lines joined.

A secret that a terminal escape or a line wrap splits, or that is written as ``%2F`` or ``\\u002f``, is found in the
reading, and its place in the original bytes is redacted.
"""

from __future__ import annotations

import bisect
import html
import re
from collections.abc import Callable, Iterator

from attrs import frozen

__all__ = ["Span", "View", "all_joined", "decoded", "joined", "without_controls"]

Span = tuple[int, int]

# ECMA-48: CSI, OSC and the other string sequences, and the two-byte ones. Then a character that a backspace removes,
# and single controls. A NUL between two letters is UTF-16. U+200B to U+200F, U+2060, U+FEFF and U+00AD have no width,
# nor the other characters of format (Cf), the selectors of variants and U+034F. C1 has a CSI of its own.
_CONTROLS = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)?|[ -/]*[0-~])"
    rb"|[^\n\x08\x1b]\x08|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
    rb"|\xe2\x80[\x8b-\x8f\xaa-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xc2\xad|\xcd\x8f|\xd8\x9c|\xe1\xa0\x8e"
    rb"|\xef\xb8[\x80-\x8f]|\xef\xbf[\xb9-\xbb]|\xf3\xa0[\x80-\x87][\x80-\xbf]"
    rb"|(?:\xc2\x9b|(?<![\x80-\xff])\x9b)[0-?]*[ -/]*[@-~]|\xc2[\x80-\x9f]"
)
_RARE = bytes([*range(9), 11, 12, *range(13, 32), 0x7F, 0x8F, 0x9B, 0x9C, 0xAD, 0xE1, 0xE2, 0xEF, 0xF3])
_PERCENT = rb"%[0-9A-Fa-f]{2}"
_BACKSLASH = rb"\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[0-7]{3}|[\s\S])"  # JSON, Python, C and the shell
_ENTITY = rb"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
_ENCODED = re.compile(b"|".join((_PERCENT, _BACKSLASH, _ENTITY)))
# The end of a line inside a word, with the frame and the indentation of a table around it. A blank can be matched in
# one way only, so that a long run of blanks costs no more than its length.
_FRAME = rb"[ \t]*(?:(?:\xe2\x94\x82|\||\\)[ \t]*)?"
_WRAP = re.compile(rb"(?<=[^\s])" + _FRAME + rb"\r*\n" + _FRAME + rb"(?=[^\s])")
# The same with what mail, a quotation, a list or a log writes at the end and the start of a line, and with the
# quotes of a literal of several lines.
_MARKS = rb"[ \t]{0,16}(?:\xe2\x94\x82|[+\\=,&.|-]|)[ \t]{0,16}\r*\n[ \t]{0,16}"
_NEXT_MARKS = (
    rb"(?:\xe2\x94\x82|[|>#*]|\d{1,6}[ \t]{0,4}[|:]|\d{4}-\d\d-\d\dT\S{8,24}[ ](?:\S{1,40}:[ ])?|)[ \t]{0,16}[+&.]?"
    rb"[ \t]{0,4}"
)
_WRAPS = (
    _WRAP,
    re.compile(rb"(?<=[^\s])" + _MARKS + _NEXT_MARKS + rb"(?=[^\s])"),
    re.compile(rb"(?<=[^\s])[\"']" + _MARKS + _NEXT_MARKS + rb"[\"'](?=[^\s])"),
)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\x08", b"f": b"\x0c", b"\n": b""}


@frozen
class View:
    """A reading of bytes. ``starts`` are the offsets of its parts, ``origins`` where each part begins in the bytes.

    A part that is ``copied`` has the same length in both.
    """

    data: bytes
    starts: list[int]
    origins: list[int]
    copied: list[bool]

    def place(self, at: int) -> int:
        """Return the place of the byte at ``at`` of the original bytes, or of the next one that the reading has."""
        part = bisect.bisect_right(self.origins, at) - 1
        if part < 0:
            return 0
        end = self.starts[part + 1] if part + 1 < len(self.starts) else self.starts[part]
        return min(self.starts[part] + (at - self.origins[part] if self.copied[part] else 0), end)

    def origin(self, span: Span) -> Span:
        """Return the place of ``span``, which is not empty, in the original bytes."""
        first, last = bisect.bisect_right(self.starts, span[0]) - 1, bisect.bisect_right(self.starts, span[1] - 1) - 1
        start = self.origins[first] + (span[0] - self.starts[first] if self.copied[first] else 0)
        end = self.origins[last] + span[1] - self.starts[last] if self.copied[last] else self.origins[last + 1]
        return start, end


def without_controls(data: bytes) -> View | None:
    """Return ``data`` without the escapes and controls of a terminal, or None when it has none."""
    if len(data.translate(None, _RARE)) == len(data):  # ten times as fast as the pattern
        return None
    return _rewritten(data, _CONTROLS, lambda _: b"")


def decoded(data: bytes) -> View | None:
    """Return ``data`` with percent codes, backslash escapes and HTML entities replaced, or None when it has none."""
    return _rewritten(data, _ENCODED, _decode)


def joined(data: bytes) -> View | None:
    """Return ``data`` with its lines joined, or None when it is one line."""
    return _rewritten(data, _WRAP, lambda _: b"")


def all_joined(data: bytes) -> Iterator[View]:
    """Yield ``data`` with its lines joined, in each way that lines are wrapped."""
    views = (_rewritten(data, wrap, lambda _: b"") for wrap in _WRAPS)
    yield from (view for view in views if view is not None)


def _decode(code: bytes) -> bytes:
    if code[:1] == b"%":
        return bytes([int(code[1:], 16)])
    if code[:1] == b"&":
        text = html.unescape(code.decode("ascii"))
        return text.encode("utf-8", "replace")
    if code[1:2] in (b"u", b"x") and len(code) > 2:
        return chr(int(code[2:], 16)).encode("utf-8", "surrogatepass") if len(code) > 4 else bytes([int(code[2:], 16)])
    if len(code) == 4:
        return bytes([int(code[1:], 8) & 0xFF])
    return _LETTERS.get(code[1:], code[1:])


def _rewritten(data: bytes, pattern: re.Pattern[bytes], replace: Callable[[bytes], bytes]) -> View | None:
    parts: list[bytes] = []
    starts: list[int] = []
    origins: list[int] = []
    copied: list[bool] = []
    at = length = 0

    def add(part: bytes, origin: int, is_copied: bool) -> None:
        nonlocal length
        if part:
            parts.append(part)
            starts.append(length)
            origins.append(origin)
            copied.append(is_copied)
            length += len(part)

    for match in pattern.finditer(data):
        add(data[at : match.start()], at, True)
        add(replace(match[0]), match.start(), False)
        at = match.end()
    if at == 0:
        return None
    add(data[at:], at, True)
    starts.append(length)
    origins.append(len(data))
    copied.append(True)
    return View(b"".join(parts), starts, origins, copied)
