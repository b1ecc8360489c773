"""Find and load the plugins of installed packages; an error has a message and the command to type."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed
from release_tasks.core.own_modules import exposure_in_own_folder
from release_tasks.core.typed import quoted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ASSETS", "GATES", "Plugin", "PluginUnusable", "describe_exception", "find_plugin"]

GATES = "release_tasks.gates"
ASSETS = "release_tasks.assets"
_NOUNS = {GATES: "gate", ASSETS: "asset kind"}
_MAX_MESSAGE = 300  # characters of an exception's message


class PluginUnusable(StageFailed):
    """A plugin is not installed, installed twice, or broken; ``next`` is the command to type."""

    def __init__(self, message: str, next_command: str) -> None:
        super().__init__(message)
        self.next = next_command


@frozen
class Plugin:
    """An entry point that is not loaded yet. ``package`` is the name and version of its distribution."""

    point: EntryPoint
    package: str

    def __str__(self) -> str:
        return f"the {_NOUNS[self.point.group]} {self.point.name!r} of {self.package}"

    @property
    def show_command(self) -> str:
        """The command that shows the package of the plugin."""
        return _pip("show", self.package.split()[0])

    def load(self) -> Any:
        """Import the plugin and return the object of the entry point. Raises PluginUnusable when the import fails."""
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            is_import = isinstance(error, ImportError)
            raise PluginUnusable(
                f"{self} cannot be loaded ({self.point.value}): {describe_exception(error)}",
                _pip("check") if is_import else self.show_command,
            ) from error


def find_plugin(group: str, name: str) -> Plugin:
    """Return the plugin ``name`` without importing it.

    Raises PluginUnusable when no package or more than one package offers the plugin.
    """
    from importlib.metadata import entry_points

    noun = _NOUNS[group]
    points = [point for point in entry_points(group=group) if not _is_of_others(point)]
    found = list(dict.fromkeys(Plugin(point, _package_of(point)) for point in points if point.name == name))
    if not found:
        known = ", ".join(sorted({point.name for point in points})) or "none"
        message = f"no installed package offers the {noun} {name!r} (offered: {known})"
        raise PluginUnusable(message, _pip("install", "PACKAGE"))
    if len(found) > 1:
        packages = " and ".join(plugin.package for plugin in found)
        last = found[-1].package.split()[0]
        raise PluginUnusable(f"more than one package offers the {noun} {name!r}: {packages}", _pip("uninstall", last))
    return found[0]


def _is_of_others(point: EntryPoint) -> bool:
    """Return whether another user put the metadata of a package next to the modules of root."""
    # The public methods of a distribution do not name its own folder.
    folder = getattr(point.dist, "_path", None)
    return isinstance(folder, Path) and exposure_in_own_folder(folder.absolute()) is not None


def describe_exception(error: BaseException) -> str:
    """Return the class of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {excerpt_line(lines[0], _MAX_MESSAGE)}" if lines else type(error).__name__


def _package_of(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed package"


def _pip(*words: str) -> str:
    return " ".join(map(quoted, [sys.executable, "-m", "pip", *words]))
