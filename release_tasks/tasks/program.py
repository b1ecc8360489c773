"""The ``release-tasks`` command: the tasks of the suite in a folder without a tasks.py."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke import Argument, Collection, Exit, ParseError, Program
from invoke.util import debug

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import interruptible
from release_tasks.core.printable import one_line
from release_tasks.core.streams import open_standard_streams
from release_tasks.core.version import __version__
from release_tasks.tasks.executor import StageExecutor, UsageExit, refuse
from release_tasks.tasks.sources.loading import (
    check_aliases,
    describe_load_error,
    message_of,
    own_user_prefix,
    require_own_file,
)
from release_tasks.tasks.suite import suite

__all__ = ["ReleaseProgram", "main"]

_NAMES = tuple(f"invoke.{suffix}" for suffix in ("yaml", "yml", "json", "py"))
_CHOOSE_PROJECT = "Change to the folder of the project, or name it: release-tasks --project FOLDER TASK"
_LIST_FORMATS = ("flat", "nested", "json")


class ReleaseProgram(Program):
    """Invoke's Program with the folder of an invoke.yaml as the project, and with the exit codes of this package.

    Like ``inv``, it searches from the working folder upwards. An error in the command line or in a configuration file
    ends with 2 and one message, Ctrl-C ends with 130.
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

    def core_args(self) -> list[Argument]:
        """Return the options before the first task: those of Invoke, and ``--project``."""
        chosen = Argument(names=("project",), help="Use the project in this folder; default: search from here upwards.")
        return [*super().core_args(), chosen]

    def create_config(self) -> None:
        """Load the configuration files of the system and of the user."""
        with self._loading("/etc/invoke.* or ~/.invoke.*"):
            self.config = self.config_class(user_prefix=own_user_prefix())

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse the options before the first task."""
        with self._parsing():
            super().parse_core(argv)

    def parse_collection(self) -> None:
        """Load the invoke.yaml, .yml, .json or .py of the project; Invoke itself loads it only next to a tasks.py."""
        self._project = self._find_project()
        with self._loading(next(_files_in(self._project), "invoke.*") if self._project else "invoke.*"):
            self._require_own_files()
            check_aliases(Path(self._project or "."))
            self.config.set_project_location(self._project or ".")
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

    def _find_project(self) -> str | None:
        """Return the folder of ``--project``, else the nearest one with an invoke.yaml from here upwards, or None."""
        named = self.args.project.value
        if named is not None:
            folder = os.path.expanduser(named)
            if next(_files_in(folder), None) is None:
                refuse(f"--project: no {_NAMES[0]} in {named!r}", as_json=self._has_json)
            return os.path.abspath(folder) if os.path.isabs(folder) else str(_working_folder() / folder)
        with contextlib.suppress(FileNotFoundError):
            here = _working_folder()
            return next((str(folder) for folder in (here, *here.parents) if any(_files_in(str(folder)))), None)
        return None

    def _require_own_files(self) -> None:
        """Refuse a configuration that another user can change, in a run as root: it names commands, and may be code.

        The search upwards can find a file that the user of a folder above has put there.
        """
        for file in _files_in(self._project) if self._project is not None else ():
            require_own_file(Path(file))

    def _require_project(self) -> None:
        """Refuse to run tasks without a project: an answer about an empty folder would look like a good one.

        The section of a project may also come from the file of ``--config``, and from those of user and system.
        """
        from release_tasks.config.schema import SECTIONS

        here: Path | None = None
        with contextlib.suppress(FileNotFoundError):
            here = _working_folder()
        if self._project is None:
            if here is None:
                refuse(f"The working folder was deleted. {_CHOOSE_PROJECT}", as_json=self._has_json)
            if not any(self.config.get(section) for section in SECTIONS):
                refuse(f"no {_NAMES[0]} in {here} or above. {_CHOOSE_PROJECT}", as_json=self._has_json)
        elif self.args.project.value is None and self._project != str(here):
            print(f"Project: {one_line(self._project)}", file=sys.stderr)  # noqa: T201

    def update_config(self, merge: bool = True) -> None:
        """Load the file of ``--config``, and the options that override settings."""
        named = self.args.config.value or os.environ.get("INVOKE_RUNTIME_CONFIG")
        with self._loading(named or "options"):
            # Invoke ignores a missing file and would continue with other settings.
            if named and not Path(named).expanduser().is_file():
                raise FileNotFoundError("no such file; --config takes the path of a file")
            if named:
                require_own_file(Path(named).expanduser().absolute())
            super().update_config(merge)

    def execute(self) -> None:
        """Run the tasks; Ctrl-C ends with 130 under every executor."""
        self._require_project()
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


def _files_in(folder: str) -> Iterator[str]:
    """Yield the configuration files of a project in ``folder``; Invoke reads the first."""
    paths = (os.path.join(folder, name) for name in _NAMES)
    return (path for path in paths if os.path.isfile(path))


def _working_folder() -> Path:
    """Return the absolute working folder; raises FileNotFoundError when it was deleted."""
    return Path(os.getcwd())


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
