"""The configuration of a project: merged as ``inv`` merges it, then checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from invoke import Config, Context

from release_tasks.assets.kinds import ASSET_KINDS
from release_tasks.config import load
from release_tasks.config.schema import SECTIONS, Kinds, Settings
from release_tasks.core.errors import ConfigError, UsageError
from release_tasks.stages.preflight.gates.kinds import GATE_KINDS

__all__ = ["KINDS", "load_project", "load_settings", "runtime_file", "settings_of"]

KINDS = Kinds(assets=ASSET_KINDS, gates=GATE_KINDS)
# Invoke's configuration levels with values from users, highest priority first; "_runtime_path" etc. name the files.
_LEVELS = ("_overrides", "_runtime", "_project", "_user", "_system")


def load_project(folder: str | os.PathLike[str] = ".", overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that ``inv`` would use in the project in ``folder``.

    The sources are its invoke.yaml (.yml, .json, .py), the files of user and system, and INVOKE_* variables.
    ``overrides``, for example ``{"release": {"retention": 3}}``, take precedence over all files. Raises ConfigError
    with all mistakes, UsageError for a folder that does not exist.
    """
    project = Path(os.path.abspath(folder))
    if not project.is_dir():
        raise UsageError(f"{project} is not a directory.")
    try:
        config = Config(project_location=project, overrides=_plain(overrides or {}))
        config.load_project()
    # A configuration file may be a Python program, which may raise any exception.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError([f"{project}: its configuration cannot be used: {reason}"]) from error
    return _settings_from(config, project)


def settings_of(ctx: Context) -> Settings:
    """Check the configuration of this command line; raises ConfigError with all mistakes, UsageError inside a drill.

    The project is the folder that contains tasks.py, or the working folder without a tasks.py.
    """
    # Invoke 2.2 and 3.0 store the folder here and offer no public name for it.
    prefix = getattr(ctx.config, "_project_prefix", None)
    return _settings_from(ctx.config, Path(os.path.abspath(prefix or ".")))


def runtime_file(ctx: Context) -> Path | None:
    """Return the absolute path of the file from ``inv -f`` or INVOKE_RUNTIME_CONFIG, or None."""
    path = getattr(ctx.config, "_runtime_path", None)
    return Path(path).absolute() if path else None


def _settings_from(config: Config, project: Path) -> Settings:
    _refuse_live_project_in_drill(project)
    raw = {name: _plain(config.get(name)) for name in SECTIONS}
    overridden = _apply_environment(raw, load.defaults())
    return load_settings(raw, project, lambda path: _source_of(config, path, overridden))


def load_settings(
    raw: Mapping[str, Any], project: Path, source_of: Callable[[str], str] = lambda path: "invoke.yaml"
) -> Settings:
    """Check the sections of ``raw`` with the kinds of this package, like ``config.load.load_settings``."""
    return load.load_settings(raw, project, source_of, kinds=KINDS)


def _refuse_live_project_in_drill(project: Path) -> None:
    """Raise UsageError when the service of a drill runs ``inv``: Invoke searches upwards and finds the live project."""
    root = os.environ.get("RELEASE_TASKS_DRILL_ROOT")
    if root and not Path(os.path.realpath(project)).is_relative_to(os.path.realpath(root)):
        raise UsageError(
            f"This command runs in a drill, but the project in {project} is live. Start the service without inv, on "
            "the state in RELEASE_TASKS_DRILL_ROOT."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping) or (hasattr(value, "items") and hasattr(value, "keys")):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value


def _apply_environment(raw: dict[str, Any], known: dict[str, Any]) -> set[str]:
    """Copy variables such as ``INVOKE_RELEASE_RETENTION`` into ``raw`` as text; returns the dotted paths that it set.

    Invoke would cast a value to the type of the value that it replaces: ``false`` would become True and ``soon`` a
    traceback.
    """
    overridden: set[str] = set()
    for path in {*_leaves(known), *_leaves(raw)}:
        value = os.environ.get("INVOKE_" + "_".join(path).upper())
        if value is not None:
            place = raw
            for part in path[:-1]:
                if not isinstance(place.get(part), dict):
                    place[part] = {}
                place = place[part]
            place[path[-1]] = value
            overridden.add(".".join(path))
    return overridden


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        elif not isinstance(value, (list, tuple)):
            yield (*above, key)


def _source_of(config: Config, path: str, overridden: set[str]) -> str:
    if path in overridden:
        return "environment variable INVOKE_" + path.replace(".", "_").upper()
    best, name = 0, "configuration"
    for level in _LEVELS:
        depth, tree = 0, getattr(config, level, None)  # the length of the path that this level defines
        for part in path.split("."):
            if not isinstance(tree, Mapping) or part not in tree:
                break
            depth, tree = depth + 1, tree[part]
        if depth > best:
            best, name = depth, os.path.basename(str(getattr(config, f"{level}_path", None) or level.strip("_")))
    return name
