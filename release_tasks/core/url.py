"""URLs of services: their check, their origin, and their form in messages."""

from __future__ import annotations

import os.path
import re
from urllib.parse import SplitResult, unquote, urlsplit

from release_tasks.core.redact import REDACTED

__all__ = ["check_url", "origin_of", "shown_url", "socket_of"]

_UNIX = "http+unix"
_PORTS = {"http": 80, "https": 443}
_USER = re.compile(r"(?<=://)([^/?#]*)@")
_BEFORE_HOST = re.compile(r"(?s)(\A(?:[A-Za-z][A-Za-z0-9+.-]*:)?/+|\A).*@")
_EXAMPLE = "http+unix://%2Frun%2Fapp.sock/health"
_LONGEST_SOCKET = 107  # bytes; unix(7): sun_path has 108, with the NUL at the end


def check_url(text: str) -> None:
    """Raise ValueError, which says what was expected, unless a request can be sent to ``text``."""
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError(f"expected a URL without spaces, got {shown_url(text)!r}")
    origin_of(text)
    if "#" in text:
        # The request would go to another page: a client keeps the fragment for itself.
        raise ValueError(f"expected a URL without #, got {shown_url(text)!r}: the part after # is not sent to a server")


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL, and for a Unix socket its path as the host.

    Raises ValueError unless ``url`` is an http://, https:// or http+unix:// URL.
    """
    parts = _parts(url)
    if parts is not None and parts.scheme in (_UNIX, "unix"):
        return parts.scheme, _socket(parts, url), 0
    if parts is None or parts.scheme not in _PORTS or not parts.netloc:
        raise ValueError(f"expected an http:// or https:// URL, got {shown_url(url)!r}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        part = "port from 1 to 65535" if parts.hostname else "host"
        raise ValueError(f"expected an http:// or https:// URL with a {part}, got {shown_url(url)!r}")
    return parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme]


def socket_of(url: str) -> str | None:
    """Return the path of the Unix socket that ``url`` names, or None for another URL; raises ValueError."""
    scheme, path, _ = origin_of(url)
    return path if scheme == _UNIX else None


def shown_url(url: str) -> str:
    """Return ``url`` without its password, or without its user name if it has no password: that may be a token.

    A text that is no URL of a service is shown without all that is before its last ``@``.
    """
    if not _has_origin(url):  # a scheme is missing or mistyped, or the password has a character of a path
        return _BEFORE_HOST.sub(rf"\1{REDACTED}@", url)
    return _USER.sub(lambda user: f"{user[1].partition(':')[0]}:{REDACTED}@" if ":" in user[1] else f"{REDACTED}@", url)


def _has_origin(url: str) -> bool:
    parts = _parts(url)
    try:
        if parts is None or parts.scheme not in (_UNIX, *_PORTS) or not parts.netloc:
            return False
        return (parts.port or 0) >= 0
    except ValueError:  # the port is no number: it may be the beginning of a password
        return False


def _parts(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # an unfinished IPv6 address
        return None


def _socket(parts: SplitResult, url: str) -> str:
    path = unquote(parts.netloc)
    if parts.scheme != _UNIX or not os.path.isabs(path) or "\x00" in path:
        raise ValueError(
            f"expected the absolute path of a socket with %2F for each slash, as in {_EXAMPLE}, got {shown_url(url)!r}"
        )
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ValueError(f"expected the path of a socket in at most {_LONGEST_SOCKET} bytes, got {path!r}")
    return path
