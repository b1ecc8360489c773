"""Secrets that are known by their value, in every encoding that a program may write them in."""

from __future__ import annotations

import base64
import bisect
import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from release_tasks.core.redaction.names import is_secret_name
from release_tasks.core.redaction.views import Span, all_joined

__all__ = ["KnownValues", "values_in_environment"]

_SHORTEST = 6  # redacting shorter values would remove ordinary words
_SHORTEST_LINE = 12
_WORD = re.compile(r"[a-z]{1,10}")
_PROBE = 10  # bytes at both ends of a value; one of them is whole when the value is wrapped
_PLAIN_VALUES = frozenset(["false", "enabled", "disabled", "default", "required", "optional", "production", "session"])
_PATH_NAME = re.compile(r"_(?:FILE|PATH|DIR|HOME|FOLDER)$", re.IGNORECASE)
_MARKER = re.compile(r"-{4,}(?:BEGIN|END) ")
# Names of many other things too: such a value is a secret when it looks like one.
_WEAK_NAME = re.compile(r"(?:^|_)(?:KEYS?|PWD|AUTH|AUTHORIZATION|PAT|SAS|JWT)(?:_(?:B64|BASE64|HEX|PEM|JSON|CONFIG))?$")


def values_in_environment(environment: Mapping[str, str], named: Iterable[str] = ()) -> Iterator[str]:
    """Yield the secrets in the variables in ``named``, in those with the name of a secret, and in URLs.

    Each long line of a value is a secret too: a private key has many lines, and a log may contain one.
    """
    chosen = set(named)
    for name, value in environment.items():
        if name in chosen or _is_secret(name, value):
            yield from _parts(value)
        if "://" in value and "@" in value:
            yield from _of_url(value)


def _is_secret(name: str, value: str) -> bool:
    if value.lower() in _PLAIN_VALUES or (_PATH_NAME.search(name) and value.startswith(("/", "~", "."))):
        return False
    if not is_secret_name(name):
        return _WEAK_NAME.search(name.upper()) is not None and _looks_random(value)
    if "://" in value:  # the rule of URLs leaves the host legible
        return re.search(r"dsn|url|uri", name, re.IGNORECASE) is None
    return True


def _looks_random(value: str) -> bool:
    is_path = value.startswith(("/", "~", "."))
    return len(value) >= _SHORTEST_LINE and re.search(r"\d", value) is not None and not is_path and "://" not in value


def _parts(value: str) -> Iterator[str]:
    if value.lstrip().startswith("{"):
        try:
            document = json.loads(value)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            yield value
            yield from _in_document(document)
            return
    yield value
    yield value.strip()
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line for line in map(str.strip, lines) if len(line) >= _SHORTEST and not _MARKER.search(line))
    for pair in value.split(";"):  # cookies, connection strings
        name, sign, rest = pair.partition("=")
        if sign and len(rest.strip()) >= _SHORTEST_LINE and re.fullmatch(r"[\w.$ -]{1,64}", name):
            yield rest.strip()


def _in_document(document: Any, is_secret: bool = False) -> Iterator[str]:
    if isinstance(document, dict):
        for key, item in document.items():
            yield from _in_document(item, is_secret_name(str(key)) and not str(key).endswith(("_id", "Id")))
    elif isinstance(document, list):
        for item in document:
            yield from _in_document(item, is_secret)
    elif isinstance(document, str) and is_secret:
        yield from _parts(document)


def _of_url(value: str) -> Iterator[str]:
    try:
        parts = urlsplit(value)
        password, user = parts.password, parts.username
    except ValueError:
        return
    for secret in (password, user if user and len(user) >= 20 else None):
        if secret:
            yield secret
            yield unquote(secret)


class KnownValues:
    """A set of values, and the search for them. A value of fewer than 6 characters is not searched.

    A value that is a word such as ``snapshot`` is searched only behind the name of a secret, and in URLs: elsewhere
    the same word is a part of ids, paths and sentences.
    """

    def __init__(self, values: Iterable[str]) -> None:
        known = frozenset(value for value in values if len(value) >= _SHORTEST)
        words = frozenset(value for value in known if _WORD.fullmatch(value))
        self._needles, self._probes = _needles(known - words)
        self._words = _behind_a_name(words) if words else None

    def find(self, data: bytes) -> Iterator[Span]:
        """Yield the places of the values in ``data``, also of those that are split over lines."""
        # A line is shorter than most encodings of a long value: the needles are in order of their length.
        first = bisect.bisect_left(self._needles, -len(data), key=lambda needle: -len(needle))
        for needle in self._needles[first:]:
            at = data.find(needle)
            while at >= 0:
                yield at, at + len(needle)
                at = data.find(needle, at + len(needle))
        if self._words is not None:
            yield from (match.span(1) for match in self._words.finditer(data))
        if b"\n" in data:
            for value, probes in self._probes:
                yield from _wrapped(data, value, probes)

    def __bool__(self) -> bool:
        return bool(self._needles) or self._words is not None


