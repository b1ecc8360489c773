"""What installed packages offer by name, and what is wrong with it in one sentence with the command to type."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from attrs import frozen

from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageFailed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ASSETS", "GATES", "Plugin", "PluginUnusable", "describe_exception", "find_plugin"]

GATES = "release_tasks.gates"
ASSETS = "release_tasks.assets"
_NOUNS = {GATES: "gate", ASSETS: "asset kind"}
_LONGEST = 300  # characters of what an exception says


class PluginUnusable(StageFailed):
    """A plugin is not there, there twice, or broken; ``next`` is the command that leads on."""

    def __init__(self, message: str, next_command: str) -> None:
        super().__init__(message)
        self.next = next_command


@frozen
class Plugin:
    """One entry point, not yet loaded: ``package`` is the name and version of the distribution it came with."""

    point: EntryPoint
    package: str

    def __str__(self) -> str:
        return f"the {_NOUNS[self.point.group]} {self.point.name!r} of {self.package}"

    @property
    def ask(self) -> str:
        """The command that says whose package this is."""
        return _pip("show", self.package.split()[0])

    def load(self) -> Any:
        """Import it and return what the entry point names; raises PluginUnusable, whatever its import does."""
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            is_import = isinstance(error, ImportError)
            raise PluginUnusable(
                f"{self} cannot be loaded ({self.point.value}): {describe_exception(error)}",
                _pip("check") if is_import else self.ask,
            ) from error


def find_plugin(group: str, name: str) -> Plugin:
    """Return what is installed under ``name``; raises PluginUnusable when no package offers it, or several do.

    Nothing of it is imported.
    """
    from importlib.metadata import entry_points

    noun = _NOUNS[group]
    points = entry_points(group=group)
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


def describe_exception(error: BaseException) -> str:
    """Return an exception as its kind and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {excerpt(lines[0], _LONGEST)}" if lines else type(error).__name__


def _package_of(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed package"


def _pip(*words: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", *words])
