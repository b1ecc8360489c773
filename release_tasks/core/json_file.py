"""Read a JSON file that people write, with or without comments, and say where it is wrong."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

from attrs import field, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.regular import read_regular
from release_tasks.core.units import show_size

__all__ = ["JsonFile", "read_json"]

_MAX_BYTES = 16 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FORMATS = {".toml": "TOML", ".json5": "JSON5", ".yaml": "YAML", ".yml": "YAML"}
_TOML_TABLE = re.compile(rb"^\s*\[[\w.\"' -]+\]\s*$", re.MULTILINE)
_OFFSET = re.compile(r"Parse error at offset (\d+): (.*?)[.!]*$")


@frozen(kw_only=True)
class JsonFile:
    """A parsed JSON file; ``duplicates`` are keys that occur twice in one object."""

    value: Any
    duplicates: list[str] = field(factory=list)


def read_json(path: Path, name: str, *, with_comments: bool = False) -> JsonFile:
    """Read a JSON value from ``path``, called ``name`` in messages; symbolic links are followed.

    ``with_comments`` allows what editors allow in their settings: comments, a comma after the last element, and a byte
    order mark. Raises InvalidDocument when the file is missing, unreadable, over 16 MiB, not UTF-8 or not JSON.
    """
    data = _read(path, name)
    if with_comments:
        return _parse_with_comments(data, path, name)
    return _parse(data, name)


def _read(path: Path, name: str) -> bytes:
    try:
        data = read_regular(path, _MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InvalidDocument(f"{name} is missing") from error
    except IsADirectoryError as error:
        raise InvalidDocument(f"{name} is not a file") from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidDocument(f"{name} is not a file") from error
        raise InvalidDocument(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidDocument(f"{name} is larger than {show_size(_MAX_BYTES)}")
    return data


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{name} is not UTF-8 text (byte {error.start})") from error


def _parse(data: bytes, name: str) -> JsonFile:
    duplicates: list[str] = []

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    text = _decoded(data, name)
    try:
        value = json.loads(
            text, object_pairs_hook=lambda pairs: _checked_object(pairs, duplicates), parse_constant=refuse
        )
    except RecursionError as error:
        raise InvalidDocument(f"{name} is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidDocument(f"{name} is not valid JSON: {where}: {error.msg}") from error
    except ValueError as error:
        raise InvalidDocument(f"{name} is not valid JSON: {error}") from error
    return JsonFile(value=value, duplicates=duplicates)


def _parse_with_comments(data: bytes, path: Path, name: str) -> JsonFile:
    import rapidjson  # loaded here, because few projects have a file that needs it

    duplicates: list[str] = []

    class Decoder(rapidjson.Decoder):
        def start_object(self) -> list[tuple[str, Any]]:
            return []

        def end_object(self, pairs: Any) -> dict[str, Any]:
            return _checked_object(pairs, duplicates)

    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidDocument(f"{name} is UTF-16 text: save it as UTF-8")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    _decoded(data, name)
    if not data.strip():
        raise InvalidDocument(f"{name} is empty")
    if b"\0" in data:  # the parser would take it for the end
        raise InvalidDocument(f"{name} is not valid JSON: it contains a null character")
    try:
        parse_mode = rapidjson.PM_COMMENTS | rapidjson.PM_TRAILING_COMMAS
        decoder = Decoder(parse_mode=parse_mode, number_mode=rapidjson.NM_NATIVE)  # without NaN and Infinity
        return JsonFile(value=decoder(data), duplicates=duplicates)
    except RecursionError as error:
        raise InvalidDocument(f"{name} is nested too deeply") from error
    except rapidjson.JSONDecodeError as error:
        raise InvalidDocument(_syntax_error(str(error), data, path, name)) from error


def _syntax_error(message: str, data: bytes, path: Path, name: str) -> str:
    """Return the position and the reason of a syntax error, or the name of the format that the file has instead."""
    other = _OTHER_FORMATS.get(path.suffix.lower()) or ("TOML" if _TOML_TABLE.search(data) else None)
    if other is not None:
        return f"{name} is {other}, which is not read: write the configuration as JSON, with or without comments"
    match = _OFFSET.match(message)
    if match is None:
        return f"{name} is not valid JSON: {message}"
    before, reason = data[: int(match[1])], match[2]
    line, column = before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "ignore")) + 1
    text = f"{name} is not valid JSON: line {line}, column {column}: {reason}"
    following = data[len(before) : len(before) + 1]
    if following == b"'" or (reason.startswith("Missing a name") and (following.isalpha() or following in b"_$")):
        text += "; names and texts need double quotes (JSON5 is not read)"
    return text


def _checked_object(pairs: list[tuple[str, Any]], duplicates: list[str]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            duplicates.append(key)
        value[key] = item
    return value
