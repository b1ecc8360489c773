"""Secrets inside of base64, whose value is not known: a token, or an assignment."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable, Iterator

from release_tasks.core.redaction.harmless import looks_random
from release_tasks.core.redaction.views import Span

__all__ = ["find_encoded"]

# A run of base64, also of several lines of the same width.
_RUN = re.compile(
    rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{24,1048576}(?:(?<=[A-Za-z0-9+/_-]{56})\r?\n[ \t]{0,8}[A-Za-z0-9+/_-]{8,128}"
    rb"(?![^\s=])){0,4096}={0,2}"
)
_HEX = re.compile(rb"[0-9A-Fa-f-]+")
_TEXT = re.compile(rb"[\t\n\r\x00\x20-\x7e\x80-\xff]+")
_BLANKS = re.compile(rb"\s+")
_SAMPLE = 24
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_USER_AND_PASSWORD = re.compile(rb"[\w.@+-]{2,64}:(?P<v>[!-~]{6,128})")
_NESTED = 2
_STARTS = 4  # a path or a name may stand before it: /v/..., x-...
_START = re.compile(rb"[/_-]")


def find_encoded(data: bytes, has_secret: Callable[[bytes], bool]) -> Iterator[Span]:
    """Yield the places of base64 of text in which ``has_secret`` finds one."""
    for match in _RUN.finditer(data):
        if _HEX.fullmatch(match[0].rstrip(b"=")):
            continue
        first = match[0].partition(b"\n")[0]  # the next line may be another word
        for run in dict.fromkeys((match[0], first)):
            start = next((at for at in _starts(run) if _is_secret(run[at:], has_secret, _NESTED)), None)
            if start is not None:
                yield match.start() + start, match.start() + len(run)
                break


def _starts(run: bytes) -> list[int]:
    return [0, *(sign.end() for sign, _ in zip(_START.finditer(run), range(_STARTS), strict=False))]


def _is_secret(encoded: bytes, has_secret: Callable[[bytes], bool], nested: int) -> bool:
    run = _BLANKS.sub(b"", encoded).rstrip(b"=").translate(_URL_SAFE)
    if len(run) < _SAMPLE or not _is_text(_decoded(run[:_SAMPLE]), is_cut=True):
        return False
    text = _decoded(run)
    if not _is_text(text):
        return False
    pair = _USER_AND_PASSWORD.fullmatch(text)
    if (pair is not None and looks_random(pair["v"])) or has_secret(text.replace(b"\0", b"")):
        return True
    return nested > 0 and _RUN.fullmatch(text.strip()) is not None and _is_secret(text.strip(), has_secret, nested - 1)


def _is_text(text: bytes, is_cut: bool = False) -> bool:
    if _TEXT.fullmatch(text) is None:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text, final=not is_cut)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(run: bytes) -> bytes:
    try:
        return base64.b64decode(run + b"=" * (-len(run) % 4))
    except binascii.Error:
        return b""
