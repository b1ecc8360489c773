"""What the configuration names and what does not exist: state, and the programs of commands.

It is looked at before anything takes long, because a misspelt path is found in milliseconds. The same holds for a file
that root runs and another user can change.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import Settings
from release_tasks.core.location import is_within
from release_tasks.core.owned import exposure_of
from release_tasks.core.process.command import search_path, tool_environment
from release_tasks.core.process.program import MissingProgram, find_missing_program
from release_tasks.core.records import Check
from release_tasks.core.similar_path import suggest_path
from release_tasks.stages.preflight.gates.command import CommandOptions

__all__ = ["CONFIGURATION", "Missing", "find_missing", "is_configuration", "missing_restart"]

_RUN_BY_INVOKE = ("tasks.py", "tasks", *(f"invoke.{suffix}" for suffix in ("yaml", "yml", "json", "py")))
CONFIGURATION = "configuration"  # the subsystem of the check before all gates, which is reported only when it failed


@frozen(kw_only=True)
class Missing:
    """A configured thing that does not exist. ``key`` is its dotted path in the configuration.

    A release ``needs`` it, unless it is only for notifications, drills, or the name of a version. ``may_be_built``: a
    gate may create it, so that it is missing only when it does not exist after the gates. ``is_exposed``: the file
    ``key`` exists, root runs it, and another user can change it.
    """

    key: str
    problem: str
    needs: bool = True
    may_be_built: bool = False
    is_exposed: bool = False

    @property
    def is_asset(self) -> bool:
        """Whether it is state, and no program."""
        return self.key.startswith("release.assets.")

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


def find_missing(
    settings: Settings, gates: Collection[str] | None = None, *, may_lack_assets: bool = False
) -> list[Missing]:
    """Return every required asset, and every first program of a command, that certainly does not exist.

    For a run as root, also the files of the project that another user can change, with reason.

    ``gates`` are the names of the gates that will run, by default all of them.
    """
    names = settings.release.gates if gates is None else gates
    found = [] if may_lack_assets else list(_missing_assets(settings))
    # A single gate says it itself, in the same time.
    found += _missing_gates(settings, names) if len(names) > 1 or gates is None else []
    return [*_exposed_files(settings.project), *found, *_missing_commands(settings)]


def is_configuration(check: Check) -> bool:
    """Return whether ``check`` is not a gate but that of the configuration."""
    return check.subsystem == CONFIGURATION and "missing" in check.diagnostics


def missing_restart(settings: Settings) -> Missing | None:
    """Return why the restart command cannot be started after a restore; None when an asset contains its program."""
    command = settings.release.restart.command
    missing = None if command is None else find_missing_program(command, settings.project, tool_environment())
    if missing is None or _is_state(settings, missing.path):
        return None
    return Missing(key="release.restart.command", problem=missing.problem)


def _exposed_files(project: Path) -> Iterator[Missing]:
    for name in _RUN_BY_INVOKE:
        path = project / name
        if os.path.lexists(path) and (exposure := exposure_of(path)) is not None:
            problem = f"root runs what is in it, and {exposure}. {exposure.ways_out()}"
            yield Missing(key=name, problem=problem, is_exposed=True)


def _missing_assets(settings: Settings) -> Iterator[Missing]:
    for key, asset in settings.release.assets.items():
        if asset.required and not os.path.lexists(asset.path):
            problem = f"{asset.path} is required but does not exist{suggest_path(asset.path, settings.project)}"
            yield Missing(key=f"release.assets.{key}.{asset.kind.path_option}", problem=problem)


def _missing_gates(settings: Settings, names: Collection[str]) -> Iterator[Missing]:
    for name, gate in settings.release.gates.items():
        # A gate that it needs may build the program, and an advisory gate blocks nothing.
        if name in names and isinstance(gate.options, CommandOptions) and not (gate.needs or gate.advisory):
            environment = {**os.environ, **gate.env}
            environment["PATH"] = search_path(environment)
            folder = gate.options.cwd or settings.project
            if folder.is_dir():
                missing = find_missing_program(gate.options.command, folder, environment)
            else:
                missing = MissingProgram(problem=f"its folder {folder} does not exist", path=folder)
            if missing is not None:
                yield Missing(key=f"release.gates.{name}.command", problem=missing.problem)


def _missing_commands(settings: Settings) -> Iterator[Missing]:
    release = settings.release
    needed: Mapping[str, str | None] = {
        "release.restart.stop": release.restart.stop,
        "release.restart.command": release.restart.command,
    }
    other = {
        "release.app.version.command": release.app.version.command if release.app.version is not None else None,
        "release.drill.command": release.drill.command,
        **{f"release.notices.{name}.command": notice.command for name, notice in release.notices.items()},
    }
    has_builds = any(isinstance(gate.options, CommandOptions) for gate in release.gates.values())
    for key, command in {**needed, **other}.items():
        missing = None if command is None else find_missing_program(command, settings.project, tool_environment())
        if missing is not None and not (key == "release.drill.command" and _is_in(settings.project, missing.path)):
            may_be_built = has_builds and missing.path is not None and not missing.is_misspelt
            yield Missing(key=key, problem=missing.problem, needs=key in needed, may_be_built=may_be_built)


def _is_in(project: Path, path: Path | None) -> bool:
    """Return whether ``path`` is in the project: a drill starts its command in a copy, at other relative paths."""
    return path is not None and path.is_relative_to(project)


def _is_state(settings: Settings, path: Path | None) -> bool:
    return path is not None and any(is_within(path, asset.path) for asset in settings.release.assets.values())
