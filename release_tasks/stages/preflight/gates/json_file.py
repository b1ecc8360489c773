"""JSON gates: a file must contain valid JSON. The MCP gates use the same reader."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

from attrs import NOTHING, field, frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.options import option
from release_tasks.core.units import show_size
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict, shown_path

__all__ = ["KIND", "Document", "JsonOptions", "read_json"]

_MAX_BYTES = 16 << 20


@frozen(kw_only=True)
class JsonOptions:
    """The key of a JSON gate."""

    json: Path = option("a file that must contain valid JSON", NOTHING)


@frozen(kw_only=True)
class Document:
    """A parsed JSON file; ``duplicates`` are keys that occur twice in one object."""

    value: Any
    duplicates: list[str] = field(factory=list)


def _check(context: GateContext) -> Verdict:
    """Check that the gate's file is valid JSON without duplicate keys."""
    path: Path = context.config.options.json
    name = shown_path(path, context.settings)
    try:
        document = read_json(path, name)
        problems = [f"{name}: duplicate key {key!r}" for key in document.duplicates]
    except InvalidDocument as error:
        problems = [str(error)]
    diagnostics: dict[str, Any] = {"path": str(path)}
    if not problems:
        return Verdict(passed=True, detail=f"{name} is valid JSON", diagnostics=diagnostics)
    diagnostics["problems"] = problems
    diagnostics["next"] = f"python3 -m json.tool {shlex.quote(str(path))}"
    return Verdict(passed=False, detail=problems[0], diagnostics=diagnostics)


def read_json(path: Path, name: str) -> Document:
    """Read a JSON value from ``path``, called ``name`` in messages; symbolic links are followed.

    Raises InvalidDocument when the file is missing, unreadable, over 16 MiB, not UTF-8 or not JSON.
    """
    try:
        # O_NONBLOCK, because open() of a FIFO would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidDocument(f"{name} is not a file")
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InvalidDocument(f"{name} is missing") from error
    except IsADirectoryError as error:
        raise InvalidDocument(f"{name} is not a file") from error
    except OSError as error:
        raise InvalidDocument(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidDocument(f"{name} is larger than {show_size(_MAX_BYTES)}")
    duplicates: list[str] = []

    def checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                duplicates.append(key)
            value[key] = item
        return value

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=checked_object, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{name} is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise InvalidDocument(f"{name} is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidDocument(f"{name} is not valid JSON: {where}: {error.msg}") from error
    except ValueError as error:
        raise InvalidDocument(f"{name} is not valid JSON: {error}") from error
    return Document(value=value, duplicates=duplicates)


KIND = GateKind(name="json", options=JsonOptions, check=_check)
