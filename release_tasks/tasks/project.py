"""The configuration of a project, as ``inv`` merges it there and this package checks it."""

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
# Invoke's configuration levels that somebody wrote, strongest first; "_runtime_path" and its like name the file.
_LEVELS = ("_overrides", "_runtime", "_project", "_user", "_system")


def load_project(folder: str | os.PathLike[str] = ".", overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of the project in ``folder``: what ``inv`` would act on there.

    Its invoke.yaml (.yml, .json, .py), the files of user and system, and INVOKE_* variables; ``overrides`` wins over
    all of the files, e.g. ``{"release": {"retention": 3}}``. Raises ConfigError with every mistake, UsageError for a
    folder that does not exist.
    """
    project = Path(os.path.abspath(folder))
    if not project.is_dir():
        raise UsageError(f"{project} is no folder, so there is no project in it.")
    try:
        config = Config(project_location=project, overrides=_plain(overrides or {}))
        config.load_project()
    # A configuration file may be a Python program: it can fail with anything.
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError([f"{project}: its configuration cannot be used: {told}"]) from error
    return _settings_from(config, project)


def settings_of(ctx: Context) -> Settings:
    """Check the configuration of this command line; raises ConfigError with every mistake, UsageError inside a drill.

    Its project is the folder that holds tasks.py, or the working folder when there is none.
    """
    # Invoke keeps it here, under 2.2 and 3.0 alike, and offers no public name for it.
    prefix = getattr(ctx.config, "_project_prefix", None)
    return _settings_from(ctx.config, Path(os.path.abspath(prefix or ".")))


def runtime_file(ctx: Context) -> Path | None:
    """Return the file that ``inv -f`` or INVOKE_RUNTIME_CONFIG named, absolute, or None."""
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
    """Check the sections of ``raw`` with the kinds of this package; see ``config.load.load_settings``."""
    return load.load_settings(raw, project, source_of, kinds=KINDS)


def _refuse_live_project_in_drill(project: Path) -> None:
    """Raise UsageError where a drill's service types ``inv``: Invoke looks upwards, and finds the live project."""
    root = os.environ.get("RELEASE_TASKS_DRILL_ROOT")
    if root and not Path(os.path.realpath(project)).is_relative_to(os.path.realpath(root)):
        raise UsageError(
            f"This runs in a drill, and the project in {project} is live. Start the service itself on the state below "
            "RELEASE_TASKS_DRILL_ROOT, without inv."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping) or (hasattr(value, "items") and hasattr(value, "keys")):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value


def _apply_environment(raw: dict[str, Any], known: dict[str, Any]) -> set[str]:
    """Put ``INVOKE_RELEASE_RETENTION`` and its like into ``raw`` as text; returns the dotted paths that it set.

    Invoke would cast by the type of what it replaces, which turns ``false`` into True and ``soon`` into a traceback.
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
        depth, tree = 0, getattr(config, level, None)  # how far down the path this level has anything to say
        for part in path.split("."):
            if not isinstance(tree, Mapping) or part not in tree:
                break
            depth, tree = depth + 1, tree[part]
        if depth > best:
            best, name = depth, os.path.basename(str(getattr(config, f"{level}_path", None) or level.strip("_")))
    return name
