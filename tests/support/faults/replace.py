"""Replacement of names in the package, for the rest of a process."""

from __future__ import annotations

from types import ModuleType

__all__ = ["replace"]


def replace(owner: ModuleType | type, name: str, value: object) -> None:
    """Replace a name of a module or class. Fails when it has no such name, as after a rename in the package."""
    assert hasattr(owner, name), f"{owner.__name__} has no {name}"
    setattr(owner, name, value)
