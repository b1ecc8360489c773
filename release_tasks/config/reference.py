"""Generator of docs/configuration.md from the schema."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from release_tasks.config import schema
from release_tasks.config.endpoint import UNSET, KeyPath, Statuses
from release_tasks.config.keys import nested_class, written_name
from release_tasks.config.kinds import common_fields, has_kinds
from release_tasks.core.options import Duration, Share, Size, Switch
from release_tasks.core.units import show_duration, show_share, show_size

__all__ = ["configuration_page"]

_INTRODUCTION = """\
# Configuration

Write these keys in `invoke.yaml` next to your `tasks.py`. You can also use any other configuration source of Invoke;
the file given with `inv -f` overrides `invoke.yaml`. A relative path starts at the folder of `tasks.py`, not at the
current folder. Durations are written `500ms`, `30s`, `10m`, `1h`, sizes `512KiB`, `64MiB`, `1GiB`. An unknown key is
an error. All mistakes are reported together, each with its line:

    invoke.yaml:4: release.app.version: expected text; unquoted, 1.10 is the number 1.1: put it in quotes: "1.10"

YAML turns some texts into other values: `1.10` into 1.1, `yes`, `no`, `on` and `off` into true or false, `010` into 8,
`1:30` into 90, `2024-01-01` into a date. Put a text in quotes when it is a number, one of these words or a date. A key
that is written twice is an error, because YAML silently drops one of both.

An environment variable sets a single value, also one that the file does not have: `INVOKE_RELEASE_HEALTH_URL` sets
`release.health.url`, and `INVOKE_RELEASE_GATES_API_HEALTH_TIMEOUT` sets `release.gates.api-health.timeout`. Every
character of a name that is not a letter or a digit becomes `_`. A list cannot be set. A variable that begins with
`INVOKE_RELEASE_`, `INVOKE_PAIRING_` or `INVOKE_GATEWAY_` and matches no key, or two keys, is an error.

`inv` reads `/etc/invoke.*` and `~/.invoke.*` before this package is loaded: a file there that is not valid YAML ends
with a traceback of Invoke.

Never write a secret in the file: a key that ends in `_env` names the environment variable with the secret.

A secret that a command prints, a service answers or a command line contains becomes `[REDACTED]` before it is written
or shown. These are removed:

- the values of variables that this file names as secrets, that have the name of a secret (`*TOKEN*`, `*PASSWORD*`,
  `*_DSN`, ...), and passwords in URLs such as `DATABASE_URL`: in capitals, base64, hex, percent codes, JSON, HTML and
  the quotes of a shell, split by an escape or wrapped over two lines. A value of fewer than 6 characters is not
  searched
- tokens of about 110 providers by their format, private keys, passwords in URLs and connection strings
- what stands behind the name of a secret, as in `api_key: ...`, in the header `Authorization` or `Cookie`, or in an
  option such as `--password`

Exact in every record, in `--json` and in the outputs of a CI step, whatever words the variables have: names of fields,
assets and gates, ids, digests, times and statuses. A secret variable whose value is a word of at most 10 small letters,
such as `snapshot`, is searched only behind the name of a secret. A release id, or a name of the application, an asset
or a gate, that looks like a secret is refused before a release, with exit code 2: every message would hide it.

A password that stands alone, without a name and in no variable, is not found. A service that a restart command starts
writes to `restart.log` itself: its output is masked while the rollback waits, for 3 s and a quarter of that wait at
most, its last lines when the rollback ends, and later output stays as it is.

The file must also contain these lines. Without them, flags such as `--health-url` do not reach the gates of a release:

```yaml
tasks:
  executor_class: release_tasks.executor.StageExecutor
```

`inv dev.docs` generates this page from `release_tasks/config/schema.py` and the kinds of gates and assets. A test fails
when the page is out of date.
"""

_TYPE_NAMES: dict[Any, str] = {
    Duration: "duration", Share: "share", Path: "path", str: "text", int: "number", bool: "true or false",
    Statuses: "status or list", KeyPath: "text or list", Size: "size", Switch: "auto or off",
}  # fmt: skip


def configuration_page(kinds: schema.Kinds) -> str:
    """Return the page as Markdown."""
    parts = [_INTRODUCTION]
    for name, cls in schema.SECTIONS.items():
        parts += _section(kinds, name, cls)
    return "\n".join(parts)


def _section(kinds: schema.Kinds, path: str, cls: Any) -> Iterator[str]:
    yield f"## `{path}`\n"
    keys = list(common_fields(cls))
    if has_kinds(cls):
        of_kinds = [(kind, attrs.fields(attrs.resolve_types(kind.options))) for kind in kinds.of(cls)]
        yield f"{cls.__doc__.splitlines()[0]} Each kind has its own keys:\n"
        yield "| kind | key | type | default | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        yield from (f"| `{kind.name}` {_row(a)}" for kind, options in of_kinds for a in options)
        yield "\nEvery kind has these keys:\n"
        attributes = [a for _, options in of_kinds for a in options] + keys
    else:
        yield f"{cls.__doc__.splitlines()[0]}\n"
        attributes = keys
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from map(_row, keys)
    yield ""
    for a in attributes:
        nested = nested_class(a.type)
        if nested is not None:
            name = f"{path}.{written_name(a)}"
            yield from _section(kinds, f"{name}.NAME" if typing.get_origin(a.type) is dict else name, nested)


def _row(a: attrs.Attribute[Any]) -> str:
    return f"| `{written_name(a)}` | {_shown_type(a.type)} | {_shown_default(a)} | {a.metadata['doc']} |"


def _shown_type(kind: Any) -> str:
    """Return the name of a type for the page; ``T | None`` has the name of ``T``."""
    nested = nested_class(kind)
    if typing.get_origin(kind) is dict:
        return "names and values" if nested is None else "names and sections"
    if typing.get_origin(kind) is list:
        return "list of paths" if Path in typing.get_args(kind) else "list of names"
    if nested is not None:
        return "text or section" if nested is schema.VersionConfig else "section"
    return _TYPE_NAMES.get((*typing.get_args(kind), kind)[0], "any value")


def _shown_default(attribute: attrs.Attribute[Any]) -> str:
    default: Any = attribute.default
    if default in (None, attrs.NOTHING, UNSET) or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if attribute.type is Size:
        return f"`{show_size(default).replace(' ', '')}`"
    if isinstance(default, float):
        return f"`{show_share(default) if attribute.type is Share else show_duration(default)}`"
    return f"`{default}`"
