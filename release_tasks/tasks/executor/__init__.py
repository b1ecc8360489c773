"""Invoke adapter: stages are tasks that share flags and results with their pre- and post-tasks.

invoke.yaml selects it with ``tasks.executor_class: release_tasks.executor.StageExecutor``. It imports only Invoke and
the standard library, so that ``inv --list`` stays fast.
"""

from __future__ import annotations

import contextlib
from typing import Any

from invoke import AmbiguousEnvVar, Call, Executor, Exit, Task, UncastableEnvVar
from invoke.parser import ParserContext

from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.tasks.executor.chain import Chain
from release_tasks.tasks.executor.ledger import Achieved, ledger_of_run, recall, record, runs_under_stage_executor
from release_tasks.tasks.executor.plan import Plan, StageCall
from release_tasks.tasks.executor.task import StageExit, StageTask, UsageExit, refuse, stage

__all__ = [
    "Achieved",
    "StageExecutor",
    "StageExit",
    "StageTask",
    "UsageExit",
    "recall",
    "record",
    "refuse",
    "runs_under_stage_executor",
    "stage",
]


class StageExecutor(Executor):
    """Runs each stage once per command line, with the flags given to the stages that share them.

    Other tasks follow Invoke's own rules, except how they end a command line that has a stage (see ``Chain``).
    """

    has_json = False

    def execute(self, *tasks: str | tuple[str, dict[str, Any]] | ParserContext) -> dict[Task[Any], Any]:
        """Run the tasks; parameters and result are those of ``Executor.execute``.

        Raises:
            UsageExit: given values are invalid or contradict each other; nothing ran.
            Exit: a signal ended the run (128 plus its number), or a task of the project failed after or before a
                stage (1).
        """
        with ledger_of_run(self.config):
            try:
                self._check_environment()
                with contextlib.ExitStack() as self._frame:
                    return super().execute(*tasks)
            except (AmbiguousEnvVar, UncastableEnvVar) as error:
                refuse(f"environment: {error}", as_json=self.has_json)
            except KeyboardInterrupt:  # Program.run would turn it into exit code 1
                raise Exit("Interrupted by SIGINT.", code=int(ExitCode.SIGINT)) from None

    def _check_environment(self) -> None:
        # Invoke casts INVOKE_* variables to the type of the value that they replace, without catching ValueError.
        try:
            self.config.load_shell_env()
        except ValueError as error:
            refuse(f"environment: an INVOKE_* variable does not fit its key: {error}", as_json=self.has_json)
        except TypeError:
            # Invoke makes a variable name of every key, and YAML reads on, yes or digits as other types than text.
            path = _non_text_key(self.config)
            if path is None:
                raise
            why = "YAML reads a bare on, off, yes or no as true or false, and digits as a number"
            refuse(f"configuration: {path}: a key that is not text; {why}", as_json=self.has_json)

    def normalize(self, tasks: tuple[str | tuple[str, dict[str, Any]] | ParserContext, ...]) -> list[Call]:
        """Return the calls of the command line, with the arguments that were given explicitly."""
        calls = super().normalize(tasks)
        requested = tasks or ("",) * len(calls)  # a collection's default task has no arguments
        return [
            StageCall(call.task, call.called_as, call.args, call.kwargs, _given(request), is_direct=True)
            if isinstance(call.task, StageTask)
            else call
            for call, request in zip(calls, requested, strict=True)
        ]

    def expand_calls(self, calls: list[Call]) -> list[Call]:
        """Add pre- and post-tasks, and merge all calls of one stage.

        This happens here and not in ``dedupe``, which ``--no-dedupe`` skips: one command line must never prepare a
        release or roll back twice.
        """
        plan = Plan(calls, self.label)
        self.has_json = plan.has_json
        try:
            plan.resolve()
        except UsageError as error:
            refuse(error.message, as_json=self.has_json)
        if not plan.stages:
            return plan.in_order()
        chain = Chain(self.config, plan.in_order(), self.label, has_json=plan.has_json)
        self._frame.enter_context(chain.frame())
        return chain.calls

    def label(self, task: Task[Any]) -> str:
        """Return the dotted name of a task, even if only a pre or post list mentions it."""
        for name in self.collection.task_names:
            if self.collection[name] == task:
                return name
        return str(task.name)


def _non_text_key(tree: Any, above: str = "") -> str | None:
    """Return the dotted path of the first key that is not text, or None."""
    for key, value in tree.items():
        if not isinstance(key, str):
            return f"{above}{key}"
        found = _non_text_key(value, f"{above}{key}.") if hasattr(value, "items") else None
        if found is not None:
            return found
    return None


def _given(request: str | tuple[str, dict[str, Any]] | ParserContext) -> dict[str, Any]:
    """Return the arguments that were given explicitly, without defaults."""
    if isinstance(request, str):
        return {}
    if not isinstance(request, ParserContext):
        return dict(request[1])
    return {
        argument.name: argument.value
        for argument in request.args.values()
        # A counting flag starts as its default, so Invoke reports that it always got a value.
        if argument.got_value and not (argument.incrementable and argument.value == argument.default)
    }
