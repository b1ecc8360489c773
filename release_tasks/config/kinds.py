"""Sections that are of exactly one kind each, such as ``release.gates.NAME``.

invoke.yaml spells the keys of the kind and the common ones side by side. The program keeps them apart: a class for such
a section has the fields ``kind`` and ``options`` beside the common ones. The flat class here is what stands between.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import attrs

from release_tasks.core.options import Kind, exactly_one

__all__ = ["common_fields", "flat_class", "flatten", "has_kinds", "split"]


def has_kinds(cls: Any) -> bool:
    """Say whether each instance of the attrs class ``cls`` is of one kind."""
    return {"kind", "options"} <= set(attrs.fields_dict(cls))


def common_fields(cls: Any) -> Iterator[attrs.Attribute[Any]]:
    """The fields of ``cls`` that each of its kinds has."""
    return (a for a in attrs.fields(attrs.resolve_types(cls)) if a.name not in ("kind", "options"))


@functools.cache
def flat_class(cls: Any, kinds: tuple[Kind, ...]) -> Any:
    """Return an attrs class with all keys that ``cls`` may have in invoke.yaml; without a value they are unset.

    The kinds come first, then the options of each, then the common keys. It checks nothing: ``split`` does.
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
    """Return the ``cls`` that ``flat`` spells.

    Raises ValueError unless ``flat`` is of exactly one kind and right in itself, with no key of another kind.
    """
    exactly_one(flat, tuple(kind.name for kind in kinds))
    chosen = next(kind for kind in kinds if getattr(flat, kind.name) is not None)
    own = attrs.fields_dict(chosen.options)
    common = [a.name for a in common_fields(cls)]
    unset = type(flat)()
    for a in attrs.fields(type(flat)):
        is_set = getattr(flat, a.name) != getattr(unset, a.name)
        is_missing = a.name in own and own[a.name].default is attrs.NOTHING and not is_set
        if is_missing or (is_set and a.name not in own and a.name not in common):
            owners = [kind.name for kind in kinds if a.name in attrs.fields_dict(kind.options)]
            what = a.metadata["elsewhere"] or f"goes with {' or '.join(owners)} only"
            raise ValueError(f"{a.name.rstrip('_')}: {what}")
    options = chosen.options(**{name: getattr(flat, name) for name in own})
    return cls(kind=chosen, options=options, **{name: getattr(flat, name) for name in common})


def flatten(config: Any, kinds: tuple[Kind, ...]) -> Any:
    """Return ``config`` as invoke.yaml spells it: the opposite of ``split``."""
    common = {a.name: getattr(config, a.name) for a in common_fields(type(config))}
    cls: Any = type(config)
    return flat_class(cls, kinds)(**attrs.asdict(config.options, recurse=False), **common)
