"""The hooks of a rollback: the command that stops the service before the safety copy, and the one that starts it."""

from __future__ import annotations

import threading
from pathlib import Path

from release_tasks.config.schema import Settings
from release_tasks.core.events import Emit, Noted, StepBegan
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.process.command import CommandProcess, CommandResult, supervise, tool_environment
from release_tasks.core.process.output import OutputLog
from release_tasks.core.redact import Redactor
from release_tasks.core.typed import typed
from release_tasks.stages.rollback.restart import Restart, start_detached

__all__ = ["NO_RESTART", "ServiceHooks"]

NO_RESTART = "The service is stopped (release.restart.stop), and no restart command is set. Start it."


class ServiceHooks:
    """The stop and the restart command of one rollback; their output goes to the folder ``logs``.

    ``is_stopped`` is True from the start of the stop command until the restart command is started. ``problem`` is the
    reason why the stop command failed, as whole sentences, or an empty text.
    """

    def __init__(self, settings: Settings, logs: Path, emit: Emit) -> None:
        self._settings = settings
        self._config = settings.release.restart
        self._logs = logs
        self._emit = emit
        self.stop_command: str | None = None
        self.is_stopped = False
        self.problem = ""
        self._restart: Restart | None = None

    def stop(self) -> bool:
        """Run the stop command once, if one is configured, and return whether it ran now.

        Its failure is a ``problem`` and never an error: the release that is rolled back may have broken it.
        """
        command, timeout = self._config.stop, self._config.stop_timeout
        if command is None or self.stop_command is not None:
            return False
        redactor = Redactor.of_process()
        shown = redactor.redact_text(command)
        self._emit(StepBegan("stop", shown))
        self.stop_command, self.is_stopped = shown, True
        path = self._logs / "stop.log"
        log = OutputLog(path, redactor)
        try:
            result = self._run(command, timeout, log)
            reason = "" if result.succeeded else result.describe(command, timeout, log.tail())
        except (OSError, ValueError) as error:
            log.close()
            reason = f"cannot be started: {getattr(error, 'strerror', None) or error}"
        if reason:
            if output := " | ".join(line.strip() for line in log.tail()[-3:]):
                reason += f": {output}"
            self.problem = (
                f"The stop command {shown!r} failed: {reason}. The service may still run, "
                "and a process that holds its state in memory may write it back over the restored state. "
                f"{log.problem or f'Its output is in {path}'}."
            )
            self._emit(Noted(self.problem))
        return True

    def _run(self, command: str, timeout: float, log: OutputLog) -> CommandResult:
        process: CommandProcess | None = None
        try:
            with uninterrupted():  # a signal right after the start must not leave the command running
                process = CommandProcess(command, cwd=self._settings.project, environment=tool_environment())
            return supervise(process, log, timeout, threading.Event())
        finally:
            if process is not None:
                process.kill_remaining(0.0)
                process.reap()

    def start(self) -> Restart | None:
        """Start the restart command, detached; return None when there is none. Raises OSError."""
        command = self._config.command
        if command is None:
            return None
        self._emit(StepBegan("restart"))
        log = self._logs / "restart.log"
        url = next((question.url for question in self._settings.release.questions), None)
        was_stopped, self.is_stopped = self.is_stopped, False  # a signal while it is observed must not start it twice
        try:
            self._restart = start_detached(
                command, project=self._settings.project, log=log, settle=self._config.settle, url=url
            )
            return self._restart
        except OSError:
            self.is_stopped = was_stopped
            raise

    def finish(self) -> None:
        """Mask the rest of the output of the restart command; the service may write more."""
        if self._restart is not None:
            self._restart.finish()

    def start_again(self) -> str:
        """Start the service after a rollback that changed nothing or was undone, and return a message about it."""
        try:
            restart = self.start()
        except OSError as error:
            return f"The service is stopped and could not be started again: {error.strerror or error}. Start it."
        if restart is None:
            return NO_RESTART
        if restart.failed:
            return f"The service was stopped and could not be started again. {restart.explain()} Start it."
        check = typed("release.diagnose")
        return f"The service was stopped and is started again with {restart.command!r}. Check it: {check}"
