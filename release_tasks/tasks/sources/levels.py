"""The levels of Invoke's configuration, and which of them set a value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from invoke import Config

from release_tasks.config.schema import SECTIONS
from release_tasks.config.written import AsWritten
from release_tasks.core.errors import ConfigError
from release_tasks.tasks.sources.files import Place, SourceFile

__all__ = ["Sources", "files_of", "paths_of"]

# Invoke's levels with values from users, highest priority first; "_runtime_path" etc. name the files.
_LEVELS = ("overrides", "runtime", "project", "user", "system")


@frozen
class _Level:
    name: str
    values: Mapping[Any, Any]
    file: SourceFile | None

    def place_of(self, path: str) -> Place:
        """Return the deepest part of a dotted path that this level sets; a key may contain dots itself."""
        place: Place = ()
        tree: Any = self.values
        while path:
            inner = _by_name(tree)
            name = max((name for name in inner if f"{path}.".startswith(f"{name}.")), key=len, default=None)
            if name is None:
                break
            place, tree, path = (*place, name), inner[name], path[len(name) + 1 :]
        return place

    def sets(self, place: Place) -> bool:
        """Return whether this level sets the value at ``place``."""
        tree: Any = self.values
        for name in place:
            inner = _by_name(tree)
            if name not in inner:
                return False
            tree = inner[name]
        return True


class Sources:
    """Where the values of a configuration come from."""

    def __init__(self, config: Config) -> None:
        files = {level: _readable(source) for level, source in files_of(config)}
        self._levels = [
            _Level(name=_name_of(config, level), values=getattr(config, f"_{level}", None) or {}, file=files.get(level))
            for level in _LEVELS
        ]

    def problems(self) -> list[tuple[str, str]]:
        """Return dotted path and problem of the keys in the files that are written twice or are no text."""
        return [
            problem for level in self._levels if level.file is not None for problem in level.file.problems(SECTIONS)
        ]

    def name_of(self, path: str) -> str:
        """Return the file that sets a dotted path, with the line where it is known."""
        level, place = max(
            ((level, level.place_of(path)) for level in self._levels), key=lambda found: len(".".join(found[1]))
        )
        if not place:
            return "configuration"
        line = level.file.line_of(place) if level.file is not None else None
        return level.name if line is None else f"{level.name}:{line}"

    def as_written(self, value: Any, place: Place) -> Any:
        """Return ``value`` with text keys, and with each value that is not text together with its text in the file."""
        if hasattr(value, "items") and hasattr(value, "keys"):
            return {str(key): self.as_written(inner, (*place, str(key))) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.as_written(inner, (*place, str(index))) for index, inner in enumerate(value)]
        if isinstance(value, str) or value is None:
            return value
        level = next((level for level in self._levels if level.sets(place)), None)
        text = level.file.text_of(place) if level is not None and level.file is not None else None
        return value if text is None else AsWritten(value, text)


def files_of(config: Config) -> Iterator[tuple[str, SourceFile]]:
    """Yield level and file of each YAML or JSON file that Invoke has found, not read yet."""
    for level in _LEVELS:
        path = getattr(config, f"_{level}_path", None)
        if path and str(path).endswith((".yaml", ".yml", ".json")):
            yield level, SourceFile(Path(path).expanduser(), _name_of(config, level))


def paths_of(config: Config) -> Iterator[Path]:
    """Yield the absolute path of each file of configuration that Invoke has found."""
    for level in _LEVELS:
        if path := getattr(config, f"_{level}_path", None):
            yield Path(path).expanduser().absolute()


def _by_name(tree: Any) -> dict[str, Any]:
    """Return the values in a mapping or a list by key or index, as text."""
    if isinstance(tree, Mapping):
        return {str(key): value for key, value in tree.items()}
    return {str(index): value for index, value in enumerate(tree)} if isinstance(tree, list) else {}


def _readable(source: SourceFile) -> SourceFile | None:
    """Return the file unless it was changed so that it cannot be read any more since Invoke loaded it."""
    try:
        return source if source.root is not None else None
    except (ConfigError, OSError):
        return None


def _name_of(config: Config, level: str) -> str:
    path = os.fspath(getattr(config, f"_{level}_path", None) or "")
    if level == "user" and path:
        return f"~/{os.path.basename(path)}"
    return (os.path.basename(path) if level == "project" else path) or level
