"""Remove secrets from text before it is written to a log, a manifest or a terminal."""

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
_SHORTEST_SECRET = 6  # redacting shorter values would remove ordinary words

# No prefix before the word: a prefix that can match everywhere needs quadratic time on a long line.
_ASSIGNMENT = re.compile(
    rb"(?i)((?:secret|token|password|passwd|api[_-]?key|access[_-]?key|private[_-]?key)"
    rb"[\"']?\s*[=:]\s*[\"']?)(?!\$\{\w+\}(?:[\s\"',;&]|$))([^\s\"',;&]{4,})"  # ${NAME} is no value
)
_BEARER = re.compile(rb"(?i)(\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{8,})")
_URL_PASSWORD = re.compile(rb"(://[^/\s:@]{1,256}:)([^/\s@]{1,256})(@)")
_KNOWN_FORMATS = re.compile(
    rb"\b(?:gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|sk-[A-Za-z0-9_-]{16,255}|xox[abprs]-[\w-]{10,255}"
    rb"|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|\d{6,12}:[A-Za-z0-9_-]{30,64}|eyJ[\w-]{8,2048}\.[\w-]{8,2048}\.[\w-]{8,2048})"
)
# Most lines contain none of these, and a search for bytes is many times faster than a pattern.
_HINTS = (b"secret", b"token", b"passw", b"key", b"bearer", b"basic", b"://", b"gh", b"sk-", b"xox", b"akia", b"aiza",
          b"eyj")  # fmt: skip
_BOT_TOKEN = re.compile(rb"\d{6}:")


def is_secret_name(name: str) -> bool:
    """Return whether ``name`` looks like the name of a secret, such as ``API_KEY`` or ``botToken``."""
    return _SECRET_NAME.search(_WORD_BREAK.sub("_", name)) is not None


class Redactor:
    """Replaces known secret values, and texts in the form of a secret, by ``[REDACTED]``."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = sorted({v for v in values if len(v) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._values = re.compile(b"|".join(re.escape(_bytes(v)) for v in known)) if known else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], named: Iterable[str] = ()) -> Redactor:
        """Return a redactor for the values of the variables in ``named`` and of those with the name of a secret.

        Each line of a value counts as a secret too: output is redacted line by line, and a private key has many lines.
        """
        secret_names = set(named)
        values = [v for k, v in environment.items() if k in secret_names or _SECRET_NAME.search(k)]
        return cls([*values, *(line for value in values for line in value.splitlines())])

    def redact(self, data: bytes) -> bytes:
        """Return ``data`` with every secret replaced; ``data`` should be whole lines."""
        replacement = REDACTED.encode()
        if self._values is not None:
            data = self._values.sub(replacement, data)
        lower = data.lower()
        if not any(hint in lower for hint in _HINTS) and _BOT_TOKEN.search(data) is None:
            return data
        data = _KNOWN_FORMATS.sub(replacement, data)
        data = _BEARER.sub(rb"\1" + replacement, data)
        data = _URL_PASSWORD.sub(rb"\1" + replacement + rb"\3", data)
        return _ASSIGNMENT.sub(rb"\1" + replacement, data)

    def redact_text(self, text: str) -> str:
        """Return ``text`` with every secret replaced."""
        return self.redact(_bytes(text)).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # surrogates of the environment and of file names
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # surrogates of JSON escapes
