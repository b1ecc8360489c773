"""Values that are no secrets, whatever the name before them is: plain words, variables, paths, ids that a reader reads.

Redaction must not remove the evidence: an answer such as ``"token-service": "degraded"`` stays as it is.
"""

from __future__ import annotations

import re

__all__ = ["is_harmless_word", "is_identifier", "is_path", "is_readable", "is_reference", "looks_random"]

# The words of health answers are also in ``service.words``; a test compares the two.
_WORDS = frozenset(
    (
        b"required missing invalid none null nil true false yes no on off str string text bytes bool int "
        b"integer number optional unset empty changed expired okay unknown undefined default disabled enabled "
        b"valid verified hidden masked removed ignored skipped failed passed denied granted accepted rejected "
        b"incorrect wrong mismatch found added updated created deleted rotated revoked password passwd secret "
        b"token tokens keys cookie cookies credential credentials bearer basic digest file vault keyring "
        b"prompt stdin session auth oauth oauth2 public private login logout username user name value type "
        b"must cannot should with without from ok pass passing up healthy success successful succeeded alive "
        b"live ready running green serving online available operational active good fine normal nominal "
        b"started connected reachable pong imok degraded warn warning yellow amber impaired unstable fail "
        b"failing failure err error errored down unhealthy critical crit fatal red unready dead offline "
        b"unavailable unreachable disconnected timeout refused crashed broken faulty unusable bad outage ko "
        b"nok not i'm i am all systems partially partial performance circuit open half closed connection timed "
        b"out of service major internal server starting stopped stopping pending waiting paused blocked locked "
        b"unlocked idle inactive stale unauthorized unauthenticated authenticated forbidden supported "
        b"unsupported configured unconfigured initialized uninitialized loaded unloaded present absent set"
    ).split()
)
# Names of variables, and expressions of a program in place of a value.
_REFERENCE = re.compile(
    rb"\$\{[\w:.?-]+\}[;,&)\"']*$|\$[A-Z_][A-Z0-9_]*[;,&)\"']*$|\$(?:env:)?\w*(?i:pass|pw|token|secret|key|user|cred)"
    rb"\w*[;,&)\"']*$|\$\(|\$\{\{|\{\{|%\(|%s|%[A-Z_][A-Z0-9_]*%$|<[\w .-]{1,40}>$|\*{3,}|\.{3}|[xX]{4,}$|"
    rb"\[[A-Z_ ]+\]$|[A-Za-z_]\w*(?:\.\w+)*[(\[]|(?:await|new|yield|lambda|function)$|"
    rb"(?:os|process|self|config|settings|env|secrets|vars?|request|args|options|params)\.\w|"
    rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,4}\.\w{0,24}(?i:pass|passwd|password|token|secret|key|value|data|text)[;,)]*$"
)
# Paths in segments of words; a segment that looks random is no name of a file: base64 has slashes too.
_PATH = re.compile(rb"(?:/|\.{1,2}/|~/)[\w@.-]{1,64}(?:/[\w@. -]{0,64}){1,32}[:.,;]?$")
_FILE = re.compile(rb"[\w@=.-]{1,64}(?:/[\w@=.-]{1,64}){0,32}\.[a-z]{1,8}[0-9]?(?::\d{1,6}){0,2}[:.,;]?$")
_RANDOM_SEGMENT = re.compile(rb"(?=[^/]{0,64}[0-9])(?=[^/]{0,64}[a-z])(?=[^/]{0,64}[A-Z])[A-Za-z0-9+=_-]{16}")
_ISO_TIME = rb"\d{8}T\d{4,6}Z?"
_TIME = re.compile(_ISO_TIME)
_READABLE = re.compile(
    rb"(?:(?:[A-Za-z]{2,14}|\d{1,10}|" + _ISO_TIME + rb")[-_.:/]){1,12}(?:[A-Za-z]{1,14}|\d{1,10}|" + _ISO_TIME + rb")$"
)
_CONSTANT = re.compile(rb"[A-Z]{2,20}(?:_[A-Z0-9]{1,20}){1,12}$")
_MIXED = re.compile(rb"(?=[^A-Za-z]{0,200}[A-Za-z])(?=[^0-9]{0,200}[0-9])[^\s]{8}")
_CODE = re.compile(
    rb"[(){}\[\];]|://|^<|\b(?:varchar|char|sha|md)\d|^[a-z_]+\d{1,2}$|\.(?:py|js|ts|go|rs|rb|java|com|org|io)\b"
)
_IDENTIFIER = re.compile(rb"(?:[a-z_][a-z_-]{0,20}|\d{1,7})$")


def is_harmless_word(value: bytes) -> bool:
    """Return whether the value is a plain word such as ``degraded``, or consists of such words."""
    words = value.lower().replace(b"_", b" ").replace(b"-", b" ").split()
    return len(words) <= 6 and all(word.rstrip(b".,!?:") in _WORDS for word in words)


def is_reference(value: bytes) -> bool:
    """Return whether the value is the name of a variable, or a part of a program."""
    return _REFERENCE.match(value) is not None


def is_path(value: bytes) -> bool:
    """Return whether the value is the path of a file, or its name and a line."""
    return (_PATH.match(value) or _FILE.match(value)) is not None and _RANDOM_SEGMENT.search(
        _TIME.sub(b"", value)
    ) is None


def is_readable(value: bytes) -> bool:
    """Return whether the value is an id of words, numbers and times, or a constant: ``worker-3-20261129``."""
    return (_READABLE.match(value) or _CONSTANT.match(value)) is not None or is_path(value)


def is_identifier(value: bytes) -> bool:
    """Return whether the value is the name of an account or of a module, or a number: ``staff``, ``1000``."""
    return _IDENTIFIER.match(value) is not None


def looks_random(value: bytes) -> bool:
    """Return whether the value is likely to be generated: eight characters or more, with letters and digits."""
    return _MIXED.match(value) is not None and not (
        is_readable(value) or is_harmless_word(value) or is_reference(value) or _CODE.search(value) is not None
    )
