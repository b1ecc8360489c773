"""Passwords and tokens in the user part of a URL."""

from __future__ import annotations

import re
from collections.abc import Iterator

from release_tasks.core.redaction.harmless import is_readable
from release_tasks.core.redaction.views import Span

__all__ = ["find_in_urls"]

_LONGEST = 1024
_TOKEN = re.compile(rb"[^\s\"'`<>\\]{1,1024}")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9%_](?:[\w.%-]*\w)?)(?::\d{1,5})?(?=[/?#,;)\]}&]|$)")
_PORT = re.compile(rb"\d{1,5}(?:[/?#,;)\]}&.]|$)")
# In these URLs a password with a slash or a blank is likelier than an @ in the path.
_STORES = re.compile(
    rb"(?:postgres(?:ql)?|mysql2?|mariadb|redis|rediss|valkey|mongodb|amqps?|mssql|sqlserver|oracle|cockroachdb|"
    rb"clickhouse|snowflake|jdbc:\w+|kafka|nats|mqtts?|ldaps?|smtps?|imaps?|s?ftps?|cassandra|db2|sqlalchemy)"
    rb"(?:\+[\w.]{1,30})?$",
    re.IGNORECASE,
)
_WITH_BLANKS = re.compile(
    rb"([^\n\"'`<>@:/]{0,64}):([^\n\"'`<>]{1,128})@(?=[A-Za-z0-9][\w.-]*(?::\d{1,5})?(?:[/?\s\"'`;,]|$))"
)
_RANDOM_USER = re.compile(
    rb"(?=[^\d]*\d)(?=[^A-Za-z]*[A-Za-z])(?:[\w.~%=+-]{20,}|(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[A-Za-z0-9]{12,})$"
)


# Without a scheme: user:password@host:5432/x, and the form of Go: user:password@tcp(host:3306)/x.
_AFTER_AT = re.compile(rb"(?:tcp|udp|unix)\(|[A-Za-z0-9][\w.-]{0,253}:\d{2,5}/\w")
_BEFORE_AT = re.compile(rb"(?:.*[=\s\"'`(\[{,])?(?P<user>[\w.+-]{1,64}):(?P<v>[^\s:/\"'`]{3,128})", re.DOTALL)
_QUOTED_PASSWORD = re.compile(
    rb"[\w.%+-]{0,64}:(?P<v>(?!\d{1,5}[\"'`>])[^\s@/]{1,128})@(?=[A-Za-z0-9][\w.-]{0,253}[:/])"
)
_PGPASS = re.compile(
    rb":\d{4,5}:[A-Za-z_*][\w*-]{0,62}:[A-Za-z_*][\w*.-]{0,62}:(?P<v>(?=[^\s\"']{0,64}\d)(?:\\:|[^\s:\"'])"
    rb"{8,128})(?![^\s])"
)
_USER_LIST = re.compile(rb"\"\w[\w.-]{0,62}\" \"(?P<v>(?=[^\s\"/]{0,64}\d)[^\s\"/]{8,256})\"(?=[ \t\r]{0,8}(?:\n|\Z))")
_SASL = re.compile(rb"\[[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\]:\d{2,5}[ \t]{1,8}[^\s:]{1,128}:(?P<v>\S{3,128})")


def find_in_urls(data: bytes) -> Iterator[Span]:
    """Yield the places of passwords, and of user names that are tokens."""
    yield from _find_in_schemes(data)
    at = data.find(b"@")
    while at >= 0:
        if _AFTER_AT.match(data, at + 1):
            start = max(at - 200, 0)
            before = _BEFORE_AT.fullmatch(data, start, at)
            if before is not None:
                yield before.span("v")
        at = data.find(b"@", at + 1)
    for sign, form in ((b":", _PGPASS), (b'" "', _USER_LIST), (b"]:", _SASL)):
        if sign in data:
            yield from (match.span("v") for match in form.finditer(data) if not is_readable(match["v"]))


def _find_in_schemes(data: bytes) -> Iterator[Span]:
    at = data.find(b"://")
    while at >= 0:
        start = at + 3
        if data.find(b"@", start, start + _LONGEST) >= 0:
            span = _in_url(data, at, start)
            if span is not None:
                yield span
                start = span[1]
        at = data.find(b"://", start)


def _in_url(data: bytes, at: int, start: int) -> Span | None:
    next_url = data.find(b"://", start, start + _LONGEST)
    token = _TOKEN.match(data, start, next_url if next_url >= 0 else len(data))
    if token is None:
        return None
    text = token[0]
    is_store = _STORES.search(data, max(at - 40, 0), at) is not None
    authority = re.split(rb"[/?#]", text, maxsplit=1)[0]
    user, colon, rest = text.partition(b":")
    if b"@" in authority:
        name, _, _ = authority.rpartition(b"@")
        last = len(name)
        user, colon, _ = name.partition(b":")
        if is_store:
            last = max(last, _last_host(text) or 0)  # a password such as p@ss/w@rd
        if colon and last > len(user) + 1:
            return start + len(user) + 1, start + last
        if not colon and _RANDOM_USER.match(user):
            return start, start + last
        return None
    if colon and not re.search(rb"[/?#@]", user):
        if not _PORT.match(rest) or (is_store and b"@" in text and not re.match(rb"\d{1,5}/", rest)):
            last_host = _last_host(text)
            if last_host is not None and last_host > len(user) + 1:
                return start + len(user) + 1, start + last_host
        if is_store and not _PORT.match(rest) and (quoted := _QUOTED_PASSWORD.match(data, start)) is not None:
            return quoted.span("v")
        if is_store and not _PORT.match(rest):
            spaced = _WITH_BLANKS.match(data, start, start + 256)
            if spaced is not None and spaced[2]:
                return spaced.span(2)
    return None


def _last_host(text: bytes) -> int | None:
    """Return the place of the last @ that a host follows."""
    at = text.rfind(b"@")
    while at >= 0:
        if _HOST.match(text, at + 1):
            return at
        at = text.rfind(b"@", 0, at)
    return None
