"""Invoke adapter: stages are tasks whose flags and results travel along pre/post edges.

Chosen by ``tasks.executor_class: release_tasks.executor.StageExecutor`` in invoke.yaml. Imports
nothing but Invoke and the standard library, so that ``inv --list`` stays fast.
"""

from __future__ import annotations

from typing import Any

from invoke import AmbiguousEnvVar, Call, Executor, Exit, Task, UncastableEnvVar
from invoke.parser import ParserContext

from release_tasks.core.errors import ExitCode, Interrupted, UsageError
from release_tasks.tasks.executor.ledger import ledger_of_run, recall, record, runs_under_stage_executor
from release_tasks.tasks.executor.plan import Plan, StageCall
from release_tasks.tasks.executor.task import StageTask, UsageExit, refuse, stage

__all__ = [
    "StageExecutor",
    "StageTask",
    "UsageExit",
    "recall",
    "record",
    "refuse",
    "runs_under_stage_executor",
    "stage",
]


class StageExecutor(Executor):
    """Runs each stage once per command line, with the flags typed on the stages around it.

    Plain tasks keep Invoke's own rules.
    """

    wants_json = False

    def execute(self, *tasks: str | tuple[str, dict[str, Any]] | ParserContext) -> dict[Task[Any], Any]:
        """Run the tasks; what ``Executor.execute`` takes and returns.

        Raises:
            UsageExit: typed values contradict each other or cannot be; nothing ran.
            Exit: with code 130 or 143, a signal ended the run.
        """
        with ledger_of_run(self.config):
            try:
                self._try_environment()
                return super().execute(*tasks)
            except (AmbiguousEnvVar, UncastableEnvVar) as error:
                refuse(f"environment: {error}", as_json=self.wants_json)
            except KeyboardInterrupt:  # which Program.run would turn into exit code 1
                raise Exit(code=int(ExitCode.SIGINT)) from None
            except Interrupted as stop:
                raise Exit(code=int(stop.exit_code)) from None

    def _try_environment(self) -> None:
        # Invoke casts INVOKE_* variables by the type of the value they replace, and lets int("soon") through.
        try:
            self.config.load_shell_env()
        except ValueError as error:
            refuse(f"environment: an INVOKE_* variable does not fit its key: {error}", as_json=self.wants_json)
        except TypeError:
            # It makes a variable's name of every key, and YAML reads a bare on or yes, or digits, as something else.
            path = _key_that_is_no_text(self.config)
            if path is None:
                raise
            why = "YAML reads a bare on, off, yes or no as true or false, and digits as a number"
            refuse(f"configuration: {path}: a key that is not text; {why}", as_json=self.wants_json)

    def normalize(self, tasks: tuple[str | tuple[str, dict[str, Any]] | ParserContext, ...]) -> list[Call]:
        """Make calls of what was asked for, and remember what of it was typed."""
        calls = super().normalize(tasks)
        asked = tasks or ("",) * len(calls)  # a collection's default task was not asked for
        return [
            StageCall(call.task, call.called_as, call.args, call.kwargs, _typed(what), is_direct=True)
            if isinstance(call.task, StageTask)
            else call
            for call, what in zip(calls, asked, strict=True)
        ]

    def expand_calls(self, calls: list[Call]) -> list[Call]:
        """Add pre- and post-tasks, and merge all calls of one stage.

        Done here and not in ``dedupe``, which ``--no-dedupe`` leaves out: a release that is
        prepared or rolled back twice by one command line is never what was meant.
        """
        plan = Plan(calls, self.label)
        self.wants_json = plan.wants_json
        try:
            plan.settle()
        except UsageError as error:
            refuse(error.message, as_json=self.wants_json)
        return plan.in_order()

    def label(self, stage: StageTask) -> str:
        """The dotted name of a stage, also of one that only a pre or post list mentions."""
        for name in self.collection.task_names:
            if self.collection[name] == stage:
                return name
        return stage.name


def _key_that_is_no_text(tree: Any, above: str = "") -> str | None:
    """Return the dotted path of the first key that Invoke cannot make a name of, if there is one."""
    for key, value in tree.items():
        if not isinstance(key, str):
            return f"{above}{key}"
        found = _key_that_is_no_text(value, f"{above}{key}.") if hasattr(value, "items") else None
        if found is not None:
            return found
    return None


def _typed(asked: str | tuple[str, dict[str, Any]] | ParserContext) -> dict[str, Any]:
    """The arguments that somebody spelled out, without those that are only defaults."""
    if isinstance(asked, str):
        return {}
    if not isinstance(asked, ParserContext):
        return dict(asked[1])
    return {
        argument.name: argument.value
        for argument in asked.args.values()
        # A counting flag starts out as its default, and so always "got" a value.
        if argument.got_value and not (argument.incrementable and argument.value == argument.default)
    }
