"""Secrets that are known by the name before them, as in ``DB_PASSWORD=...`` or ``"api_key": "..."``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release_tasks.core.redaction.harmless import is_harmless_word, is_path, is_readable, is_reference
from release_tasks.core.redaction.views import Span

__all__ = ["find_named", "is_secret_name"]

_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|PASSCODE|SECRET|CREDENTIAL|COOKIE|(?:^|_)(?:TOKENS?|PASS|APIKEY|DSN)(?:_|$)"
    r"|_PWD(?:_|$)"
    r"|(?:TOKEN|DBPASS|APIKEY)$|(?:API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION|ACCOUNT|MASTER|SHARED)_?KEY(?:_|$)",
    re.IGNORECASE,
)
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]")

_KEYWORDS = (
    b"secret",
    b"token",
    b"passw",
    b"passphrase",
    b"passcode",
    b"pass",
    b"pwd",
    b"credential",
    b"key",
    b"auth",
    b"cookie",
    b"dsn",
    b"jwt",
    b"sessid",
    b"sessionid",
    b"session_id",
    b"connect.sid",
    b"_session",
)
# There are keys of caches, tables and maps too: a key is a secret only after one of these words.
_KEY_OF = re.compile(
    rb"(?:access|account|admin|aes|api|app|application|auth|aws|azure|backup|basic|client|datadog|dd|deploy|django|"
    rb"encrypt|encryption|fernet|flask|function|gcp|gossip|gpg|hmac|host|ingest|integration|jwt|licen[cs]e|mailgun|"
    rb"master|openai|preshared|private|psk|rails|recovery|root|rsa|sas|seal|secret|sendgrid|service|session|shared|"
    rb"signing|ssh|storage|stripe|subscription|twilio|unseal|validation|webhook|wrap|wrapping|write)[_ .-]?$"
)
# The end of the name, and the sign between name and value, in the forms of shells, JSON, YAML, XML and languages.
_SIGN = re.compile(
    rb"([\w.-]{0,40})(?:\\{0,3}[\"'`])?[\])]?[ \t]{0,16}"
    rb"(?:=>|:=|=(?![=~>])|:(?![:/])|,[ \t]?(?=\\{0,3}[\"'`])|>)[ \t]{0,16}(?:[\[({][ \t]{0,4})?"
    rb"(?:[bfru]{1,2}(?=[\"']))?"
)
# A name that ends like this is about a secret, and its value is none: token_type, passwordPolicy, secret-name.
_ABOUT = re.compile(
    rb"(?:able|age|arn|backend|board|bucket|class|code|count|counts|dir|ed|enabled|endpoint|entication|env|error|"
    rb"errors|es|exists|expir\w*|field|fields|file|filename|folder|format|frame\w*|hint|index|ing|issuer|iz\w*|kind|"
    rb"label|length|len|limit|limits|loader|manager|map|max\w*|min\w*|missing|mode|name|names|note|or|ors|owner|path|"
    rb"paths|per\w*|policy|policies|position|present|prompt|provider|rate|ref|required|reset|rotation|space|status|"
    rb"store|strength|timeout|title|ttl|type|types|uri|uris|url|urls|usage|used|valid\w*|variable|version|window|"
    rb"budget|headers?|param|parameter|placeholder|label|sock|agent|pid|socket|algorithm|scheme|scope|scopes|grant)$"
)
_NOT_OWN = re.compile(rb"(?:existing|imagepull|forgot|forgotten|show|hide|toggle|no|without|old)[_.-]?$")
_QUOTED = re.compile(rb"(\\{0,3}[\"'`])((?:\\[^\"'`\n]|(?!\1)[^\n]){1,4096}?)\1")
_PLAIN = re.compile(rb"[^\s\"'`<>]{1,4096}")
_BLOCK = re.compile(rb"[|>][+-]?[ \t]*\n[ \t]+([^\n]{4,1024})")  # a block of YAML
_NEXT_PAIR = re.compile(rb"[;&,](?=[\"'(\[]|[A-Za-z_][\w .-]{0,40}[=:])|[)\]},;]+$|;")
_NUMBER = re.compile(rb"[0-9.,:%/]*[a-z]?$")
_SENTENCE = re.compile(rb"(?:[A-Za-z'_-]+[.,:;!?]?(?: |$)){3,}$")
_VERBS = re.compile(
    rb"(?i)\b(?:is|are|was|must|required|invalid|cannot|should|too|not|missing|expected|least|characters|incorrect|"
    rb"wrong|expired|changed|may|has|have|please|enter|does|did|for|of|the|your|forgot|reset|confirm|choose)\b"
)
_PASSWORDS = frozenset([b"passw", b"pass", b"pwd", b"passphrase", b"passcode", b"secret"])
_SESSIONS = frozenset([b"sessid", b"sessionid", b"session_id", b"connect.sid", b"_session", b"auth"])
_LETTERS = re.compile(rb"[A-Za-z]+[.!?]?$")
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")


def is_secret_name(name: str) -> bool:
    """Return whether ``name`` looks like the name of a secret, such as ``API_KEY`` or ``botToken``."""
    return _SECRET_NAME.search(_WORD_BREAK.sub("_", name)) is not None


def find_named(data: bytes, lower: bytes) -> Iterator[Span]:
    """Yield the places of values after the name of a secret; ``lower`` is ``data`` in lower case."""
    for keyword in _KEYWORDS:
        at = lower.find(keyword)
        while at >= 0:
            span = _value_after(keyword, data, lower, at)
            if span is not None:
                yield span
            at = lower.find(keyword, at + len(keyword) if span is None else max(span[1], at + len(keyword)))


def _value_after(keyword: bytes, data: bytes, lower: bytes, at: int) -> Span | None:
    if keyword == b"key" and _KEY_OF.search(lower, max(at - 14, 0), at) is None:
        return None
    if keyword in (b"pass", b"pwd", b"auth", b"dsn", b"jwt") and at and data[at - 1] in _LOWER and data[at] in _LOWER:
        is_database = keyword == b"pass" and lower[max(at - 2, 0) : at] == b"db"
        if not is_database:
            return None  # compass, author of a word before it
    if _NOT_OWN.search(lower, max(at - 12, 0), at) or b"arn:" in lower[max(at - 100, 0) : at].rpartition(b" ")[2]:
        return None
    sign = _SIGN.match(data, at + len(keyword))
    if sign is None or (keyword == b"cookie" and b":" in sign[0]):
        return None  # headers have their own rule
    tail = sign[1].lower()
    if keyword == b"passw":
        tail = tail.removeprefix(b"ord").removeprefix(b"d")
    if keyword in (b"pass", b"auth", b"key") and tail[:1].isalpha() and tail not in (b"s", b"b64", b"base64"):
        return None
    if _ABOUT.search(tail):
        return None
    return _value_at(keyword, data, sign.end(), b":" in sign[0] and not sign[0].endswith(b"="))


def _value_at(keyword: bytes, data: bytes, at: int, is_field: bool) -> Span | None:
    """Return the place of the value that begins at ``at``; after the colon of a field, a sentence may follow."""
    quoted = _QUOTED.match(data, at)
    if quoted is not None:
        return quoted.span(2) if _is_secret(keyword, quoted[2], is_field) else None
    block = _BLOCK.match(data, at)
    if block is not None:
        return block.span(1)
    plain = _PLAIN.match(data, at)
    if plain is None:
        return None
    value = plain[0]
    if is_reference(value):
        return None
    end = _NEXT_PAIR.search(value, 1)
    if end is not None:
        value = value[: end.start()]
    if is_field and _LETTERS.match(value):
        rest = data[at + len(value) : at + len(value) + 80].split(b"\n", 1)[0].strip()
        if rest or len(value) < 8:
            return None  # the beginning of a sentence
    return (at, at + len(value)) if _is_secret(keyword, value, is_field) else None


def _is_secret(keyword: bytes, value: bytes, is_field: bool) -> bool:
    if len(value) < 4 or is_harmless_word(value) or is_reference(value) or is_path(value):
        return False
    if keyword not in _PASSWORDS and _NUMBER.match(value):
        return False
    if keyword in _SESSIONS and is_readable(value):
        return False
    if keyword == b"dsn" and b"://" in value:
        return False  # the rule of URLs leaves the host legible
    if keyword in (b"auth", b"key", b"_session") and len(value) < 8:
        return False
    if keyword == b"token" and len(value) < 8 and value.isalpha():
        return False  # the token of a parser: a word
    return not (is_field and _SENTENCE.match(value) and _VERBS.search(value))