@functools.lru_cache(maxsize=16)
def _behind_a_name(words: frozenset[str]) -> re.Pattern[bytes]:
    alternatives = b"|".join(word.encode() for word in sorted(words))
    return re.compile(
        rb"(?:(?i:pass\w{0,8}|pwd|secret|token|key|credentials?|auth)[\"'\])]{0,2}[ \t]{0,4}(?:[:=]>?|,(?=[ ]?[\"']))"
        rb"[ \t]{0,4}[\"']?|(?i:--?pass\w{0,8}|--token|--secret)[ ]|://[^\s:/@]{0,64}:|(?i:by|password)[ ]')("
        + alternatives
        + rb")(?![\w-])"
    )


def _wrapped(data: bytes, value: bytes, probes: tuple[bytes, ...]) -> Iterator[Span]:
    """Yield the places where ``value`` is split over lines."""
    done = -1
    for probe in probes:
        at = data.find(probe)
        while at >= 0:
            start, end = max(at - 3 * len(value) - 64, 0), at + 3 * len(value) + 64
            if at > done and not data.startswith(value, at) and b"\n" in data[start:end]:
                for view in all_joined(data[start:end]):
                    found = view.data.find(value)
                    if found >= 0:
                        first, last = view.origin((found, found + len(value)))
                        yield first + start, last + start
                        done = last + start
                        break
            at = data.find(probe, at + len(probe))


@functools.lru_cache(maxsize=16)
def _needles(values: frozenset[str]) -> tuple[list[bytes], list[tuple[bytes, tuple[bytes, ...]]]]:
    needles: set[bytes] = set()
    probes: list[tuple[bytes, tuple[bytes, ...]]] = []
    for value in values:
        raw = as_bytes(value)
        needles |= {raw, raw.hex().encode(), raw.hex().upper().encode()}
        if len(value) > _SHORTEST + 1:
            needles |= {as_bytes(value.upper()), as_bytes(value.lower()), as_bytes(value[::-1])}
            needles |= {as_bytes(value.capitalize()), as_bytes(value.swapcase())}
            needles |= {raw.replace(b" ", b"+"), *_in_hex(raw), *_base32(raw)}
        needles |= {raw.replace(b"'", b"'\"'\"'"), raw.replace(b"'", b"'\\''"), raw.replace(b"'", b"''")}
        needles |= {raw.replace(b"\n", b"\\n"), raw.replace(b"\n", b" ")}
        cores = set(_base64(raw))
        needles |= cores
        if not value.isascii():
            needles |= set(_in_other_letters(value))
        if len(raw) >= _SHORTEST_LINE and b"\n" not in raw:
            # Base64 of base64, and of UTF-16.
            needles |= {twice for core in cores for twice in _base64(core)}
            needles |= set(_base64(b"\0".join(bytes([each]) for each in raw)))
            for text in (raw, raw.hex().encode(), *cores):
                size = min(_PROBE, len(text) // 2)
                probes.append((text, (text[:size], text[-size:])))
    return sorted((each for each in needles if len(each) >= _SHORTEST), key=len, reverse=True), probes


def _base64(raw: bytes) -> Iterator[bytes]:
    """Yield the characters of base64 that depend on ``raw`` alone, for each of the three places it can begin at."""
    for before in range(3):
        encoded = base64.b64encode(b"\x00" * before + raw).rstrip(b"=")
        core = encoded[(8 * before + 5) // 6 : (8 * (before + len(raw))) // 6]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def _in_hex(raw: bytes) -> Iterator[bytes]:
    for separator in (b":", b" ", b"-", b", "):
        pairs = [b"%02x" % each for each in raw]
        yield separator.join(pairs)
        yield separator.join(pairs).upper()
    yield b", ".join(b"0x%02x" % each for each in raw)
    yield b"\\x" + b"\\x".join(b"%02x" % each for each in raw)
    yield b", ".join(b"%d" % each for each in raw)
    yield b",".join(b"%d" % each for each in raw)


def _base32(raw: bytes) -> Iterator[bytes]:
    """Yield the characters of base32 that depend on ``raw`` alone, for each of the five places it can begin at."""
    for before in range(5):
        encoded = base64.b32encode(b"\x00" * before + raw).rstrip(b"=")
        yield encoded[(8 * before + 4) // 5 : (8 * (before + len(raw))) // 5]


def _in_other_letters(value: str) -> Iterator[bytes]:
    """Yield a value that is not ASCII as other programs write it: composed or not, in Latin 1, and read as Latin 1."""
    for form in ("NFC", "NFD"):
        yield as_bytes(unicodedata.normalize(form, value))
    for encoding in ("latin-1", "cp1252"):
        yield value.encode(encoding, "ignore")
        yield as_bytes(value).decode(encoding, "ignore").encode()


def as_bytes(text: str) -> bytes:
    """Return ``text`` in UTF-8, also with the surrogates of file names and of JSON."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
