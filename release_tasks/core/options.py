"""How a configuration key is declared: its line of documentation, its type, and what it takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NewType, Protocol

from attrs import Attribute, field

from release_tasks.core.units import odd_values

__all__ = ["Duration", "Kind", "Share", "did_you_mean", "exactly_one", "option", "valid_options"]

Duration = NewType("Duration", float)
Share = NewType("Share", float)


class Kind(Protocol):
    """A kind of gate or of asset, as the configuration sees it."""

    @property
    def name(self) -> str:
        """The key in invoke.yaml that chooses this kind."""

    @property
    def options(self) -> type[Any]:
        """The attrs class of its keys, all declared with ``option``; the field ``name`` holds the value of that key."""


def option(doc: str, default: Any = None, *, least: int = 0, elsewhere: str = "", **options: Any) -> Any:
    """Declare one configuration key with its line of documentation.

    ``least`` is the smallest number that it takes. ``elsewhere`` is what to say where the key of one kind stands in a
    section of another kind; without it, the kinds that have the key are named.
    """
    return field(default=default, metadata={"doc": doc, "least": least, "elsewhere": elsewhere}, **options)


def exactly_one(instance: Any, kinds: tuple[str, ...]) -> None:
    """Raise ValueError unless exactly one of the fields ``kinds`` is given."""
    given = [kind for kind in kinds if getattr(instance, kind) is not None]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise ValueError(f"expected exactly one of {', '.join(kinds)}; got {got}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'build'?)`` for the one of ``known`` that is nearest to ``name``, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def valid_options(_: Any, attribute: Attribute[Any], value: dict[str, Any]) -> None:
    """Raise ValueError for options of a plugin that JSON cannot hold."""
    # They reach a plugin through another process, and YAML makes dates and sets of what looks like one.
    odd = next(odd_values(value), None)
    if odd is not None:
        raise ValueError(
            f"with: expected text, numbers, true, false, lists and mappings, got the {type(odd).__name__} {odd!r} "
            "(put it in quotes)"
        )
