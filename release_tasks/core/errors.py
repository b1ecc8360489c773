"""What can end a stage: one sentence for the operator and the exit code that goes with it."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "ConfigError",
    "ExitCode",
    "Interrupted",
    "LockHeld",
    "PluginError",
    "StageError",
    "StageFailed",
    "UsageError",
    "describe_error",
    "with_path",
]


class ExitCode(enum.IntEnum):
    """The exit codes of every task; the same table stands in the README."""

    DONE = 0
    NEGATIVE = 1
    USAGE = 2
    LOCKED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later
    SIGINT = 130
    SIGTERM = 143


class StageError(Exception):
    """A stage cannot go on; ``message`` is a whole sentence an operator can act on."""

    exit_code = ExitCode.NEGATIVE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StageFailed(StageError):
    """The stage ran and its verdict is negative (exit 1)."""


class PluginError(StageFailed):
    """Raised by a plugin: ``message`` is a whole sentence, shown as it is and without a traceback."""


class UsageError(StageError):
    """A flag, an id or a path that was typed makes no sense (exit 2)."""

    exit_code = ExitCode.USAGE


class ConfigError(StageError):
    """The configuration is wrong (exit 2); ``problems`` holds every finding, one line each."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LockHeld(StageError):
    """Another run holds the lock (exit 75)."""

    exit_code = ExitCode.LOCKED


def describe_error(error: StageError | OSError) -> str:
    """Return what went wrong as one sentence; for the system's errors, with the file that it happened to."""
    if isinstance(error, StageError):
        return error.message
    return f"{error.filename or 'The system'}: {error.strerror or error}."


class Interrupted(BaseException):
    """A signal asked this run to stop.

    Derives from BaseException so that no ``except Exception`` on the way up takes it for a failure.
    """

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(f"Interrupted by {exit_code.name}.")
        self.exit_code = exit_code


@contextlib.contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Let an error of the block name ``path``, where it would name a descriptor, a bare name or nothing at all."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # our own, a sentence that names it already
            raise
        if not isinstance(error.filename, str) or not os.path.isabs(error.filename):
            error.filename = str(path)
        raise
