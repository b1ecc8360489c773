"""Secrets that are known by the name before them, as in ``DB_PASSWORD=...`` or ``"api_key": "..."``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from release_tasks.core.redaction.harmless import (
    is_harmless_word,
    is_path,
    is_readable,
    is_reference,
    looks_random,
)
from release_tasks.core.redaction.views import Span
from release_tasks.core.redaction.vocabulary import Vocabulary

__all__ = ["NAMES", "find_named", "is_secret_name", "names_in"]

_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|PASSCODE|SECRET|CREDENTIAL|COOKIE|(?:^|_)(?:TOKENS?|PASS|APIKEY|DSN)(?:_|$)"
    r"|_PWD(?:_|$)"
    r"|(?:TOKEN|DBPASS|APIKEY)$|(?:API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION|ACCOUNT|MASTER|SHARED)_?KEY(?:_|$)",
    re.IGNORECASE,
)
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]")

NAMES = (
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
    b"_pat",
    b"pfx",
    b"psk",
    b"bindpw",
    b"authtok",
    b"samlresponse",
    b"setcookie",
    # Passwords in other languages.
    b"kennwort",
    b"mot_de_passe",
    b"mot de passe",
    b"contrase\xc3\xb1a",
    b"contrasena",
    b"clave",
    b"senha",
    b"parola",
    b"wachtwoord",
    b"has\xc5\x82o",
    b"haslo",
    b"l\xc3\xb6senord",
    "\u043f\u0430\u0440\u043e\u043b\u044c".encode(),
    "\u041f\u0430\u0440\u043e\u043b\u044c".encode(),
    "\u30d1\u30b9\u30ef\u30fc\u30c9".encode(),
    "\u5bc6\u7801".encode(),
    "\u5bc6\u78bc".encode(),
)
_WHOLE_WORDS = frozenset([b"_pat", b"pfx", b"psk", b"clave", b"senha", b"parola", b"haslo"])
_STARTS = frozenset([b"pass", b"pwd", b"auth", b"dsn", b"jwt", b"psk", b"pfx", b"clave", b"senha", b"parola", b"haslo"])
# There are keys of caches, tables and maps too: a key is a secret only after one of these words.
_KEY_OF = re.compile(
    rb"(?:access|account|admin|aes|api|apns|app|application|auth|aws|azure|backup|basic|client|consumer|crypt|datadog|dd|deploy|django|"
    rb"encrypt|encryption|fernet|flask|function|gcp|gossip|gpg|hmac|host|ingest|integration|jwt|licen[cs]e|mailgun|"
    rb"master|openai|preshared|private|psk|rails|recovery|root|routing|rsa|sas|seal|secret|sendgrid|service|session|shared|"
    rb"signing|ssh|storage|stripe|subscription|twilio|unseal|validation|webhook|wrap|wrapping|write)[_ .-]?$"
)
# The end of the name, and the sign between name and value, in the forms of shells, JSON, YAML, XML and languages.
_BLANK = rb"(?:[ \t]|\xc2\xa0|\xe3\x80\x80)"
_TAG = rb"(?:!{1,2}(?:str|binary|vault|secret|env|unsafe|sub|ref|encrypted)(?:/\w{1,20})?|&[\w-]{1,40})[ \t]{1,4}"
_SIGN = re.compile(
    rb"([\w.-]{0,40})(?:\\{0,3}[\"'`])?[\])]?" + _BLANK + rb"{0,16}"
    rb"(?:=>|:=|==>|-->|=(?![=~>])|:(?![:/])|::(?=[ ])|\xef\xbc\x9a|\xef\xbc\x9d|,[ \t]?(?=\\{0,3}[\"'`])|>)"
    + _BLANK
    + rb"{0,16}(?:"
    + _TAG
    + rb")?(?:[\[({][ \t]{0,4})?"
    rb"(?:(?:[bfru]{1,2}|[NE])(?=[\"']))?"
)
# Between the columns of a table, and arrows. The value must look random: text has such signs too.
_COLUMN = re.compile(
    rb"([\w.-]{0,40})(?:\\{0,3}[\"'`])?(?:[ \t]{0,40}(?:\||\xe2\x94\x82|->|\xe2\x86\x92)[ \t]{0,40}|"
    rb"[ ]{0,20}\t[ \t]{0,40}|"
    rb"[ ]{2,60}|[ ](?=[\"']))[\"'`]?([^\s\"'`|]{4,1024})"
)
# A value on the next line, alone in its line or in the items of a list.
_NEXT_LINE = re.compile(
    rb"[\[|>]?[ \t]{0,16}\r?\n(?=[ \t])([ \t]{1,64}(?:-[ ]{1,4})?[\"']?[^\s\"':=]{4,1024}[\"']?,?[ \t}]{0,16}\r?"
    rb"(?:\n[ \t]{1,64}-?[ ]{1,4}[\"']?[^\s\"':=]{4,1024}[\"']?,?[ \t]{0,16}\r?){0,50})(?![^\n])"
)
_TEXT_BLOCK = re.compile(rb"(\"\"\"|'{3})\s{0,4}((?:[^\"']|(?!\1)[\"']){4,4096}?)\s{0,4}\1")
_HEREDOC = re.compile(rb"<<[-~]?[\"']?(\w{2,20})[\"']?[ \t]*\r?\n((?:[^\n]{0,1024}\n){1,40}?)[ \t]{0,40}\1(?!\w)")
_LINES = re.compile(rb"([\"'])([^\"'\n]{1,256}(?:\n[^\"'\n=:{}]{1,256}){1,3})\1")
# The value of an object: {"password": {"value": "..."}}.
_INNER = re.compile(
    rb"\s{0,40}\\{0,3}[\"']?(?:value|plaintext|plain_text|data|secret|#text|_text)\\{0,3}[\"']?\s{0,4}[:=]\s{0,4}"
)
_LIST_ITEM = re.compile(rb"\\{0,3}[\"'`][ \t]{0,4},\s{0,40}\\{0,3}[\"'`]([^\"'`\n]{4,1024})")
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
# A block of YAML: all lines with the indentation of the first.
_BLOCK = re.compile(rb"[|>][+-]?\d?[+-]?[ \t]{0,16}\r?\n([ \t]{1,64})([^\s][^\n]{3,4096}(?:\n\1[^\n]{0,4096}){0,200})")
_NEXT_PAIR = re.compile(rb"[;&,](?=[\"'(\[]|[A-Za-z_][\w .-]{0,40}[=:])|[)\]},;]+$|;")
_NUMBER = re.compile(rb"[0-9.,:%/]*[a-z]?$")
_SENTENCE = re.compile(rb"(?:[A-Za-z'_-]+[.,:;!?]?(?: |$)){3,}$")
_VERBS = re.compile(
    rb"(?i)\b(?:is|are|was|must|required|invalid|cannot|should|too|not|missing|expected|least|characters|incorrect|"
    rb"wrong|expired|changed|may|has|have|please|enter|does|did|for|of|the|your|forgot|reset|confirm|choose)\b"
)
_PASSWORDS = frozenset([b"passw", b"pass", b"pwd", b"passphrase", b"passcode", b"secret"])
_SESSIONS = frozenset([b"sessid", b"sessionid", b"session_id", b"connect.sid", b"_session", b"auth"])
_TAILS = frozenset([b"s", b"b64", b"base64", b"ident", b"string", b"hash", b"data", b"pem"])
_SEVERAL_LINES = frozenset([b'"', b"'", b"<", b"|", b">", b"\n", b"\r"])
_LETTERS = re.compile(rb"[A-Za-z]+[.!?]?$")
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")


def is_secret_name(name: str) -> bool:
    """Return whether ``name`` looks like the name of a secret, such as ``API_KEY`` or ``botToken``."""
    return _SECRET_NAME.search(_WORD_BREAK.sub("_", name)) is not None


def names_in(vocabulary: Vocabulary) -> list[bytes]:
    """Return the parts of names that occur in a text."""
    return vocabulary.those_in(NAMES)


def find_named(data: bytes, lower: bytes, keywords: Iterable[bytes]) -> Iterator[Span]:
    """Yield the places of values after a name of ``names_in``; ``lower`` is ``data`` in lower case."""
    for keyword in keywords:
        at = lower.find(keyword)
        while at >= 0:
            end = at + len(keyword)
            if not _is_part_of_a_word(keyword, data, lower, at):
                for span in _values_after(keyword, data, end):
                    yield span
                    end = max(span[1], end)
            at = lower.find(keyword, end)


def _is_part_of_a_word(keyword: bytes, data: bytes, lower: bytes, at: int) -> bool:
    if keyword == b"key" and _KEY_OF.search(lower, max(at - 14, 0), at) is None:
        return True
    if keyword in _STARTS and at and data[at - 1] in _LOWER and data[at] in _LOWER:
        is_database = keyword == b"pass" and lower[max(at - 2, 0) : at] == b"db"
        if not is_database:
            return True  # compass, author of a word before it
    if keyword in _WHOLE_WORDS and lower[at + len(keyword) : at + len(keyword) + 1].isalpha():
        return True
    return _NOT_OWN.search(lower, max(at - 12, 0), at) is not None or (
        b"arn:" in lower[max(at - 100, 0) : at].rpartition(b" ")[2]
    )


def _values_after(keyword: bytes, data: bytes, at: int) -> Iterator[Span]:
    sign = _SIGN.match(data, at)
    if sign is None:
        column = _COLUMN.match(data, at)
        if column is not None and _is_own_name(keyword, column[1]) and _is_column_value(column[2]):
            yield column.span(2)
        return
    if not _is_own_name(keyword, sign[1]) or (keyword == b"cookie" and b":" in sign[0]):
        return  # headers have their own rule
    is_field = b":" in sign[0] and not sign[0].endswith(b"=")
    span = _value_at(keyword, data, sign.end(), is_field)
    if span is not None:
        yield span
    if b"[" in sign[0] and (first := _QUOTED.match(data, sign.end())) is not None:
        item = _LIST_ITEM.match(data, first.end(2))
        while item is not None:
            yield item.span(1)
            item = _LIST_ITEM.match(data, item.end())


def _is_own_name(keyword: bytes, tail: bytes) -> bool:
    """Return whether the name that ends with ``tail`` is that of a secret, and not of something about it."""
    tail = tail.lower()
    if keyword == b"passw":
        tail = tail.removeprefix(b"ord").removeprefix(b"d")
    if keyword in (b"pass", b"auth", b"key") and tail[:1].isalpha() and tail not in _TAILS:
        return False
    return _ABOUT.search(tail) is None


def _is_column_value(value: bytes) -> bool:
    return looks_random(value) and _NUMBER.match(value) is None and b"=" not in value[:-2] and not value.endswith(b":")


def _value_at(keyword: bytes, data: bytes, at: int, is_field: bool) -> Span | None:
    """Return the place of the value that begins at ``at``; after the colon of a field, a sentence may follow."""
    if data[at : at + 1] in _SEVERAL_LINES:
        for form in (_TEXT_BLOCK, _HEREDOC, _BLOCK, _LINES):
            text = form.match(data, at)
            if text is not None:
                return text.span(2)
        next_line = _NEXT_LINE.match(data, at)
        if next_line is not None:
            values = next_line[1].split()
            return next_line.span(1) if any(looks_random(value.strip(b"\"',}")) for value in values) else None
    inner = _INNER.match(data, at)
    if inner is not None:
        at = inner.end()
    quoted = _QUOTED.match(data, at)
    if quoted is not None:
        return quoted.span(2) if _is_secret(keyword, quoted[2], is_field) else None
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
