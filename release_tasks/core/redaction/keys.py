"""Private keys: a block of many lines, or the same in one line with ``\\n``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release_tasks.core.redaction.views import Span
from release_tasks.core.redaction.vocabulary import Vocabulary

__all__ = ["LONGEST_KEY", "find_private_keys", "unfinished_key"]

LONGEST_KEY = 32 << 10  # bytes; RSA of 16384 bits needs 13 KiB
_DASHES = rb"(?:-|\xe2\x80[\x90-\x95]){4,6}"
_KIND = (
    rb"(?:(?:[A-Z0-9]{1,20} ){0,4}(?:(?:PRIVATE|SECRET) KEY(?: BLOCK)?|NKEY SEED)|"
    rb"OpenVPN (?:Static key V1|tls-crypt-v2 (?:client|server) key))"
)
_BEGIN = re.compile(_DASHES + rb" ?BEGIN " + _KIND + rb" ?" + _DASHES)
_END = re.compile(_DASHES + rb" ?END " + _KIND + rb" ?" + _DASHES)
# A key without its end: lines of base64, with what a log or a literal writes around them.
_BODY = re.compile(
    rb"(?:(?:\r?\n|\\r|\\n|[ \t\"'|>+,])*(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]{4,20}: [^\n\\]{1,100}(?=\r?\n|\\n)"
    rb"))*(?:\r?\n|\\r|\\n)?[A-Za-z0-9+/=]{0,64}"
)


# What the keys of the formats PKCS 1, PKCS 8, SEC 1 and OpenSSH begin with, in base64; a certificate begins otherwise.
_DER = re.compile(
    rb"(?<![A-Za-z0-9+/])(?:MI[IGH][\w+/]{1,3}(?:IBA|AgEA|CAQ)|MHcCAQEE|MC4CAQAwBQYDK2V|b3BlbnNzaC1rZXktdjE)"
    rb"[A-Za-z0-9+/]{16,4096}={0,2}(?:\r?\n[ \t]{0,20}[A-Za-z0-9+/]{4,128}={0,2}(?![^\s])){0,200}"
)
_TEXT = re.compile(
    rb"(?:priv|privateExponent|prime[12]|exponent[12]|coefficient):[ \t]{0,8}\r?\n"
    rb"(?P<v>[ \t]{0,20}(?:[0-9a-f]{2}:?){1,32}(?:\r?\n[ \t]{0,20}(?:[0-9a-f]{2}:?){1,32}(?![^\s])){0,100})"
)
_WEB_KEY = re.compile(rb"\"(?:d|p|q|dp|dq|qi|k)\\{0,3}\"[ \t]{0,4}:[ \t]{0,4}\\{0,3}\"(?P<v>[\w-]{20,2048})")
_WEB_KEY_REACH = 4096
_DER_BYTES = 40
_LINE_BYTES = 64
_HEX = re.compile(rb"[0-9a-f]+")
# Lines of a key whose first and last lines are missing: three or more of 64 characters, as OpenSSL writes them.
_LINE = rb"(?=[^\n]{0,63}[a-z])(?=[^\n]{0,63}[A-Z])(?=[^\n]{0,63}[0-9])[A-Za-z0-9+/]{64}"
_BODY_ONLY = re.compile(
    rb"(?<![A-Za-z0-9+/=])" + _LINE + rb"(?:\r?\n[ \t]{0,20}" + _LINE + rb"){2,200}(?![A-Za-z0-9+/=])"
)
_LAST_LINE = re.compile(rb"(?<![A-Za-z0-9+/=])" + _LINE + rb"\r?\Z")
_PUBLIC = rb"[A-Z0-9 ]{0,40}(?:CERTIFICATE|PUBLIC|REQUEST|CRL|SIGNATURE|MESSAGE|PARAMETERS)"
_BEGIN_OF_PUBLIC = re.compile(rb"-----BEGIN " + _PUBLIC)
_END_OF_PUBLIC = re.compile(rb"-----END " + _PUBLIC)
_PREFIXED = re.compile(rb"\r?\n[^\n]{1,200}[ |>:\]]([A-Za-z0-9+/=]{16,128})(?=\r?(?:\n|(?![\s\S])))")
_PUTTY = re.compile(rb"Private-Lines: \d{1,3}\r?\n((?:[A-Za-z0-9+/=]{1,80}(?:\r?\n|\Z)){1,300})")
_LINES_OF_PUTTY = re.compile(rb"Private-Lines: (\d{1,3})\r?\n")
_BODY_BEFORE = re.compile(rb"(?:(?<![^\n])[ \t]{0,20}[A-Za-z0-9+/=]{1,128}\r?\n){1,1000}[ \t]{0,20}\Z")


def find_private_keys(data: bytes, vocabulary: Vocabulary) -> Iterator[Span]:
    """Yield the places of private keys, also of one whose end is missing; ``vocabulary`` is that of ``data``."""
    at = data.find(b"BEGIN ")
    end: re.Match[bytes] | None = None
    is_searched = False
    while at >= 0:
        begin = _BEGIN.search(data, max(at - 19, 0), at + 100)
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
            line = _PREFIXED.match(data, begin.end())
            span = begin.start(), body.end() if body is not None and line is None else begin.end()
            while line is not None and line.end() - begin.start() < LONGEST_KEY:  # a log writes its own words before
                yield span
                span = line.span(1)
                line = _PREFIXED.match(data, span[1])
        yield span
        at = data.find(b"BEGIN ", span[1])
    yield from (match.span(1) for match in _PUTTY.finditer(data))
    if b"END " in data:
        yield from _find_ends(data)
    if b"riv" in data:
        yield from (match.span("v") for match in _TEXT.finditer(data))
    if any(len(word) >= _DER_BYTES for word in vocabulary.words):
        yield from (match.span() for match in _DER.finditer(data))
    if any(len(word) == _LINE_BYTES and _HEX.fullmatch(word) is None for word in vocabulary.words):
        yield from _find_bodies(data)
    yield from _find_web_keys(data)


def _find_bodies(data: bytes) -> Iterator[Span]:
    """Yield the places of lines of a key without its first and last line; those of a certificate stay."""
    if b"\n" not in data:
        return
    for match in _BODY_ONLY.finditer(data):
        start, end = match.span()
        is_public = _BEGIN_OF_PUBLIC.search(data, max(start - 160, 0), start) or _END_OF_PUBLIC.search(
            data, end, end + 160
        )
        if not is_public:
            yield start, end


def _find_web_keys(data: bytes) -> Iterator[Span]:
    """Yield the places of the secret numbers of JSON Web Keys."""
    done = 0
    at = data.find(b'"kty')
    while at >= 0:
        end = at + _WEB_KEY_REACH
        yield from (match.span("v") for match in _WEB_KEY.finditer(data, max(at - _WEB_KEY_REACH, done), end))
        done = end
        at = data.find(b'"kty', max(at + 4, done - _WEB_KEY_REACH))


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
    body = _unfinished_body(data)
    if body >= 0:
        return body
    at = data.rfind(b"BEGIN ")
    begin = _BEGIN.search(data, max(at - 19, 0)) if at >= 0 else None
    if begin is None or _END.search(data, begin.end()) or len(data) - begin.start() > LONGEST_KEY:
        return -1
    return begin.start()


def _unfinished_body(data: bytes | bytearray) -> int:
    """Return where lines of a key begin with which the data ends, or -1."""
    start, end = -1, data.rfind(b"\n")
    while end >= 0 and len(data) - end < LONGEST_KEY:
        line_start = data.rfind(b"\n", 0, end) + 1
        last = _LAST_LINE.search(data, max(line_start, end - _LINE_BYTES - 1), end)
        if last is None:
            break
        start, end = last.start(), line_start - 1
    return start
