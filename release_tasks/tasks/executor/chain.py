"""A command line with a stage in it: how it ends when a task of the project fails, or when a signal arrives."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from invoke import Call, Config, Exit, Task, UnexpectedExit

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import signals_handled_by
from release_tasks.core.streams import error_tolerant, open_standard_streams
from release_tasks.tasks.executor.ledger import Achieved, achieved_in
from release_tasks.tasks.executor.task import StageExit, StageTask, UsageExit

if TYPE_CHECKING:
    from release_tasks.core.process.started import StartedProcesses

__all__ = ["Chain"]

# Seconds from a signal until the processes of a task are killed. GitHub Actions kills a cancelled step after 10.
_GRACE_PERIOD = 8.0
# Seconds after Interrupted was raised in which further signals are dropped: it passes through code of the project. A
# later signal raises it again, because the runner of Invoke waits for a daemon that has kept its output open.
_UNWINDING_SECONDS = 1.0


@dataclass(frozen=True)
class _Ending:
    """How a task ended the line: a sentence, the exit code of the line, and the task's own exit code if it had one.

    With ``keeps_error``, the error that was raised is raised again.
    """

    reason: str
    exit_code: int
    task_code: int | None = None
    keeps_error: bool = False


class Chain:
    """The calls of one command line, in order. ``label`` returns the name of a task.

    Exit codes other than 0 and 1 are those of the stages: a task of the project that fails ends the line with 1. A
    signal during such a task is passed on to the processes that the task started, and ends the line.
    """

    def __init__(
        self, config: Config, calls: list[Call], label: Callable[[Task[Any]], str], *, has_json: bool = False
    ) -> None:
        self._config = config
        self._label = label
        self._has_json = has_json
        self.calls = [self._followed(call) for call in calls]
        self._waiting = list(self.calls)
        self._current: Call | None = None
        self._while_current = contextlib.ExitStack()
        self._processes: StartedProcesses | None = None  # of the current task, if it is a task of the project
        self._achieved_before: Achieved | None = None  # by the tasks before the current one
        self._signal: signal.Signals | None = None
        self._raised_at = float("-inf")
        self._is_over = False
        self._is_ending_processes = False

    @contextlib.contextmanager
    def frame(self) -> Iterator[None]:
        """Handle signals while the block runs the calls, and raise Exit for a call that fails or is stopped."""
        open_standard_streams()
        with signals_handled_by(self._stop), self._while_current:
            try:
                yield
                self._raise_if_stopped()
            except BaseException as error:
                self._is_over = True
                ending = self._ending(error)
                if ending is None:
                    if self._is_foreign:
                        _show(self._not_run())
                    raise
                self._conclude(error, ending)
                if ending.keeps_error:
                    raise
                raise Exit(code=ending.exit_code) from None

    def _followed(self, call: Call) -> Call:
        """Return the call with a hook: Invoke makes the context of a call right before it runs the task."""
        if not isinstance(call.task, StageTask):
            call = call.clone()  # pre and post lists keep their calls for the next run
        make_context = call.make_context

        def begin(*args: Any, **kwargs: Any) -> Any:
            self._begin(call)
            return make_context(*args, **kwargs)

        vars(call)["make_context"] = begin
        return call

    def _begin(self, call: Call) -> None:
        self._processes = None
        self._while_current.close()
        self._raise_if_stopped()
        self._current, self._achieved_before = call, achieved_in(self._config)
        self._waiting = [other for other in self._waiting if other is not call]
        if not isinstance(call.task, StageTask):
            from release_tasks.core.process.started import started_processes

            self._processes = self._while_current.enter_context(started_processes())

    def _raise_if_stopped(self) -> None:
        """Raise Interrupted if a task of the project has caught the one that a signal raised."""
        if self._signal is not None:
            raise Interrupted(ExitCode.of_signal(self._signal))

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on to the processes of the current task, wait until they have ended, and raise Interrupted.

        They end before the exception is raised: the runner of Invoke handles it, and waits for their output.
        """
        if self._is_over or time.monotonic() - self._raised_at < _UNWINDING_SECONDS:
            return
        if self._is_ending_processes:
            if self._processes is not None:
                self._processes.pass_on(signal.Signals(number))
            return
        grace_period = _GRACE_PERIOD if self._signal is None else 0.0
        self._signal = self._signal or signal.Signals(number)
        if self._processes is not None:
            self._is_ending_processes = True
            try:
                self._end_processes(self._processes, signal.Signals(number), grace_period)
            finally:
                self._is_ending_processes = False
        self._raised_at = time.monotonic()
        self._raise_if_stopped()

    def _end_processes(self, processes: StartedProcesses, number: signal.Signals, grace_period: float) -> None:
        if count := processes.pass_on(number):
            waiting = "1 process" if count == 1 else f"{count} processes"
            message = (
                f"{self._name}: {number.name} was passed on to {waiting}; killed if running in {grace_period:g} s."
            )
            # Not print: the signal may have interrupted another one, and a stream cannot be entered twice.
            with contextlib.suppress(OSError):
                os.write(2, f"{message}\n".encode())
        processes.terminate(grace_period, with_sigterm=False)

    @property
    def _is_foreign(self) -> bool:
        return self._current is not None and not isinstance(self._current.task, StageTask)

    @property
    def _name(self) -> str:
        return self._name_of(self._current) if self._current is not None else "The command line"

    def _name_of(self, call: Call) -> str:
        return call.called_as or self._label(call.task)

    def _not_run(self) -> list[str]:
        return [f"Not run: {', '.join(map(self._name_of, self._waiting))}."] if self._waiting else []

    def _ending(self, error: BaseException) -> _Ending | None:
        """Return how ``error`` ends the line, or None when it stays as it is."""
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            code = error.exit_code if isinstance(error, Interrupted) else ExitCode.SIGINT
            return _Ending(f"{self._name} was stopped by {code.name}.", code)
        if isinstance(error, StageExit) and error.code >= ExitCode.of_signal(signal.SIGHUP):
            reason = f"{self._name} was stopped by {ExitCode(error.code).name}."
            return _Ending(reason, error.code, keeps_error=True)
        if not self._is_foreign:
            return None
        if isinstance(error, (StageExit, UsageExit)):  # of a stage that the task called
            reason = f"{self._name} ended with exit code {error.code} of a stage in it."
            return _Ending(reason, error.code, error.code, keeps_error=True)
        return _ending_of_foreign(self._name, error)

    def _conclude(self, error: BaseException, ending: _Ending) -> None:
        """Show how the line ended, and record it when a stage had changed something before."""
        lines = [] if ending.keeps_error else _output_of(error)
        if self._is_foreign or not isinstance(error, StageExit):  # a stage of the line has explained it
            lines.append(ending.reason)
        lines += self._not_run()
        achieved = achieved_in(self._config) if self._waiting or self._is_foreign else self._achieved_before
        if achieved is None:
            _show(lines)
            return
        _show([*lines, f"{achieved.sentence} To roll back: {achieved.rollback_command}"])
        from release_tasks.tasks.executor.broken import BrokenChain, record_broken_chain

        broken = BrokenChain(
            task=self._name,
            reason=ending.reason,
            task_code=ending.task_code,
            exit_code=ending.exit_code,
            achieved=achieved,
        )
        record_broken_chain(self._config, broken, has_json=self._has_json)


