"""The configuration of this command line: Invoke's merged sources, checked, each mistake with its source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Context

from release_tasks.errors import UsageError

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings

__all__ = ["is_dry", "project_folder", "runtime_file", "settings_of"]

_SECTIONS = ("release", "pairing", "gateway")
# Invoke's configuration levels that come from a file, strongest first, with the attribute that names the file.
_LEVELS = (
    ("_runtime", "_runtime_path"),
    ("_project", "_project_path"),
    ("_user", "_user_path"),
    ("_system", "_system_path"),
)


def settings_of(ctx: Context) -> Settings:
    """Read and check the configuration; raises ConfigError with every mistake, UsageError inside a drill."""
    from release_tasks.config.load import defaults, load_settings

    _refuse_live_project_in_drill(project_folder(ctx))
    raw = {name: _plain(ctx.config.get(name)) for name in _SECTIONS}
    overridden = _apply_environment(raw, defaults())
    return load_settings(raw, project_folder(ctx), lambda path: _source_of(ctx, path, overridden))


def project_folder(ctx: Context) -> Path:
    """Return the folder that holds tasks.py, or the working folder when there is none."""
    # Invoke keeps it here, under 2.2 and 3.0 alike, and offers no public name for it.
    prefix = getattr(ctx.config, "_project_prefix", None)
    return Path(os.path.abspath(prefix or "."))


def runtime_file(ctx: Context) -> Path | None:
    """Return the file that ``inv -f`` or INVOKE_RUNTIME_CONFIG named, absolute, or None."""
    path = getattr(ctx.config, "_runtime_path", None)
    return Path(path).absolute() if path else None


def is_dry(ctx: Context) -> bool:
    """Say whether ``--dry`` was typed: Invoke itself only silences ``ctx.run``."""
    return bool(ctx.config.run.dry)


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


def _source_of(ctx: Context, path: str, overridden: set[str]) -> str:
    if path in overridden:
        return "environment variable INVOKE_" + path.replace(".", "_").upper()
    best, name = 0, "configuration"
    for level, level_path in _LEVELS:
        depth = _depth(getattr(ctx.config, level, None), path.split("."))
        if depth > best:
            best, name = depth, os.path.basename(str(getattr(ctx.config, level_path, None) or level.strip("_")))
    return name


def _depth(tree: Any, parts: list[str]) -> int:
    """How far down the dotted path this level has anything to say."""
    depth = 0
    for part in parts:
        if not isinstance(tree, Mapping) or part not in tree:
            break
        tree = tree[part]
        depth += 1
    return depth
