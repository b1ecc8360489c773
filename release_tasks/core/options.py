"""Declare configuration keys with their documentation, type and limits."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NewType, Protocol

from attrs import Attribute, field

from release_tasks.core.units import non_json_values

__all__ = ["Duration", "Kind", "Share", "Size", "Switch", "did_you_mean", "exactly_one", "option", "valid_options"]

Duration = NewType("Duration", float)
Share = NewType("Share", float)
Size = NewType("Size", int)  # bytes
Switch = NewType("Switch", str)  # auto or off


class Kind(Protocol):
    """A kind of gate or asset, as the configuration uses it."""

    @property
    def name(self) -> str:
        """The key in invoke.yaml that chooses this kind."""

    @property
    def options(self) -> type[Any]:
        """The attrs class of the kind's keys, each declared with ``option``; the field ``name`` is the kind's key."""


def option(doc: str, default: Any = None, *, least: int = 0, elsewhere: str = "", **options: Any) -> Any:
    """Declare one configuration key with its line of documentation.

    ``least`` is the smallest valid number. ``elsewhere`` is the error message when the key of one kind is used in a
    section of another kind; without it, the message names the kinds that have the key.
    """
    return field(default=default, metadata={"doc": doc, "least": least, "elsewhere": elsewhere}, **options)


def exactly_one(instance: Any, kinds: tuple[str, ...]) -> None:
    """Raise ValueError unless exactly one of the fields ``kinds`` is given."""
    given = [kind for kind in kinds if getattr(instance, kind) is not None]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise ValueError(f"expected exactly one of {', '.join(kinds)}; got {got}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'build'?)`` with the name in ``known`` that is most similar, or an empty text."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def valid_options(_: Any, attribute: Attribute[Any], value: dict[str, Any]) -> None:
    """Raise ValueError for options of a plugin that JSON does not support."""
    # A plugin in another process gets its options as JSON. YAML reads some unquoted texts as dates or sets.
    found = next(non_json_values(value), None)
    if found is not None:
        raise ValueError(
            f"with: expected text, numbers, true, false, lists and mappings, got the {type(found).__name__} {found!r} "
            "(put it in quotes)"
        )
