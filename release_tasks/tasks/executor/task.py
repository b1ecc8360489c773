"""A stage as an Invoke task: its declarations, and the values that it refuses."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from invoke import Argument, Exit, Program, Task

from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.core.printable import one_line
from release_tasks.core.runner import escape_commands, escape_commands_in_json
from release_tasks.core.streams import open_standard_streams
from release_tasks.tasks.executor.running import caller_of

__all__ = ["StageExit", "StageTask", "UsageExit", "refuse", "stage"]


class StageExit(Exit):
    """The end of a stage with a documented exit code; Invoke's Program prints the message and exits with the code."""


class UsageExit(UsageError, Exit):
    """A UsageError that Invoke's Program prints and turns into exit code 2 by itself."""

    message: str

    def __init__(self, message: str) -> None:
        super().__init__(escape_commands(message))  # Invoke prints it unchanged

    @property
    def code(self) -> int:
        """The exit code for the shell."""
        return int(self.exit_code)


def refuse(message: str, *, as_json: bool = False) -> NoReturn:
    """End the command line with exit code 2; with ``as_json`` also print a document on stdout.

    Raises:
        UsageExit: always.
    """
    open_standard_streams()  # Invoke prints the message
    if as_json:
        document = {"status": "error", "exitCode": int(ExitCode.USAGE), "message": one_line(message)}
        print(escape_commands_in_json(json.dumps(document, indent=2)), flush=True)  # noqa: T201
    raise UsageExit(message)


class _PositionalName(str):
    """A parameter's name that adds the usage to Invoke's message about a missing value."""

    usage: str

    def __format__(self, spec: str) -> str:
        return f"{self!s}; usage: {self.usage}"


class _StageArgument(Argument):
    """A flag that ends the command line with 2 for a bad value, during parsing."""

    def __init__(self, task: StageTask, **options: Any) -> None:
        super().__init__(**options)
        self.task = task

    @property
    def name(self) -> str | None:
        """The parameter's name."""
        plain = super().name
        if plain is None or not self.positional:
            return plain
        name = _PositionalName(plain)
        name.usage = self.task.usage()
        return name

    def set_value(self, value: Any, cast: bool = True) -> None:
        # Only these two are refused here, because shell completion parses incomplete flags. Other values that start
        # with "-" are refused before the stage runs, when --json is known.
        if self.positional and value in ("--help", "-h"):
            self._show_help()
            raise UsageExit(f"{self.task.name}: expected a value, got {value}; usage: {self.task.usage()}")
        try:
            super().set_value(value, cast)
        except ValueError:  # Invoke does not catch int("soon")
            raise UsageExit(
                f"{self.task.name}: --{self.names[0]}: expected a number, got {value!r}; usage: {self.task.usage()}"
            ) from None

    def _show_help(self) -> None:
        """Show the help of the task, as Invoke does for tasks without positional values; raises Exit."""
        program: Program | None = caller_of(Program.parse_tasks)
        if program is None:
            return
        for name in program.parser.contexts:
            if program.collection[name] == self.task:
                program.print_task_help(name)
                raise Exit


