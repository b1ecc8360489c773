"""Invoke's own reading of INVOKE_* variables, without the sections of this package.

Invoke casts a variable to the type of the value that it replaces: ``10s`` for a timeout of ``5`` becomes an error, and
``false`` becomes true. It also fails when two keys have the same variable, even if that variable is not set, and when a
key is no text. This package reads its variables itself, see ``release_tasks.config.environment``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from invoke import AmbiguousEnvVar, Config, UncastableEnvVar
from invoke.env import Environment

__all__ = ["ENVIRONMENT_ERRORS", "StageConfig", "describe_environment_error"]

_SECTIONS = ("release", "pairing", "gateway")  # not from the schema, whose import takes long
ENVIRONMENT_ERRORS = (AmbiguousEnvVar, UncastableEnvVar, ValueError, TypeError)


class StageConfig(Config):
    """Invoke's Config, in which a variable of this package cannot end the command line before its task begins."""

    @property
    def foreign(self) -> dict[Any, Any]:
        """The sections of Invoke and of other packages."""
        return {name: value for name, value in self.items() if name not in _SECTIONS}

    def load_shell_env(self) -> None:
        """Read the variables; those of this package are left out when Invoke cannot cast them."""
        try:
            super().load_shell_env()
        except ENVIRONMENT_ERRORS:
            self._set(_env=Environment(config=self.foreign, prefix="INVOKE_").load())  # type: ignore[arg-type]
            self.merge()


def describe_environment_error(sections: Mapping[Any, Any], error: BaseException) -> str | None:
    """Return a sentence about the variable or the key that Invoke cannot use; None when there is no such key."""
    by_variable: dict[str, str] = {}
    for path, value in _leaves(sections):
        bad = next((part for part in path if not isinstance(part, str)), None)
        dotted = ".".join(map(str, path))
        if bad is not None:
            return f"configuration: {dotted}: the key {bad} is not text: put it in quotes"
        name = "INVOKE_" + "_".join(path).upper()
        if name in by_variable and isinstance(error, AmbiguousEnvVar):
            return f"configuration: {by_variable[name]} and {dotted} have the same variable, {name}: rename one of both"
        by_variable[name] = dotted
        if name not in os.environ or isinstance(value, (str, bool, type(None))):
            continue
        if isinstance(value, (list, tuple)):
            return f"environment variable {name}: {dotted} is a list, which no variable can set"
        try:
            type(value)(os.environ[name])
        except (TypeError, ValueError):
            return f"environment variable {name}: {dotted}: expected a value such as {value}, got {os.environ[name]!r}"
    return None


def _leaves(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) or (hasattr(value, "items") and hasattr(value, "keys")):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value
