"""What the configuration names and what does not exist: state, and the programs of commands.

It is looked at before anything takes long, because a misspelt path is found in milliseconds. The same holds for a file
that root runs and another user can change.
"""

from __future__ import annotations

import importlib.util
import os
import site
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import Settings
from release_tasks.core.location import is_within
from release_tasks.core.owned import Exposure, exposure_inside, exposure_of
from release_tasks.core.process.command import search_path, tool_environment
from release_tasks.core.process.program import MissingProgram, find_missing_program, programs_of
from release_tasks.core.records import Check
from release_tasks.core.similar_path import suggest_path
from release_tasks.stages.preflight.gates.command import CommandOptions

__all__ = ["CONFIGURATION", "Missing", "find_missing", "is_configuration", "missing_restart"]

_RUN_BY_INVOKE = ("tasks.py", *(f"invoke.{suffix}" for suffix in ("yaml", "yml", "json", "py")))
CONFIGURATION = "configuration"  # the subsystem of the check before all gates, which is reported only when it failed


@frozen(kw_only=True)
class Missing:
    """A configured thing that does not exist. ``key`` is its dotted path in the configuration.

    A release ``needs`` it, unless it is only for notifications, drills, or the name of a version. ``may_be_built``: a
    gate may create it, so that it is missing only when it does not exist after the gates. ``is_exposed``: root runs or
    trusts the file, and another user can change it. ``key`` may be its path.
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

    For a run as root, also the files that root runs or trusts and another user can change, with reason.

    ``gates`` are the names of the gates that will run, by default all of them.
    """
    names = settings.release.gates if gates is None else gates
    found = [] if may_lack_assets else list(_missing_assets(settings))
    # A single gate says it itself, in the same time.
    found += _missing_gates(settings, names) if len(names) > 1 or gates is None else []
    return [*dict.fromkeys(_exposed(settings, names)), *found, *_missing_commands(settings)]


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


def _exposed(settings: Settings, gates: Collection[str]) -> Iterator[Missing]:
    """Yield what root runs or trusts, and another user can change; nothing in a run as another user."""
    if os.geteuid() != 0:
        return
    yield from _exposed_files(settings)
    yield from _exposed_modules(settings.project)
    yield from _exposed_programs(settings, gates)
    yield from _exposed_keys(settings)


def _exposed_files(settings: Settings) -> Iterator[Missing]:
    """Yield the files that Invoke loads, and the folders from which Python loads modules because of variables."""
    project = settings.project
    tasks = project / "tasks.py"
    paths = {project / name: name for name in _RUN_BY_INVOKE} | {path: str(path) for path in settings.sources}
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths |= {Path(folder).absolute(): "PYTHONPATH" for folder in folders}
    # With HOME of another user, Python has run code in this folder at its start.
    paths |= {Path(site.USER_SITE): "HOME"} if site.USER_SITE in sys.path and site.USER_SITE is not None else {}
    found = {path: key for path, key in paths.items() if os.path.lexists(path)}
    # Python loads the compiled file, which may be created at any moment.
    found |= {Path(importlib.util.cache_from_source(str(tasks))): "tasks.py"} if tasks in found else {}
    for path, key in found.items():
        if (exposure := exposure_of(path)) is not None:
            yield _exposed_by(exposure, key, "root runs what is in it")
    package = project / "tasks"
    if (package / "__init__.py").is_file():
        exposure = exposure_of(package) or exposure_inside(package)
        if exposure is not None:
            yield _exposed_by(exposure, "tasks", "root runs what is in it")


