"""Secrets never reach a log, a manifest or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["REDACTED", "Redactor", "is_secret_name"]

REDACTED = "[REDACTED]"

_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|(?:^|_)(?:TOKENS?|PASS|APIKEY)(?:_|$)|_PWD(?:_|$)"
    r"|(?:API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION)_?KEY(?:_|$)",
    re.IGNORECASE,
)
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]")
_SHORTEST_SECRET = 6  # shorter values would blank out ordinary words

# No prefix before the word: one that could match everywhere makes a long line take quadratic time.
_ASSIGNMENT = re.compile(
    rb"(?i)((?:secret|token|password|passwd|api[_-]?key|access[_-]?key|private[_-]?key)"
    rb"[\"']?\s*[=:]\s*[\"']?)([^\s\"',;&]{4,})"
)
_BEARER = re.compile(rb"(?i)(\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{8,})")
_URL_PASSWORD = re.compile(rb"(://[^/\s:@]{1,256}:)([^/\s@]{1,256})(@)")
_KNOWN_SHAPES = re.compile(
    rb"\b(?:gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|sk-[A-Za-z0-9_-]{16,255}|xox[abprs]-[\w-]{10,255}"
    rb"|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|\d{6,12}:[A-Za-z0-9_-]{30,64}|eyJ[\w-]{8,2048}\.[\w-]{8,2048}\.[\w-]{8,2048})"
)
# Most lines hold none of these, and looking for plain bytes is many times faster than a pattern.
_HINTS = (b"secret", b"token", b"passw", b"key", b"bearer", b"basic", b"://", b"gh", b"sk-", b"xox", b"akia", b"aiza",
          b"eyj")  # fmt: skip
_BOT_TOKEN = re.compile(rb"\d{6}:")


def is_secret_name(name: str) -> bool:
    """Say whether a variable or key of this name holds a secret, judging by the name: ``API_KEY``, ``botToken``."""
    return _SECRET_NAME.search(_WORD_BREAK.sub("_", name)) is not None


class Redactor:
    """Replaces known secret values, and what has the shape of one, by ``[REDACTED]``."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = sorted({v for v in values if len(v) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._values = re.compile(b"|".join(re.escape(_bytes(v)) for v in known)) if known else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], named: Iterable[str] = ()) -> Redactor:
        """Know the values of every variable that is named like a secret, and of those in ``named``.

        Each line of a value is known too: output is redacted line by line, and a private key has many.
        """
        wanted = set(named)
        values = [v for k, v in environment.items() if k in wanted or _SECRET_NAME.search(k)]
        return cls([*values, *(line for value in values for line in value.splitlines())])

    def redact(self, data: bytes) -> bytes:
        """Return ``data`` with every secret in it replaced; give it whole lines."""
        blank = REDACTED.encode()
        if self._values is not None:
            data = self._values.sub(blank, data)
        lower = data.lower()
        if not any(hint in lower for hint in _HINTS) and _BOT_TOKEN.search(data) is None:
            return data
        data = _KNOWN_SHAPES.sub(blank, data)
        data = _BEARER.sub(rb"\1" + blank, data)
        data = _URL_PASSWORD.sub(rb"\1" + blank + rb"\3", data)
        return _ASSIGNMENT.sub(rb"\1" + blank, data)

    def redact_text(self, text: str) -> str:
        """Return ``text`` with every secret in it replaced."""
        return self.redact(_bytes(text)).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # as the environment and file names have it
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # as a JSON escape can have it
