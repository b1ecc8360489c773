"""Mistakes that Invoke does not catch when it loads a configuration, as one sentence each."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from invoke import Config
from invoke.config import AmbiguousMergeError

from release_tasks.core.errors import ConfigError
from release_tasks.core.owned import exposure_of
from release_tasks.core.printable import one_line

__all__ = ["check_aliases", "describe_load_error", "message_of", "own_user_prefix", "require_own_file"]

_EXECUTOR = "release_tasks.executor.StageExecutor"
_USER = "~/."  # the default of Invoke: https://docs.pyinvoke.org/en/stable/concepts/configuration.html
_NO_USER = "/nonexistent/release-tasks/."
_SUFFIXES = ("yaml", "yml", "json", "py")


def require_own_file(path: Path) -> None:
    """Raise ConfigError if this is a run as root, and another user can change a file of configuration.

    It names commands, and may be a Python program.
    """
    if (exposure := exposure_of(path)) is not None:
        raise ConfigError([f"{one_line(str(path))}: root runs what is in it, and {exposure}. {exposure.ways_out()}"])


def own_user_prefix() -> str:
    """Return where Invoke looks for the file of the user. Raises ConfigError as ``require_own_file`` does.

    ``sudo`` can leave HOME as the folder of the user who became root. That user could create a file there at any
    moment, so root does not look there.
    """
    for prefix in ("/etc/", _USER):
        for path in (Path(os.path.expanduser(f"{prefix}invoke.{suffix}")).absolute() for suffix in _SUFFIXES):
            if os.path.lexists(path):
                require_own_file(path)
    home = Path(os.path.expanduser(_USER)).absolute()
    return _USER if exposure_of(home) is None else _NO_USER


def describe_load_error(error: BaseException) -> str | None:
    """Return a sentence about the file, the key or the variable that Invoke cannot use; None for another error."""
    if isinstance(error, ConfigError):
        return error.message
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = [(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame in frames]
    if ("invoke.tasks", "__call__") in places:  # the error of a running task
        return None
    for frame, (module, function) in reversed(list(zip(frames, places, strict=True))):
        if module == "invoke.program" and function == "execute":
            return _about_executor(frame, error)
        if module == "invoke.config" and function == "load_shell_env":
            return _about_environment(frame.f_locals["self"], error)
        if module == "invoke.config" and function in ("_load_file", "merge"):
            return _about_files(frame, error)
    return None


def check_aliases(folder: Path) -> None:
    """Raise ConfigError when the aliases in the project's file stand for so many values that Invoke would not end."""
    from release_tasks.tasks.sources.files import SourceFile

    for path in (folder / f"invoke.{suffix}" for suffix in ("yaml", "yml")):
        if path.is_file() and b"*" in path.read_bytes():
            SourceFile(path, path.name).checked()


def _about_files(frame: FrameType, error: BaseException) -> str:
    """Return the problem of the file that ``frame`` loads, or of those that it merges."""
    found = list(_files(frame))
    for source in found:
        try:
            source.checked()
        except ConfigError as problem:
            return problem.problems[0]
        except OSError as unreadable:
            return f"{source.name}: cannot be read: {unreadable.strerror}"
    if isinstance(error, AmbiguousMergeError) and (sentence := _about_sections(frame.f_locals["self"])):
        return sentence
    path = str(frame.f_locals.get("filepath", ""))
    name = os.path.basename(path) or " or ".join(source.name for source in found) or "configuration"
    line = next((line for each, line in _lines(error) if each == path), None)  # of a Python file
    return f"{name}{f':{line}' if line else ''}: cannot be used: {message_of(error)}"


def _about_sections(config: Config) -> str | None:
    """Return the problem of the first section of Invoke that has a value in place of keys."""
    from release_tasks.config.written import shown
    from release_tasks.tasks.sources.levels import Sources

    for level in ("_system", "_user", "_project", "_runtime"):
        for name, value in (getattr(config, level) or {}).items():
            if isinstance(Config.global_defaults().get(name), dict) and not isinstance(value, dict):
                return f"{Sources(config).name_of(name)}: {name}: expected keys and values below it, got {shown(value)}"
    return None


def _files(frame: FrameType) -> Iterator[Any]:
    from release_tasks.tasks.sources.files import SourceFile
    from release_tasks.tasks.sources.levels import files_of

    path = str(frame.f_locals.get("filepath", ""))
    if path:
        if path.endswith((".yaml", ".yml", ".json")):
            yield SourceFile(Path(path), os.path.basename(path))
    else:
        yield from (source for _, source in files_of(frame.f_locals["self"]))


def _about_environment(config: Config, error: BaseException) -> str | None:
    from release_tasks.tasks.sources.environment import ENVIRONMENT_ERRORS, describe_environment_error

    return describe_environment_error(dict(config.items()), error) if isinstance(error, ENVIRONMENT_ERRORS) else None


def _about_executor(frame: FrameType, error: BaseException) -> str | None:
    """Return the problem of ``tasks.executor_class``; None when ``frame`` runs the tasks already."""
    if "executor" in frame.f_locals or "config_path" not in frame.f_locals:
        return None
    from release_tasks.tasks.sources.levels import Sources

    name = Sources(frame.f_locals["self"].config).name_of("tasks.executor_class")
    path = frame.f_locals["config_path"]
    reason = message_of(error) if isinstance(path, str) and "." in path.strip(".") else "a dotted name is expected"
    return (
        f"{name}: tasks.executor_class: {path!r} cannot be loaded: {reason}. "
        f"The executor of this package is {_EXECUTOR}"
    )


def message_of(error: BaseException) -> str:
    """Return the message of ``error`` on one line, or its type."""
    return " ".join(str(error).split()) or type(error).__name__


def _lines(error: BaseException) -> Iterator[tuple[str, int]]:
    if isinstance(error, SyntaxError):
        yield str(error.filename), error.lineno or 1
    yield from ((each.filename, each.lineno or 1) for each in reversed(traceback.extract_tb(error.__traceback__)))
