"""Invoke adapter: stages are tasks that share flags and results with their pre- and post-tasks.

invoke.yaml selects it with ``tasks.executor_class: release_tasks.executor.StageExecutor``. It imports only Invoke and
the standard library, so that ``inv --list`` stays fast.
"""

from __future__ import annotations

import contextlib
from typing import Any, cast

from invoke import Call, Executor, Exit, Task
from invoke.parser import ParserContext

from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.tasks.executor.chain import Chain
from release_tasks.tasks.executor.ledger import Achieved, ledger_of_run, recall, record, runs_under_stage_executor
from release_tasks.tasks.executor.plan import Plan, StageCall
from release_tasks.tasks.executor.task import StageExit, StageTask, UsageExit, refuse, stage
from release_tasks.tasks.sources.environment import ENVIRONMENT_ERRORS, StageConfig, describe_environment_error

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
        self.has_json = any(isinstance(each, ParserContext) and _given(each).get("json") for each in tasks)
        self.config = config = cast(StageConfig, self.config.clone(into=StageConfig))
        with ledger_of_run(config):
            try:
                self._check_environment(config)
                with contextlib.ExitStack() as self._frame:
                    return super().execute(*tasks)
            except KeyboardInterrupt:  # Program.run would turn it into exit code 1
                raise Exit("Interrupted by SIGINT.", code=int(ExitCode.SIGINT)) from None

    def _check_environment(self, config: StageConfig) -> None:
        # Invoke reads the variables once more before each task, where their errors could come from the task itself.
        try:
            config.load_shell_env()
        except ENVIRONMENT_ERRORS as error:
            problem = describe_environment_error(config.foreign, error)
            if problem is None:
                raise
            refuse(problem, as_json=self.has_json)

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
