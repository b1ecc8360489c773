"""A command from its start to its end: its output into a log, its time kept, nothing of it left running."""

from __future__ import annotations

import re
import signal
import threading
import time

from attrs import frozen

from release_tasks.core.process.command import CommandProcess
from release_tasks.core.process.output import OutputLog
from release_tasks.core.units import show_duration

__all__ = ["CommandResult", "signal_name", "supervise"]

_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_GRACE_CANCELLED = 0.5
_PATIENCE = 0.5  # seconds for what the command left behind
_STEP = 0.05
_READS_TO_DRAIN = 8  # empties a pipe that nobody fills any more
_NOT_FOUND = re.compile(r"([^\s:'\"\u2018]+)['\"\u2019]?: (?:(?:command )?not found|No such file or directory)$")
_NOT_EXECUTABLE = re.compile(r"([^\s:]+): (?:Permission denied|[Cc]annot execute.*|Exec format error)$")


@frozen(kw_only=True)
class CommandResult:
    """How a command ended. ``code`` is negative for a signal, ``left_behind`` counts processes."""

    code: int
    is_timed_out: bool
    is_cancelled: bool
    is_status_lost: bool
    is_output_held: bool
    left_behind: int

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself, with exit code 0."""
        return self.code == 0 and not (self.is_timed_out or self.is_cancelled or self.is_status_lost)

    @property
    def cannot_begin(self) -> bool:
        """Whether the shell found no such program, or none that it may execute: another try gives the same."""
        return self.code in (126, 127)

    def describe(self, command: str, timeout: float, tail: list[str]) -> str:
        """Say how ``command`` ended, and what it left; ``tail`` is the end of its output."""
        sentence = _outcome(self, command, timeout, tail)
        if self.left_behind:
            processes = "1 process" if self.left_behind == 1 else f"{self.left_behind} processes"
            sentence += f"; it left {processes} running, ended now"
        if self.is_output_held:
            sentence += "; something it started still holds its output open"
        return sentence


def supervise(
    process: CommandProcess, log: OutputLog, timeout: float, cancelled: threading.Event, patience: float = _PATIENCE
) -> CommandResult:
    """Read the output until the command has ended, or ``timeout`` seconds are over, or it is cancelled.

    Its whole group gets SIGTERM then, and SIGKILL a moment later. What a command that ended by itself left running has
    ``patience`` seconds more. The log is closed and the process reaped.
    """
    try:
        is_timed_out = is_cancelled = False
        deadline = time.monotonic() + timeout
        patience_ends: float | None = None
        kill_at: float | None = None
        while True:
            log.write(process.read(_STEP if not process.is_at_end else _STEP / 5))
            now = time.monotonic()
            if process.has_exited():
                patience_ends = patience_ends or now + patience
                if process.is_at_end or now >= patience_ends:
                    break
            elif kill_at is None:
                is_cancelled = cancelled.is_set()
                is_timed_out = not is_cancelled and now >= deadline
                if is_cancelled or is_timed_out:
                    process.signal(signal.SIGTERM)
                    kill_at = now + (_GRACE_CANCELLED if is_cancelled else _GRACE)
            elif now >= kill_at:
                break
        is_stopped = is_timed_out or is_cancelled
        left = 0.0 if is_stopped else max((patience_ends or 0.0) - time.monotonic(), 0.0)
        left_behind = process.end_rest(left)
        for _ in range(_READS_TO_DRAIN):
            log.write(process.read(0.0))
        log.close()
        return CommandResult(
            code=process.reap(),
            is_timed_out=is_timed_out,
            is_cancelled=is_cancelled,
            is_status_lost=process.is_status_lost,
            is_output_held=not process.is_at_end,
            left_behind=0 if is_stopped else left_behind,
        )
    finally:
        process.end_rest(0.0)
        process.reap()


def _outcome(run: CommandResult, command: str, timeout: float, tail: list[str]) -> str:
    if run.is_cancelled:
        return "stopped before it had a result"
    if run.is_timed_out:
        return f"no result after {show_duration(timeout)} (timeout); it was ended"
    if run.is_status_lost:
        return "its exit code was lost, because this process ignores SIGCHLD"
    if run.code < 0:
        return f"ended by {signal_name(-run.code)}"
    if run.code == 127:
        return f"command not found: {_named_in(_NOT_FOUND, tail, command)} (exit code 127)"
    if run.code == 126:
        return f"cannot be executed: {_named_in(_NOT_EXECUTABLE, tail, command)} (exit code 126)"
    if 128 < run.code < 128 + 32:
        return f"exit code {run.code}, as after {signal_name(run.code - 128)}"
    return f"exit code {run.code}"


def signal_name(number: int) -> str:
    """Return a signal as the manuals name it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _named_in(pattern: re.Pattern[str], tail: list[str], command: str) -> str:
    """Return the program that the shell complains about, or else the command's first word."""
    for line in reversed(tail):
        if match := pattern.search(line):
            return match[1]
    return next(iter(command.split()), command)
