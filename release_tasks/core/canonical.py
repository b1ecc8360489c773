"""Write JSON in a canonical form, and read it strictly, because a file may have been tampered with."""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from release_tasks.core.printable import beginning_without_secrets, json_escaped, one_line
from release_tasks.core.units import show_size

__all__ = [
    "MAX_BYTES",
    "InvalidDocument",
    "canonical_bytes",
    "exceeds_depth",
    "excerpt",
    "excerpt_line",
    "open_document",
    "parse_object",
    "pretty_bytes",
    "read_document",
]

MAX_BYTES = 16 << 20  # of one document; tests lower it
_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000  # 16 MiB of empty lists are 5.6 million values, 500 MiB of memory and ten seconds
_MAX_MESSAGE = 2000
_MAX_DIGITS = 300
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class InvalidDocument(ValueError):
    """A file that should contain one JSON object does not; the message is the reason."""

    def __init__(self, message: str) -> None:
        # A quotation from the file may be as long as the file, and the message is written to the audit log.
        super().__init__(one_line(message, _MAX_MESSAGE))


def excerpt(text: str, limit: int = 200) -> str:
    """Return ``text``, cut to ``limit`` characters, for messages that quote text of unknown length.

    A longer text is cut without its secrets: half of one is not found later.
    """
    if len(text) > limit:
        text = beginning_without_secrets(text, limit)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def excerpt_line(text: str, limit: int = 200) -> str:
    """Return ``text``, cut as by ``excerpt`` and on one printable line: the name of a file cannot forge a message."""
    return one_line(text, limit)


def canonical_bytes(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys, no spaces, ASCII only: equal values give equal bytes."""
    return _CANONICAL.encode(value).encode("ascii")


def pretty_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON with a newline at its end, for files and documents that people read.

    A character that controls a terminal, or that UTF-8 does not have (a surrogate in a file name, PEP 383), is escaped.
    """
    return (json_escaped(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)) + "\n").encode()


def open_document(path: Path) -> int:
    """Return a descriptor of the regular file ``path``, for reading.

    Raises InvalidDocument when ``path`` is a link, folder, pipe or device, or cannot be opened, and FileNotFoundError
    when ``path`` does not exist.
    """
    try:
        # Check before opening, because opening a device can have effects: a tape rewinds, a watchdog starts to count.
        _require_regular(path, os.lstat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_regular(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidDocument(f"{path} cannot be read: {error.strerror}") from error


def read_document(path: Path) -> dict[str, Any]:
    """Read one JSON object from ``path``.

    Raises InvalidDocument for any other content: over 16 MiB or a million values, not UTF-8, not JSON, a duplicate key,
    nesting over 64 levels, NaN or Infinity, a number of over 300 digits. Also raises InvalidDocument when ``path`` is a
    link, folder, pipe or device, and FileNotFoundError when ``path`` does not exist.
    """
    with os.fdopen(open_document(path), "rb") as file:
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidDocument(f"{path} cannot be read: {error.strerror}") from error
    return parse_object(data, str(path))


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse one JSON object from ``data``; ``name`` is its name in error messages."""
    if len(data) > MAX_BYTES:
        raise InvalidDocument(f"{name} is larger than {show_size(MAX_BYTES)}")
    # Count before parsing, because parsed values need more memory than bytes. Characters inside strings count too.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise InvalidDocument(f"{name} contains more than {_MAX_VALUES} values")
    if data.startswith(codecs.BOM_UTF8):
        raise InvalidDocument(f"{name} is not valid JSON: it starts with a byte order mark; save it without one")
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{name} is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise InvalidDocument(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise InvalidDocument(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidDocument(f"{name} should contain a JSON object, not {type(value).__name__}")
    if exceeds_depth(value, _MAX_DEPTH):
        raise InvalidDocument(f"{name} is nested too deeply")
    return value


def _require_regular(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "something else")
        raise InvalidDocument(f"{path} is {kind}, and should be a file")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {excerpt(key)!r}")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{excerpt(text)} is too large a number")
    return value


def _bounded(text: str) -> int:
    # The time of the conversion grows with the square of the length, and Python prints at most 4300 digits.
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"{excerpt(text, 40)} is too large a number")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def exceeds_depth(value: dict[str, Any] | list[Any], limit: int) -> bool:
    """Return whether objects and lists are nested more than ``limit`` levels deep."""
    level: list[Any] = [value]
    for _ in range(limit):
        children = [container.values() if isinstance(container, dict) else container for container in level]
        level = [child for group in children for child in group if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


# One of each for the process: a folder may have a million entries, each a document.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
)
