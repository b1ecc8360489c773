"""The configuration of a project: merged as ``inv`` merges it, then checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from invoke import Config, Context

from release_tasks.assets.kinds import ASSET_KINDS
from release_tasks.config import load
from release_tasks.config.environment import Overrides
from release_tasks.config.schema import SECTIONS, Kinds, Settings
from release_tasks.core.errors import ConfigError, UsageError
from release_tasks.stages.preflight.gates.kinds import GATE_KINDS
from release_tasks.tasks.sources.levels import Sources, paths_of
from release_tasks.tasks.sources.loading import (
    check_aliases,
    describe_load_error,
    message_of,
    own_user_prefix,
    require_own_file,
)

__all__ = ["KINDS", "load_project", "load_settings", "runtime_file", "settings_of"]

KINDS = Kinds(assets=ASSET_KINDS, gates=GATE_KINDS)


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
        check_aliases(project)
        for path in (project / f"invoke.{suffix}" for suffix in ("yaml", "yml", "json", "py")):
            if path.is_file():
                require_own_file(path)
        prefix = own_user_prefix()
        config = Config(project_location=project, overrides=_plain(overrides or {}), user_prefix=prefix)
        config.load_project()
    # A configuration file may be a Python program, which may raise any exception.
    except Exception as error:
        problem = describe_load_error(error) or f"{project}: its configuration cannot be used: {message_of(error)}"
        raise ConfigError([problem]) from error
    return _settings_from(config, project)


def settings_of(ctx: Context) -> Settings:
    """Check the configuration of this command line; raises ConfigError with all mistakes, UsageError inside a drill.

    The project is the folder that contains tasks.py, or the working folder without a tasks.py.
    """
    # Invoke 2.2 and 3.0 store the folder here and offer no public name for it.
    prefix = getattr(ctx.config, "_project_prefix", None)
    _require_runtime_file(ctx.config)
    return _settings_from(ctx.config, Path(os.path.abspath(prefix or ".")))


def _require_runtime_file(config: Config) -> None:
    """Raise ConfigError for a file of ``inv -f`` that does not exist: Invoke ignores it and uses other settings."""
    path = getattr(config, "_runtime_path", None)
    if path and not Path(path).expanduser().is_file():
        raise ConfigError([f"{path}: no such file; -f and INVOKE_RUNTIME_CONFIG take the path of a file"])


def runtime_file(ctx: Context) -> Path | None:
    """Return the absolute path of the file from ``inv -f`` or INVOKE_RUNTIME_CONFIG, or None."""
    path = getattr(ctx.config, "_runtime_path", None)
    return Path(path).absolute() if path else None


def _settings_from(config: Config, project: Path) -> Settings:
    _refuse_live_project_in_drill(project)
    sources = Sources(config)
    raw = {name: sources.as_written(config.get(name), (name,)) for name in SECTIONS}
    overrides = Overrides(os.environ, KINDS, foreign=[name for name in dict(config.items()) if name not in SECTIONS])
    overrides.apply(raw)
    misplaced = [
        (path, f"{sources.name_of(path)}: {path}: {problem}")
        for path, problem in load.misplaced_sections(_plain(config), KINDS)
    ]
    found = [*sources.problems(), *misplaced, *overrides.problems]
    if not any(raw.values()) and not found:
        raise ConfigError(
            [
                f"{project}: nothing is configured for release-tasks in this project. Add a section `release:` to "
                "invoke.yaml in that folder; docs/quick-start.md shows a first one."
            ]
        )
    settings = load_settings(raw, project, lambda path: overrides.name_of(path) or sources.name_of(path), found)
    return evolve(settings, sources=tuple(paths_of(config)))


def load_settings(
    raw: Mapping[str, Any],
    project: Path,
    source_of: Callable[[str], str] = lambda path: "invoke.yaml",
    found: Sequence[tuple[str, str]] = (),
) -> Settings:
    """Check the sections of ``raw`` with the kinds of this package, like ``config.load.load_settings``."""
    return load.load_settings(raw, project, source_of, kinds=KINDS, found=found)


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
