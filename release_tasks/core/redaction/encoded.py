"""Secrets inside of base64, whose value is not known: a token, or an assignment."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator

from release_tasks.core.redaction.views import Span

__all__ = ["find_encoded"]

# The first letters of base64 of text: its bytes are letters and digits, so these four have few values each.
_RUN = re.compile(rb"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{24,8192}={0,2}")
_HEX = re.compile(rb"[0-9A-Fa-f-]+")
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")
_SAMPLE = 24
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def find_encoded(data: bytes, has_secret: Callable[[bytes], bool]) -> Iterator[Span]:
    """Yield the places of base64 of ASCII text in which ``has_secret`` finds one."""
    for match in _RUN.finditer(data):
        run = match[0].rstrip(b"=").translate(_URL_SAFE)
        if _HEX.fullmatch(run) or not _TEXT.fullmatch(_decoded(run[:_SAMPLE])):
            continue
        text = _decoded(run)
        if _TEXT.fullmatch(text) and has_secret(text):
            yield match.span()


def _decoded(run: bytes) -> bytes:
    try:
        return base64.b64decode(run + b"=" * (-len(run) % 4))
    except binascii.Error:
        return b""
