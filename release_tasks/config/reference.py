"""docs/configuration.md, generated from the schema."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from release_tasks.config import schema
from release_tasks.config.kinds import common_fields, has_kinds
from release_tasks.config.load import written_name
from release_tasks.core import options
from release_tasks.core.units import show_duration, show_share

__all__ = ["configuration_page"]

_INTRODUCTION = """\
# Configuration

Everything below goes into `invoke.yaml` beside your `tasks.py` (or any other configuration source of Invoke; the file
given with `inv -f` wins over it). Relative paths start at the folder that holds `tasks.py`, wherever `inv` is typed.
Durations are written `500ms`, `30s`, `10m`, `1h`. Unknown keys are errors, and all mistakes are told at once.

Every single value can be overridden from the environment: `release.health.url` is `INVOKE_RELEASE_HEALTH_URL`.
Secrets are never written here; keys that end in `_env` name the environment variable that holds one.

This must stand in the file too, or flags such as `--health-url` would not reach the gates that run before a release:

```yaml
tasks:
  executor_class: release_tasks.executor.StageExecutor
```

This page is generated from `release_tasks/config/schema.py` and the kinds of gate by `inv dev.docs`; a test fails when
it is stale.
"""


def configuration_page(kinds: schema.Kinds) -> str:
    """Return the whole page as Markdown."""
    parts = [_INTRODUCTION]
    for name, cls in schema.SECTIONS.items():
        parts += _section(kinds, name, cls)
    return "\n".join(parts)


def _section(kinds: schema.Kinds, path: str, cls: Any) -> Iterator[str]:
    yield f"## `{path}`\n"
    keys = list(common_fields(cls))
    if has_kinds(cls):
        of_kinds = [(kind, attrs.fields(attrs.resolve_types(kind.options))) for kind in kinds.of(cls)]
        yield f"{_first_sentence(cls)} Each kind has keys of its own:\n"
        yield "| kind | key | type | default | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        yield from (f"| `{kind.name}` {_row(a)}" for kind, own in of_kinds for a in own)
        yield "\nThese keys go with every kind:\n"
        inner = [a for _, own in of_kinds for a in own] + keys
    else:
        yield f"{_first_sentence(cls)}\n"
        inner = keys
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from map(_row, keys)
    yield ""
    for a in inner:
        nested = _nested(a.type)
        if nested is not None:
            name = f"{path}.{written_name(a)}"
            yield from _section(kinds, f"{name}.NAME" if typing.get_origin(a.type) is dict else name, nested)


def _row(a: attrs.Attribute[Any]) -> str:
    return f"| `{written_name(a)}` | {_shown_type(a.type)} | {_shown_default(a, a.type)} | {a.metadata['doc']} |"


def _nested(kind: Any) -> Any:
    for candidate in (kind, *typing.get_args(kind)):
        if isinstance(candidate, type) and attrs.has(candidate):
            return candidate
    return None


def _shown_type(kind: Any) -> str:
    if typing.get_origin(kind) is dict:
        return "names and values" if _nested(kind) is None else "names and sections"
    if typing.get_origin(kind) is list:
        return "list of paths" if Path in typing.get_args(kind) else "list of names"
    nested = _nested(kind)
    if nested is schema.VersionConfig:
        return "text or section"
    if nested is not None:
        return "section"
    words = {"Duration": "duration", "Share": "share", "Path": "path", "str": "text", "int": "number"}
    words["bool"] = "true or false"
    names = [getattr(part, "__name__", str(part)) for part in typing.get_args(kind) or (kind,)]
    return next((words[name] for name in names if name in words), "any value")


def _shown_default(attribute: Any, kind: Any) -> str:
    default = attribute.default
    if default in (None, attrs.NOTHING) or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if kind is options.Share:
        return f"`{show_share(default)}`"
    if isinstance(default, float):
        return f"`{show_duration(default)}`"
    return f"`{default}`"


def _first_sentence(cls: Any) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]
