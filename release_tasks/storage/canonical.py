"""JSON in one spelling to write, and a strict reader for files that may have been tampered with."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

__all__ = ["InvalidDocument", "canonical_bytes", "parse_object", "pretty_bytes", "read_document"]

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64


class InvalidDocument(ValueError):
    """A file that should hold one JSON object does not; the message says what is wrong with it."""


def canonical_bytes(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys, no spaces, ASCII only: equal values, equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def pretty_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON with a newline at its end, for files that people read."""
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        # A file name that is not UTF-8 holds lone surrogates (PEP 383); JSON can only spell them as escapes.
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_document(path: Path) -> dict[str, Any]:
    """Read one JSON object from ``path``.

    Raises InvalidDocument for anything else: over 16 MiB, not UTF-8, not JSON, a key that stands twice,
    nesting over 64 levels, NaN or Infinity, a link, folder or device in its place. Raises
    FileNotFoundError when it is not there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        # closefd: fdopen refuses a folder, and would leave its descriptor open.
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(_MAX_BYTES + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidDocument(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidDocument(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
    return parse_object(data, str(path))


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse one JSON object from ``data``; ``name`` is what the message calls it."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{name} is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise InvalidDocument(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise InvalidDocument(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidDocument(f"{name} should hold a JSON object, not {type(value).__name__}")
    if _depth_exceeds(value, _MAX_DEPTH):
        raise InvalidDocument(f"{name} is nested too deeply")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    if limit == 0:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(_depth_exceeds(child, limit - 1) for child in children)
