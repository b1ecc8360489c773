"""Configuration sections that have exactly one kind each, such as ``release.gates.NAME``.

In invoke.yaml, such a section lists the keys of its kind and the common keys together. The program separates them: the
section's class has the fields ``kind`` and ``options`` in addition to the common fields. ``split`` and ``flatten``
convert between both forms.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import attrs

from release_tasks.core.options import Kind, exactly_one

__all__ = ["common_fields", "flat_class", "flatten", "has_kinds", "split"]


def has_kinds(cls: Any) -> bool:
    """Return whether each instance of the attrs class ``cls`` has one kind."""
    return {"kind", "options"} <= set(attrs.fields_dict(cls))


def common_fields(cls: Any) -> Iterator[attrs.Attribute[Any]]:
    """Return the fields of ``cls`` that are keys of all of its kinds."""
    return (a for a in attrs.fields(attrs.resolve_types(cls)) if "doc" in a.metadata)


@functools.cache
def flat_class(cls: Any, kinds: tuple[Kind, ...]) -> Any:
    """Return an attrs class with all keys that ``cls`` may have in invoke.yaml; every key is optional.

    The order is: the key of each kind, the other options of all kinds, the common keys. ``split`` checks the values.
    """
    options = [a for kind in kinds for a in attrs.fields(attrs.resolve_types(kind.options))]
    options.sort(key=lambda a: a.name not in [kind.name for kind in kinds])
    keys: dict[str, Any] = {}
    for a in (*options, *common_fields(cls)):
        is_mandatory = a.default is attrs.NOTHING
        default, type_ = (None, a.type | None) if is_mandatory else (a.default, a.type)
        keys.setdefault(a.name, attrs.field(default=default, type=type_, metadata=a.metadata))
    return attrs.make_class(cls.__name__, keys, frozen=True, kw_only=True)


def split(flat: Any, cls: Any, kinds: tuple[Kind, ...]) -> Any:
    """Convert ``flat``, the section as written in invoke.yaml, to an instance of ``cls``.

    Raises ValueError unless ``flat`` has exactly one kind, valid values and no key of another kind.
    """
    exactly_one(flat, tuple(kind.name for kind in kinds))
    chosen = next(kind for kind in kinds if getattr(flat, kind.name) is not None)
    fields = attrs.fields_dict(chosen.options)
    common = [a.name for a in common_fields(cls)]
    unset = type(flat)()
    for a in attrs.fields(type(flat)):
        is_set = getattr(flat, a.name) != getattr(unset, a.name)
        is_missing = a.name in fields and fields[a.name].default is attrs.NOTHING and not is_set
        if is_missing or (is_set and a.name not in fields and a.name not in common):
            owners = [kind.name for kind in kinds if a.name in attrs.fields_dict(kind.options)]
            problem = a.metadata["elsewhere"] or f"allowed only with {' or '.join(owners)}"
            raise ValueError(f"{a.name.rstrip('_')}: {problem}")
    options = chosen.options(**{name: getattr(flat, name) for name in fields})
    return cls(kind=chosen, options=options, **{name: getattr(flat, name) for name in common})


def flatten(config: Any, kinds: tuple[Kind, ...]) -> Any:
    """Convert ``config`` to the form of invoke.yaml: the inverse of ``split``."""
    common = {a.name: getattr(config, a.name) for a in common_fields(type(config))}
    cls: Any = type(config)
    return flat_class(cls, kinds)(**attrs.asdict(config.options, recurse=False), **common)
