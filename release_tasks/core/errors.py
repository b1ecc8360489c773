"""The errors that end a stage, each with a message for the operator and an exit code."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from release_tasks.core.printable import one_line

__all__ = [
    "ConfigError",
    "DiskFull",
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
    """The exit codes of every task; the README has the same table."""

    DONE = 0
    NEGATIVE = 1
    USAGE = 2
    LOCKED = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again later
    SIGHUP = 129
    SIGINT = 130
    SIGQUIT = 131
    SIGTERM = 143

    @classmethod
    def of_signal(cls, number: int) -> ExitCode:
        """Return the exit code after a signal: 128 plus its number, as in a shell."""
        return cls(128 + number)


class StageError(Exception):
    """A stage cannot continue. ``message`` is a whole sentence that an operator can act on, on one printable line.

    It may quote a file, a service or another program. ``output`` are lines of another program, indented below it.
    """

    exit_code = ExitCode.NEGATIVE

    def __init__(self, message: str, output: Iterable[str] = ()) -> None:
        self.message = "\n".join([one_line(message), *(f"    | {one_line(line)}" for line in output)])
        super().__init__(self.message)


class StageFailed(StageError):
    """The stage ran and its verdict is negative (exit 1)."""


class DiskFull(StageFailed):
    """A disk or a quota is full. ``errnos`` are the errors of the system that mean the same."""

    errnos = (errno.ENOSPC, errno.EDQUOT)


class PluginError(StageFailed):
    """An error that a plugin raises. ``message`` is a whole sentence; it is shown on one line, without a traceback."""


class UsageError(StageError):
    """A flag, an id or a path on the command line is invalid (exit 2)."""

    exit_code = ExitCode.USAGE


class ConfigError(StageError):
    """The configuration is wrong (exit 2). ``problems`` contains every finding, one line each."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: list[str]) -> None:
        super().__init__("")
        self.problems = list(map(one_line, problems))
        self.message = "\n".join(self.problems)
        self.args = (self.message,)


class LockHeld(StageError):
    """Another run holds the lock (exit 75)."""

    exit_code = ExitCode.LOCKED


def describe_error(error: StageError | OSError) -> str:
    """Return the error as one sentence. The sentence for an OSError names the file."""
    if isinstance(error, StageError):
        return error.message
    return one_line(f"{error.filename or 'The system'}: {error.strerror or error}.")


class Interrupted(BaseException):
    """A signal requested this run to stop. ``detail`` is what the operator must know besides, as whole sentences.

    Derives from BaseException, so that no ``except Exception`` handles it as a failure.
    """

    def __init__(self, exit_code: ExitCode, detail: str = "") -> None:
        self.exit_code = exit_code
        self.detail = one_line(detail) if detail else ""  # a signal can arrive while ``one_line`` is imported
        super().__init__(f"Interrupted by {exit_code.name}. {self.detail}".rstrip())


@contextlib.contextmanager
def with_path(path: Path | str) -> Iterator[None]:
    """Set ``path`` as the file of an OSError from the block, unless the error has an absolute path already."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by this package, with a message that names the file
            raise
        if not isinstance(error.filename, str) or not os.path.isabs(error.filename):
            error.filename = str(path)
        raise
