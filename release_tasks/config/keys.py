"""Every key that the schema knows, with the names that a configuration gives to its gates, assets and notifications."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from release_tasks.config import schema
from release_tasks.config.kinds import flat_class, has_kinds

__all__ = ["key_places", "nested_class", "sections_with_key", "written_name"]

Place = tuple[str, ...]  # the keys from the top of the configuration to a value


def written_name(attribute: attrs.Attribute[Any]) -> str:
    """Return the key in invoke.yaml: ``for`` is a Python keyword, so the attrs field is called ``for_``."""
    return attribute.name.rstrip("_")


def nested_class(kind: Any) -> Any:
    """Return the attrs class of a section, also of an optional or a named one; None for another type."""
    for candidate in (kind, *typing.get_args(kind)):
        if isinstance(candidate, type) and attrs.has(candidate):
            return candidate
    return None


def key_places(kinds: schema.Kinds, raw: Mapping[str, Any]) -> Iterator[tuple[Place, bool]]:
    """Yield the place of each key that has a value and no keys of its own, and whether its value is a list.

    ``raw`` has the names of the gates and so on, and the names in free mappings such as ``env``.
    """
    for name, cls in schema.SECTIONS.items():
        yield from _places_in(cls, raw.get(name), (name,), kinds)


def _places_in(cls: Any, raw: Any, above: Place, kinds: schema.Kinds) -> Iterator[tuple[Place, bool]]:
    for a in _fields(cls, kinds):
        place, value, inner = (*above, written_name(a)), _at(raw, written_name(a)), nested_class(a.type)
        if typing.get_origin(a.type) is dict:
            for name, entry in value.items() if isinstance(value, Mapping) else ():
                if inner is None:
                    yield from _leaves(entry, (*place, name))
                else:
                    yield from _places_in(inner, entry, (*place, name), kinds)
            continue
        if inner is not None:
            yield from _places_in(inner, value, place, kinds)
        if inner in (None, schema.VersionConfig):  # the version may be text in place of a section
            yield place, typing.get_origin(a.type) is list


def sections_with_key(name: str, kinds: schema.Kinds) -> list[str]:
    """Return the sections that have the key ``name``, such as ``release.gates.NAME``."""
    return [
        section for top, cls in schema.SECTIONS.items() for section, keys in _sections(cls, top, kinds) if name in keys
    ]


def _sections(cls: Any, path: str, kinds: schema.Kinds) -> Iterator[tuple[str, list[str]]]:
    yield path, [written_name(a) for a in _fields(cls, kinds)]
    for a in _fields(cls, kinds):
        if (inner := nested_class(a.type)) is not None:
            name = f"{path}.{written_name(a)}"
            yield from _sections(inner, f"{name}.NAME" if typing.get_origin(a.type) is dict else name, kinds)


def _fields(cls: Any, kinds: schema.Kinds) -> Any:
    flat = flat_class(cls, kinds.of(cls)) if has_kinds(cls) else cls
    return [a for a in attrs.fields(attrs.resolve_types(flat)) if "doc" in a.metadata]


def _at(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, Mapping) else None


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, bool]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*place, name))
    else:
        yield place, isinstance(value, list)
