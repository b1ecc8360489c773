"""A shell command with everything it starts: watched, stopped and cleaned up as one, nothing of it left running."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from attrs import frozen

from release_tasks.core.process.find import MarkedProcesses, start_ticks
from release_tasks.core.process.output import OutputLog
from release_tasks.core.units import show_duration

__all__ = ["CommandProcess", "CommandResult", "search_path", "signal_name", "supervise", "tool_environment"]

_MARK = "RELEASE_TASKS_COMMAND"
_PIPE_BYTES = 256 << 10
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_GRACE_CANCELLED = 0.5
_PATIENCE = 0.5  # seconds for what the command left behind
_STEP = 0.05
_READS_TO_DRAIN = 8  # empties a pipe that nobody fills any more
_NOT_FOUND = re.compile(r"([^\s:'\"\u2018]+)['\"\u2019]?: (?:(?:command )?not found|No such file or directory)$")
_NOT_EXECUTABLE = re.compile(r"([^\s:]+): (?:Permission denied|[Cc]annot execute.*|Exec format error)$")


class CommandProcess:
    """A command in a session of its own, its output in one pipe; it reads ``stdin``, or nothing.

    Raises OSError or ValueError when it cannot be started. ``reap`` must be called in the end.
    """

    def __init__(
        self, command: str, *, cwd: Path, environment: Mapping[str, str], stdin: IO[bytes] | None = None
    ) -> None:
        own = uuid.uuid4().hex
        # A command inside a command keeps the outer mark, so that either run finds its own processes.
        marks = ":".join(filter(None, [environment.get(_MARK), own]))
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**environment, _MARK: marks},
            bufsize=0,
            start_new_session=True,
        )
        pid = self._process.pid
        self._started = MarkedProcesses(_MARK, own, pid, since=start_ticks(pid))
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.is_at_end = False
        self.is_status_lost = False
        self._is_reaped = False
        os.set_blocking(self._output.fileno(), False)
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):  # the user's quota of pipe memory is used up
                fcntl.fcntl(self._output.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._output.fileno(), select.POLLIN)

    def read(self, wait: float) -> bytes:
        """Return the next output, or nothing when none came within ``wait`` seconds."""
        if self.is_at_end:
            time.sleep(wait)
            return b""
        if not self._poll.poll(wait * 1000):
            return b""
        try:
            data = os.read(self._output.fileno(), _PIPE_BYTES)
        except BlockingIOError:
            return b""
        self.is_at_end = not data
        return data

    def has_exited(self) -> bool:
        """Say whether the command itself has ended.

        It stays a zombie for now: while it is one, no other process can get its group's number.
        """
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        except ChildProcessError:
            # Somebody ignores SIGCHLD: the kernel threw the status away and Popen would say 0.
            self.is_status_lost = True
            self._started.group = None  # the number may be another process's by now
            return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's whole group."""
        self._started.signal(number)

    def end_rest(self, patience: float) -> int:
        """Wait ``patience`` seconds for what still runs, kill it, and return how many that were.

        Nothing happens after ``reap``.
        """
        if self._is_reaped:
            return 0
        killed = self._started.end(patience, is_asked=False)
        return sum(process.pid != self._process.pid for process in killed)

    def reap(self) -> int:
        """Close the pipe and return the exit code, negative for a signal, as subprocess does."""
        self._output.close()
        self._is_reaped = True
        self._started.group = None
        return self._process.wait()


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


def search_path(environment: Mapping[str, str]) -> str:
    """Return PATH with the running Python's folder in front: ``inv`` and its like are there."""
    own = os.path.dirname(sys.executable)
    inherited = environment.get("PATH", os.defpath)
    return f"{own}{os.pathsep}{inherited}" if own else inherited


def tool_environment() -> dict[str, str]:
    """Return this process's environment with the tools of this very installation found first."""
    return {**os.environ, "PATH": search_path(os.environ)}
