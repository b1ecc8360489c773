"""The form in which the commands of this command line are typed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from invoke import Collection, Executor, Program

from release_tasks.core.typed import Form
from release_tasks.tasks.executor.running import caller_of
from release_tasks.tasks.executor.task import StageTask

__all__ = ["form_of_run"]

# The options of Invoke and of release-tasks without which the same project would not be found, or would be another one.
_PROJECT_OPTIONS = {"collection": "-c", "search-root": "-r", "config": "-f", "project": "--project"}


def form_of_run() -> Form:
    """Return the form for the task that runs now; that of ``inv`` where Invoke does not run it."""
    executor, program = caller_of(Executor.execute), caller_of(Program.execute)
    names = None if executor is None else _names_in(executor.collection)
    if program is None:
        return Form(names=names)
    options = _given_options(program)
    root = options.get("--project", options.get("-r"))
    others = {"--project": root, "-f": options.get("-f")}
    return Form(
        program=(_binary(program), *_words(options)),
        names=names,
        fallback=("release-tasks", *_words({flag: value for flag, value in others.items() if value is not None})),
    )


def _names_in(collection: Collection) -> Mapping[str, str]:
    """Return the name that each task of the suite has in the collection of the project."""
    names: dict[str, str] = {}
    for name in collection.task_names:
        task = collection[name]
        if isinstance(task, StageTask) and task.suite_name is not None:
            names.setdefault(task.suite_name, name)
            if name == task.suite_name:  # a task may be there under several names
                names[name] = name
    return names


def _binary(program: Program) -> str:
    names = program.binary_names
    # ``python -m invoke`` is called __main__.py.
    return program.called_as if program.called_as in names else names[-1]


def _given_options(program: Program) -> dict[str, str]:
    arguments: Mapping[str, Any] = program.args
    given = {flag: arguments[name].value for name, flag in _PROJECT_OPTIONS.items() if name in arguments}
    return {flag: os.fspath(value) for flag, value in given.items() if value}


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for flag, value in options.items() for word in (flag, value)]
