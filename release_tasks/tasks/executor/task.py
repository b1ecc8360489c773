"""A stage as an Invoke task: what it declares, and the values it refuses."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from invoke import Argument, Exit, Task

from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.core.printable import printable
from release_tasks.core.runner import escape_commands, escape_commands_in_json

__all__ = ["StageTask", "UsageExit", "refuse", "stage"]


class UsageExit(UsageError, Exit):
    """A UsageError that Invoke's Program prints and turns into exit code 2 by itself."""

    message: str

    def __init__(self, message: str) -> None:
        super().__init__(escape_commands(printable(message)))  # Invoke prints it as it is

    @property
    def code(self) -> int:
        """The exit code for the shell."""
        return int(self.exit_code)


def refuse(message: str, *, as_json: bool = False) -> NoReturn:
    """End the command line with exit code 2, ``as_json`` with one document on stdout too.

    Raises:
        UsageExit: always.
    """
    if as_json:
        document = {"status": "error", "exitCode": int(ExitCode.USAGE), "message": message}
        print(escape_commands_in_json(json.dumps(document, indent=2)), flush=True)  # noqa: T201
    raise UsageExit(message)


class _PositionalName(str):
    """A parameter's name, which says what to type where Invoke complains that its value is missing."""

    usage: str

    def __format__(self, spec: str) -> str:
        return f"{self!s}; usage: {self.usage}"


class _StageArgument(Argument):
    """A flag whose bad value ends with 2 while the command line is still being parsed."""

    def __init__(self, task: StageTask, **options: Any) -> None:
        super().__init__(**options)
        self.usage = task.usage()
        self.task_name = task.name

    @property
    def name(self) -> str | None:
        """The parameter's name."""
        plain = super().name
        if plain is None or not self.positional:
            return plain
        spelled = _PositionalName(plain)
        spelled.usage = self.usage
        return spelled

    def set_value(self, value: Any, cast: bool = True) -> None:
        # Only these two are refused here: shell completion parses half-typed flags, and what
        # else starts with "-" is refused before the stage runs, when --json is known.
        if self.positional and value in ("--help", "-h"):
            raise UsageExit(f"{self.task_name}: {value} stands where a value is expected; usage: {self.usage}")
        try:
            super().set_value(value, cast)
        except ValueError:  # Invoke lets int("soon") through to the shell as a traceback
            raise UsageExit(
                f"{self.task_name}: --{self.names[0]}: expected a number, got {value!r}; usage: {self.usage}"
            ) from None


class StageTask(Task[Any]):
    """An Invoke task that shares flags with other stages and runs once per command line.

    Args:
        shares: parameters whose typed values travel along pre/post edges, both ways, between
            stages that both share them.
        internal: parameters that are no flags; ``invoke.call`` in a pre or post list sets them.

    Raises:
        ValueError: ``shares`` or ``internal`` names no parameter, or an internal one lacks a
            default.
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
        unknown = (self.shares | self.internal) - set(self.parameters)
        if unknown:
            raise ValueError(f"{self.name}: no such parameter: {', '.join(sorted(unknown))}")
        for name in self.internal:
            if self.parameters[name].default is inspect.Parameter.empty:
                raise ValueError(f"{self.name}: the internal parameter {name} needs a default")

    # Invoke compares code objects, so that the tasks of one factory are all equal and the stock
    # executor drops every one but the first.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StageTask):
            return False
        return self.body is other.body and self.name == other.name

    def __hash__(self) -> int:
        return hash((id(self.body), self.name))

    def __deepcopy__(self, memo: object) -> StageTask:
        # Collection.from_module copies every task, but not those in pre and post lists.
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, unless a value looks like a flag.

        Raises:
            UsageExit: a string value starts with ``-``.
        """
        values = self.by_name(args[1:], kwargs)
        problem = self.flaglike_value(values)
        if problem:
            refuse(problem, as_json=bool(values.get("json")))
        return super().__call__(*args, **kwargs)

    def by_name(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as a call gives them, positional ones under their parameter's name."""
        return {**dict(zip(self.parameters, args, strict=False)), **kwargs}

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """The command-line arguments, without the internal parameters."""
        texts = self.help.copy()
        arguments = super().get_arguments(ignore_unknown_help)
        self.help = texts  # Invoke empties it, and a second parser would show no help
        taken = ("names", "kind", "default", "help", "positional", "optional", "incrementable", "attr_name")
        return [
            _StageArgument(self, **{name: getattr(argument, name) for name in taken})
            for argument in arguments
            if argument.name not in self.internal
        ]

    def spelled(self, name: str) -> str:
        """A parameter as an operator types it: ``--health-url``, or ``CODE`` if positional."""
        if name in self.internal:
            return name
        dashed = name.strip("_").replace("_", "-")
        if name in self.positional:
            return dashed.upper()
        return f"-{dashed}" if len(dashed) == 1 else f"--{dashed}"

    def usage(self, called_as: str | None = None) -> str:
        """One line such as ``pairing.approve CHANNEL CODE [--json]``."""
        words = [called_as or self.name, *(self.spelled(name) for name in self.positional)]
        for name, parameter in self.parameters.items():
            if name not in self.internal and name not in self.positional:
                takes_value = not isinstance(parameter.default, bool)
                words.append(f"[{self.spelled(name)}{' VALUE' if takes_value else ''}]")
        return " ".join(words)

    def flaglike_value(self, values: Mapping[str, Any], called_as: str | None = None) -> str | None:
        """The sentence that refuses the first value which starts with ``-``, if there is one.

        Invoke hands over what follows a task as its positional value, even ``--help``.
        """
        for name, value in values.items():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, str) and item.startswith("-"):
                    return (
                        f"{called_as or self.name}: {self.spelled(name)}: a value may not start "
                        f"with '-', got {item!r}; usage: {self.usage(called_as)}"
                    )
        return None


def stage(
    *, shares: Iterable[str] = (), internal: Iterable[str] = (), **options: Any
) -> Callable[[Callable[..., Any]], StageTask]:
    """Decorator that makes a StageTask; takes what ``invoke.task`` takes, knows ``--json``, and has no short flags."""

    def decorate(body: Callable[..., Any]) -> StageTask:
        texts = dict(options.get("help", {}))
        if "json" in inspect.signature(body).parameters:
            texts.setdefault("json", "Print exactly one JSON document on stdout.")
        settings = {"auto_shortflags": False, **options, "help": texts}
        return StageTask(body, shares=shares, internal=internal, **settings)

    return decorate