def _exposed_modules(project: Path) -> Iterator[Missing]:
    """Yield the names next to tasks.py that hide a module from what runs there before this package, or in a gate."""
    if exposure_of(project) is not None:
        return
    others = [folder for folder in sys.path if folder and Path(folder).absolute() != project]
    for path in sorted(project.iterdir()):
        name = path.name.partition(".")[0]
        is_module = name.isidentifier() and (path.is_dir() or path.suffix in (".py", ".pyc", ".so"))
        if not is_module or (exposure := exposure_of(path)) is None:
            continue
        found = None if name in sys.stdlib_module_names else PathFinder.find_spec(name, others)
        if name in sys.stdlib_module_names or (found is not None and found.origin is not None):
            yield _exposed_by(exposure, path.name, f"it hides the module {name} of Python", "rename it")


def _exposed_programs(settings: Settings, gates: Collection[str]) -> Iterator[Missing]:
    # The programs next to Python are trusted like Python itself.
    own = Path(sys.executable).parent
    for key, (command, folder, environment) in _commands(settings, gates).items():
        for path in programs_of(command, folder, environment):
            if path.parent != own and (exposure := exposure_of(path)) is not None:
                yield _exposed_by(exposure, key, f"root runs {path}")
                break


def _commands(settings: Settings, gates: Collection[str]) -> dict[str, tuple[str, Path, Mapping[str, str]]]:
    """Return each command that root runs by its key, with its folder and environment."""
    found: dict[str, tuple[str, Path, Mapping[str, str]]] = {}
    for name, gate in settings.release.gates.items():
        if name in gates and isinstance(gate.options, CommandOptions):
            environment = {**os.environ, **gate.env}
            environment["PATH"] = search_path(environment)
            folder = gate.options.cwd or settings.project
            found[f"release.gates.{name}.command"] = (gate.options.command, folder, environment)
    for key, command in (_needed_commands(settings) | _other_commands(settings)).items():
        if command is not None:
            found[key] = (command, settings.project, tool_environment())
    return found


def _exposed_keys(settings: Settings) -> Iterator[Missing]:
    """Yield the files of keys: who changes a trusted key has every forged statement accepted."""
    attestation = settings.release.attestation
    keys = dict.fromkeys(attestation.public_keys, "release.attestation.public_keys")
    value = os.environ.get(attestation.key_env or "", "")
    if value.strip() and "-----BEGIN" not in value:
        keys[settings.project / value] = "release.attestation.key_env"
    for path, key in keys.items():
        if (exposure := exposure_of(path)) is not None:
            yield _exposed_by(exposure, key, f"root trusts the key in {path}")


def _exposed_by(exposure: Exposure, key: str, what: str, *ways: str) -> Missing:
    return Missing(key=key, problem=f"{what}, and {exposure}. {exposure.ways_out(*ways)}", is_exposed=True)


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
    needed, other = _needed_commands(settings), _other_commands(settings)
    has_builds = any(isinstance(gate.options, CommandOptions) for gate in release.gates.values())
    for key, command in (needed | other).items():
        missing = None if command is None else find_missing_program(command, settings.project, tool_environment())
        if missing is not None and not (key == "release.drill.command" and _is_in(settings.project, missing.path)):
            may_be_built = has_builds and missing.path is not None and not missing.is_misspelt
            yield Missing(key=key, problem=missing.problem, needs=key in needed, may_be_built=may_be_built)


def _needed_commands(settings: Settings) -> dict[str, str | None]:
    restart = settings.release.restart
    return {"release.restart.stop": restart.stop, "release.restart.command": restart.command}


def _other_commands(settings: Settings) -> dict[str, str | None]:
    release = settings.release
    return {
        "release.app.version.command": release.app.version.command if release.app.version is not None else None,
        "release.drill.command": release.drill.command,
        **{f"release.notices.{name}.command": notice.command for name, notice in release.notices.items()},
    }


def _is_in(project: Path, path: Path | None) -> bool:
    """Return whether ``path`` is in the project: a drill starts its command in a copy, at other relative paths."""
    return path is not None and path.is_relative_to(project)


def _is_state(settings: Settings, path: Path | None) -> bool:
    return path is not None and any(is_within(path, asset.path) for asset in settings.release.assets.values())
