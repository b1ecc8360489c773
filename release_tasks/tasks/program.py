"""The ``release-tasks`` command: the tasks of the suite in a folder without a tasks.py."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke import Collection, Exit, ParseError, Program
from invoke.util import debug

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import interruptible
from release_tasks.core.streams import open_standard_streams
from release_tasks.core.version import __version__
from release_tasks.tasks.executor import StageExecutor, UsageExit, refuse
from release_tasks.tasks.sources.loading import check_aliases, describe_load_error, message_of
from release_tasks.tasks.suite import suite

__all__ = ["ReleaseProgram", "main"]

_LIST_FORMATS = ("flat", "nested", "json")


class ReleaseProgram(Program):
    """Invoke's Program with the working folder as the project, and with the exit codes of this package.

    An error in the command line or in a configuration file ends with 2 and one message, Ctrl-C ends with 130.
    """

    def __init__(self, namespace: Collection, version: str) -> None:
        super().__init__(
            version=version,
            namespace=namespace,
            name="release-tasks",
            binary="release-tasks",
            binary_names=["release-tasks"],
            executor_class=StageExecutor,
        )

    def create_config(self) -> None:
        """Load the configuration files of the system and of the user."""
        with self._loading("/etc/invoke.* or ~/.invoke.*"):
            super().create_config()

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse the options before the first task."""
        with self._parsing():
            super().parse_core(argv)

    def parse_collection(self) -> None:
        """Load ./invoke.yaml, .yml, .json or .py; Invoke itself loads it only next to a tasks.py."""
        here = Path.cwd()
        names = (f"invoke.{suffix}" for suffix in ("yaml", "yml", "json", "py"))
        with self._loading(next((name for name in names if (here / name).exists()), "invoke.*")):
            check_aliases(here)
            self.config.set_project_location(here)
            self.config.load_project()
        super().parse_collection()

    def parse_tasks(self) -> None:
        """Parse the tasks and their flags."""
        with self._parsing():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """Answer --help and --list."""
        with self._parsing():
            chosen = self.args["list-format"].value
            if chosen not in _LIST_FORMATS:
                expected = ", ".join(_LIST_FORMATS)
                raise ParseError(f"--list-format: expected one of {expected}, got {chosen!r}")
            super().parse_cleanup()

    def update_config(self, merge: bool = True) -> None:
        """Load the file of ``--config``, and the options that override settings."""
        named = self.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG")
        with self._loading(named or "options"):
            # Invoke ignores a missing file and would continue with other settings.
            if named and not Path(named).expanduser().is_file():
                raise FileNotFoundError("no such file; --config takes the path of a file")
            super().update_config(merge)

    def execute(self) -> None:
        """Run the tasks; Ctrl-C ends with 130 under every executor."""
        try:
            super().execute()
        except KeyboardInterrupt:
            raise Exit(code=int(ExitCode.SIGINT)) from None

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (ParseError, ValueError) as error:  # a ValueError comes from Invoke's own --list-depth
            hint = "see release-tasks --list and release-tasks --help TASK"
            refuse(f"{message_of(error)} ({hint})", as_json=self._has_json)
        except Exit as error:
            if error.message and not isinstance(error, UsageExit):
                refuse(error.message, as_json=self._has_json)
            raise

    @contextmanager
    def _loading(self, source: str) -> Iterator[None]:
        try:
            yield
        # A configuration file may be a Python program, which may raise any exception.
        except Exception as error:
            debug("cannot load %s", source, exc_info=True)
            problem = describe_load_error(error) or f"{source}: cannot be used: {message_of(error)}"
            refuse(problem, as_json=self._has_json)

    @property
    def _has_json(self) -> bool:
        return "--json" in (self.argv or sys.argv)


def main() -> None:
    """Run the tasks of the command line, and exit."""
    open_standard_streams()
    try:
        with interruptible():
            ReleaseProgram(suite(), __version__).run()
    except Interrupted as stop:
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, f"{stop} No task was running.\n".encode())
        sys.exit(int(stop.exit_code))


if __name__ == "__main__":
    main()