class StageTask(Task[Any]):
    """An Invoke task that shares flags with other stages and runs once per command line.

    Args:
        shares: parameters whose given values a stage shares with its pre- and post-tasks that share them too.
        internal: parameters that are not flags; ``invoke.call`` in a pre or post list sets them.

    ``suite_name`` is its dotted name in the suite, None for a task of a project: a project may rename collections.

    Raises:
        ValueError: ``shares`` or ``internal`` names an unknown parameter, or an internal parameter has no default.
    """

    def __init__(
        self,
        body: Callable[..., Any],
        *args: Any,
        shares: Iterable[str] = (),
        internal: Iterable[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(body, *args, **options)
        self.positional = tuple(self.positional)
        self.shares = frozenset(shares)
        self.internal = frozenset(internal)
        self.parameters = self.argspec(body).parameters
        self.suite_name: str | None = None
        unknown = (self.shares | self.internal) - set(self.parameters)
        if unknown:
            raise ValueError(f"{self.name}: no such parameter: {', '.join(sorted(unknown))}")
        for name in self.internal:
            if self.parameters[name].default is inspect.Parameter.empty:
                raise ValueError(f"{self.name}: the internal parameter {name} needs a default")

    # Invoke compares code objects, so all tasks of one factory are equal and its own executor runs only the first.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StageTask):
            return False
        return self.body is other.body and self.name == other.name

    def __hash__(self) -> int:
        return hash((id(self.body), self.name))

    def __deepcopy__(self, memo: object) -> StageTask:
        # Collection.from_module copies every task, but not the tasks in pre and post lists.
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, unless a value looks like a flag or is empty.

        Raises:
            UsageExit: a string value starts with ``-`` or is empty.
        """
        values = self.by_name(args[1:], kwargs)
        problem = self.bad_value(values)
        if problem:
            refuse(problem, as_json=bool(values.get("json")))
        return super().__call__(*args, **kwargs)

    def by_name(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by parameter name."""
        return {**dict(zip(self.parameters, args, strict=False)), **kwargs}

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the command-line arguments, without the internal parameters."""
        texts = self.help.copy()
        arguments = super().get_arguments(ignore_unknown_help)
        self.help = texts  # Invoke empties it; a second parser would show no help
        copied = ("names", "kind", "default", "help", "positional", "optional", "incrementable", "attr_name")
        return [
            _StageArgument(self, **{name: getattr(argument, name) for name in copied})
            for argument in arguments
            if argument.name not in self.internal
        ]

    def flag_name(self, name: str) -> str:
        """Return a parameter as it is typed: ``--health-url``, or ``CODE`` if positional."""
        if name in self.internal:
            return name
        dashed = name.strip("_").replace("_", "-")
        if name in self.positional:
            return dashed.upper()
        return f"-{dashed}" if len(dashed) == 1 else f"--{dashed}"

    def usage(self, called_as: str | None = None) -> str:
        """Return a usage line such as ``pairing.approve CHANNEL CODE [--json]``."""
        words = [called_as or self.name, *(self.flag_name(name) for name in self.positional)]
        for name, parameter in self.parameters.items():
            if name not in self.internal and name not in self.positional:
                takes_value = not isinstance(parameter.default, bool)
                words.append(f"[{self.flag_name(name)}{' VALUE' if takes_value else ''}]")
        return " ".join(words)

    def bad_value(self, values: Mapping[str, Any], called_as: str | None = None) -> str | None:
        """Return the message that refuses the first value which starts with ``-`` or is empty, or None.

        Invoke takes any word after a task as its positional value, even ``--force``. An empty value comes from a
        variable that is not set (``--snapshot "$ID"``), and must not stand for the default.
        """
        for name, value in values.items():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(item, str) or (item.strip() and not item.startswith("-")):
                    continue
                problem = f"a value may not start with '-', got {item!r}" if item.strip() else "the value is empty"
                where = f"{called_as or self.name}: {self.flag_name(name)}"
                return f"{where}: {problem}; usage: {self.usage(called_as)}"
        return None


def stage(
    *, shares: Iterable[str] = (), internal: Iterable[str] = (), **options: Any
) -> Callable[[Callable[..., Any]], StageTask]:
    """Return a decorator that makes a StageTask; like ``invoke.task``, with help for ``--json`` and no short flags."""

    def decorate(body: Callable[..., Any]) -> StageTask:
        texts = dict(options.get("help", {}))
        if "json" in inspect.signature(body).parameters:
            texts.setdefault("json", "Print exactly one JSON document on stdout.")
        settings = {"auto_shortflags": False, **options, "help": texts}
        return StageTask(body, shares=shares, internal=internal, **settings)

    return decorate