def _ending_of_foreign(name: str, error: BaseException) -> _Ending | None:
    """Return how an error of a task of the project ends the line; None when it ends it with 0.

    The traceback of an exception belongs to the author of the task: Python prints it and exits with 1.
    """
    code: object
    if isinstance(error, UnexpectedExit):
        code = error.result.exited
    elif isinstance(error, (Exit, SystemExit)):
        code = error.code
        if not code:
            return None
    else:
        return _Ending(f"{name} ended with {type(error).__name__}.", ExitCode.NEGATIVE, keeps_error=True)
    number = int(code) if isinstance(code, int) else 1  # sys.exit("text") prints the text and exits with 1
    what = f"exit code {number}" if number >= 0 else _signal_name(-number)
    return _Ending(f"{name} ended with {what}.", ExitCode.NEGATIVE, number)


def _output_of(error: BaseException) -> list[str]:
    """Return what Invoke or Python would print for an error that another one replaces."""
    if isinstance(error, UnexpectedExit):
        return [str(error).rstrip()] if error.result.hide else []
    text = error.message if isinstance(error, Exit) else error.code if isinstance(error, SystemExit) else None
    return [text] if isinstance(text, str) else []


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _show(lines: list[str]) -> None:
    """Write lines to stderr; a terminal that is gone changes no exit code."""
    from release_tasks.report.screen import wrapped_for_stderr

    stream = error_tolerant(sys.stderr)
    for line in lines:
        print(wrapped_for_stderr(line, os.environ), file=stream, flush=True)
