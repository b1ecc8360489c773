"""Remove secrets from text before it is written to a log, a manifest or a terminal.

What is a secret is said in ``core.redaction``: values of the environment in every encoding, tokens by their format,
values by the name or the words before them, passwords of URLs, private keys. Each is searched in several readings of
the text, because an escape, an encoding or the end of a line may split it.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from release_tasks.core.clock import awake
from release_tasks.core.holes import data_ranges
from release_tasks.core.redaction.columns import find_columns
from release_tasks.core.redaction.encoded import find_encoded
from release_tasks.core.redaction.formats import find_tokens
from release_tasks.core.redaction.keys import find_private_keys, unfinished_key
from release_tasks.core.redaction.names import NAMES, find_named, is_secret_name, names_in
from release_tasks.core.redaction.phrases import PHRASES, find_phrases, phrases_in
from release_tasks.core.redaction.urls import find_in_urls
from release_tasks.core.redaction.values import KnownValues, as_bytes, values_in_environment
from release_tasks.core.redaction.views import Span, View, decoded, without_controls
from release_tasks.core.redaction.vocabulary import Vocabulary

__all__ = [
    "LONGEST_SECRET",
    "REDACTED",
    "WRAPPED_LINES",
    "Redactor",
    "declare_secrets",
    "is_secret_name",
    "mask_file",
    "replaced",
]

REDACTED = "[REDACTED]"

_REPLACEMENT = REDACTED.encode()
_REPLACED = re.compile(re.escape(_REPLACEMENT))
# Several times: a log in JSON quotes an answer in JSON, and the escape of a terminal is written as ``\u001b`` in it.
_READINGS = (without_controls, decoded) * 4
_MASKED_PART = 256 << 10  # takes about a second at most
_MASKED_OVERLAP = 64 << 10
_MOST_MASKED = 64 << 20
LONGEST_SECRET = 16 << 10  # a secret in one line is shorter than this
WRAPPED_LINES = 4  # a secret may be wrapped over so many lines
_LINES_AFTER = 3  # a value may be on one of the next lines
_MOST_KEPT = 256  # texts
_LONGEST_KEPT = 32 << 10  # characters


_declared: set[str] = set()


def declare_secrets(variables: Iterable[str]) -> None:
    """Count these environment variables as secrets in this process, whatever their names are."""
    _declared.update(variables)


class Redactor:
    """Replaces known secret values, and texts in the form of a secret, by ``[REDACTED]``."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._known = KnownValues(values)
        self._kept = functools.lru_cache(maxsize=_MOST_KEPT)(self._redact_text)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], named: Iterable[str] = ()) -> Redactor:
        """Return a redactor for the values of the variables in ``named`` and of those with the name of a secret."""
        return cls(values_in_environment(environment, named))

    @classmethod
    def of_process(cls) -> Redactor:
        """Return a redactor for the environment of this process and for the variables that the configuration names."""
        return _of_environment(frozenset(os.environ.items()), frozenset(_declared))

    def redact(self, data: bytes) -> bytes:
        """Return ``data`` with every secret replaced; ``data`` should be whole lines."""
        return replaced(data, self.spans(data))

    def redact_beginning(self, data: bytes) -> bytes:
        """Return the beginning of a longer text with every secret replaced, without an end that may be half a secret.

        That is the last lines, or the last 16 KiB of a text in one line, and a private key that does not end.
        """
        spans = self.spans(data)
        cut = _settled(data, spans)
        return replaced(data[:cut], [span for span in spans if span[1] <= cut])

    def redact_text(self, text: str) -> str:
        """Return ``text`` with every secret replaced. A page or a table has the same short texts many times."""
        return self._kept(text) if len(text) <= _LONGEST_KEPT else self._redact_text(text)

    def _redact_text(self, text: str) -> str:
        data = as_bytes(text)
        redacted = self.redact(data)
        return text if redacted == data else redacted.decode("utf-8", "replace")

    def redact_values(self, value: Any) -> Any:
        """Return JSON values with every text in them redacted, also the keys of objects."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, dict):
            return {self.redact_values(key): self.redact_values(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.redact_values(item) for item in value]
        return value

    def spans(self, data: bytes) -> list[Span]:
        """Return the places of the secrets in ``data``, in order and apart from each other."""
        found = list(self._found(data))
        if found and _REPLACEMENT in data:  # a value that is partly redacted is redacted once
            found += (match.span() for match in _REPLACED.finditer(data))
        return _merged(found)

    def _found(self, data: bytes) -> Iterator[Span]:
        yield from self._known.find(data)
        yield from _by_form(data)
        yield from find_encoded(data, _has_secret)
        views: list[View] = []
        for read in _READINGS:
            view = read(views[-1].data if views else data)
            if view is not None:
                views.append(view)
                for span in (*self._known.find(view.data), *_by_form(view.data)):
                    for each in reversed(views):
                        span = each.origin(span)
                    yield span


def replaced(data: bytes, spans: Iterable[Span]) -> bytes:
    """Return ``data`` with ``[REDACTED]`` in each of these places."""
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        parts += [data[at:start], _REPLACEMENT]
        at = end
    return b"".join([*parts, data[at:]])


@functools.lru_cache(maxsize=4)
def _of_environment(environment: frozenset[tuple[str, str]], named: frozenset[str]) -> Redactor:
    return Redactor.from_environment(dict(environment), named)


def mask_file(
    path: Path, redactor: Redactor, start: int = 0, seconds: float = math.inf, *, is_complete: bool = True
) -> int:
    """Replace the secrets in a regular file in place, by as many bytes; a process may be appending to it.

    The file keeps its inode and its length, so the process loses no output. Begins shortly before ``start``, and leaves
    out holes. Ends at the present end of the file, after 64 MiB, or when about ``seconds`` are over, and returns where.
    Unless the output ``is_complete``, it ends before an end that may be half a secret: a mask over the first half would
    hide what the other half is. Raises OSError, also for another type.
    """
    deadline = awake.now() + seconds
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file")
        read = 0
        for first, end in data_ranges(descriptor, info):
            at = max(first, start - LONGEST_SECRET)
            while at < end:
                if read >= _MOST_MASKED or awake.now() >= deadline:
                    return at
                data = os.pread(descriptor, min(_MASKED_PART + _MASKED_OVERLAP, end - at), at)
                if not data:  # the process has cut it
                    return at
                spans, most = redactor.spans(data), len(data)
                if at + most < end:
                    most = _MASKED_PART  # the next part begins there, with the whole of a secret that this one cuts
                elif not is_complete and end == info.st_size:
                    most = _settled(data, spans)
                for one, other in [(one, other) for one, other in spans if one < most]:
                    os.pwrite(descriptor, _REPLACEMENT.ljust(other - one, b"*")[: other - one], at + one)
                if end == info.st_size and at + len(data) >= end:
                    return at + most
                at += _MASKED_PART
                read += len(data)
            if awake.now() >= deadline:  # a file can have any number of holes
                return end
        return info.st_size
    finally:
        os.close(descriptor)


def _settled(data: bytes, spans: list[Span]) -> int:
    """Return where the end of ``data`` begins in which more data could show another secret than ``spans``."""
    cut = len(data)
    for _ in range(WRAPPED_LINES):
        cut = data.rfind(b"\n", 0, max(cut - 1, 0)) + 1
    cut = cut or max(len(data) - LONGEST_SECRET, 0)
    if 0 <= (key := unfinished_key(data)) < cut:
        cut = key
    return next((start for start, end in spans if start < cut < end), cut)


def _by_form(data: bytes) -> Iterator[Span]:
    lower = data.lower()
    vocabulary = Vocabulary(lower)
    yield from find_private_keys(data, vocabulary)
    yield from find_tokens(data, lower, vocabulary)
    yield from find_in_urls(data)
    yield from find_columns(data, lower)
    lines = _suspicious_lines(lower, vocabulary)
    phrases, names = (phrases_in(vocabulary), names_in(vocabulary)) if lines else ([], [])
    for start, end in lines:
        part, lower_part = data[start:end], lower[start:end]
        for first, last in (*find_phrases(part, lower_part, phrases), *find_named(part, lower_part, names)):
            yield start + first, start + last


@functools.cache
def _suspicious() -> tuple[bytes, ...]:
    """Return the shortest texts of which each name and each hint of a phrase contains one."""
    hints = {*NAMES, *(hint for phrase in PHRASES for hint in phrase.hints)}
    return tuple(hint for hint in hints if not any(other in hint for other in hints - {hint}))


def _suspicious_lines(lower: bytes, vocabulary: Vocabulary) -> list[Span]:
    """Return the places of the lines with a word that every name and phrase contains, and of a few lines after each."""
    found = []
    for word in vocabulary.those_in(_suspicious()):
        at = lower.find(word)
        while at >= 0:
            # find returns -1 without another line: then the place is the end.
            end = next_line = lower.find(b"\n", at) % (len(lower) + 1)
            for _ in range(_LINES_AFTER):
                end = lower.find(b"\n", end + 1) % (len(lower) + 1)
            found.append((lower.rfind(b"\n", 0, at) + 1, end))
            at = lower.find(word, next_line)
    return _merged(found)


def _has_secret(text: bytes) -> bool:
    return next(_by_form(text), None) is not None


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
