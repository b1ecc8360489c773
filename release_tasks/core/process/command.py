"""Run a shell command with a timeout, and stop it together with every process that it started."""

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

from release_tasks.core.clock import awake
from release_tasks.core.process.find import MarkedProcesses, start_ticks
from release_tasks.core.process.output import OutputLog
from release_tasks.core.units import show_duration

__all__ = [
    "COMMAND_MARK",
    "CommandProcess",
    "CommandResult",
    "search_path",
    "signal_name",
    "supervise",
    "tool_environment",
]

COMMAND_MARK = "RELEASE_TASKS_COMMAND"
_PIPE_BYTES = 256 << 10
_KILL_DELAY = 1.0  # seconds between SIGTERM and SIGKILL
_KILL_DELAY_CANCELLED = 0.5
_GRACE_PERIOD = 0.5  # seconds for processes that still run when the command has exited
_STEP = 0.05
_READS_TO_DRAIN = 8  # enough to empty a pipe that has no writer any more
_NOT_FOUND = re.compile(r"([^\s:'\"\u2018]+)['\"\u2019]?: (?:(?:command )?not found|No such file or directory)$")
_NOT_EXECUTABLE = re.compile(r"([^\s:]+): (?:Permission denied|[Cc]annot execute.*|Exec format error)$")


class CommandProcess:
    """A running command in a new session, with one pipe for its output. Its input is ``stdin`` or /dev/null.

    Raises OSError or ValueError when the command cannot be started. The caller must call ``reap`` at the end.
    """

    def __init__(
        self, command: str, *, cwd: Path, environment: Mapping[str, str], stdin: IO[bytes] | None = None
    ) -> None:
        mark = uuid.uuid4().hex
        # A command inside a command also has the outer mark, so that each run finds its processes.
        marks = ":".join(filter(None, [environment.get(COMMAND_MARK), mark]))
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**environment, COMMAND_MARK: marks},
            bufsize=0,
            start_new_session=True,
        )
        pid = self._process.pid
        self._started = MarkedProcesses(COMMAND_MARK, mark, pid, since=start_ticks(pid))
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.is_at_end = False
        self.is_status_lost = False
        self._is_reaped = False
        os.set_blocking(self._output.fileno(), False)
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):  # the user's limit of pipe memory is reached
                fcntl.fcntl(self._output.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._output.fileno(), select.POLLIN)

    def read(self, wait: float) -> bytes:
        """Return the next output, or no bytes when there is no output within ``wait`` seconds."""
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
        """Return whether the command itself has exited.

        The command stays a zombie, so that no other process can get the number of its group.
        """
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        except ChildProcessError:
            # This process ignores SIGCHLD: the kernel discarded the status, and Popen would report 0.
            self.is_status_lost = True
            self._started.group = None  # another process may have the number now
            return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's whole group."""
        self._started.signal(number)

    def kill_remaining(self, grace_period: float) -> int:
        """Wait ``grace_period`` seconds, kill the processes that still run, and return how many they were.

        The number does not include the command itself. Does nothing after ``reap``.
        """
        if self._is_reaped:
            return 0
        killed = self._started.terminate(grace_period, with_sigterm=False)
        return sum(process.pid != self._process.pid for process in killed)

    def reap(self) -> int:
        """Close the pipe and return the exit code, negative for a signal, as subprocess does."""
        self._output.close()
        self._is_reaped = True
        self._started.group = None
        return self._process.wait()


@frozen(kw_only=True)
class CommandResult:
    """The result of a command. ``code`` is negative for a signal.

    ``left_behind`` is the number of processes that still ran after the grace period and were killed.
    """

    code: int
    is_timed_out: bool
    is_cancelled: bool
    is_status_lost: bool
    is_output_open: bool
    left_behind: int

    @property
    def succeeded(self) -> bool:
        """Whether the command exited with code 0 before its timeout."""
        return self.code == 0 and not (self.is_timed_out or self.is_cancelled or self.is_status_lost)

    @property
    def cannot_start(self) -> bool:
        """Whether the shell could not find or execute the program: another attempt gives the same result."""
        return self.code in (126, 127)

    def describe(self, command: str, timeout: float, tail: list[str]) -> str:
        """Return a message about the result and the processes that still ran. ``tail`` is the end of the output."""
        message = _outcome(self, command, timeout, tail)
        if self.left_behind:
            processes = "1 process" if self.left_behind == 1 else f"{self.left_behind} processes"
            message += f"; it left {processes} running, killed now"
        if self.is_output_open:
            message += "; a process that it started still has its output open"
        return message


def supervise(
    process: CommandProcess,
    log: OutputLog,
    timeout: float,
    cancelled: threading.Event,
    grace_period: float = _GRACE_PERIOD,
) -> CommandResult:
    """Read the output until the command exits, ``timeout`` seconds are over or ``cancelled`` is set.

    The time in which this process was suspended is no part of ``timeout``.
    After a timeout or a cancellation the process group gets SIGTERM, and SIGKILL a moment later. When the command exits
    by itself, its other processes have ``grace_period`` seconds before they are killed. Closes the log and reaps the
    command.
    """
    try:
        is_timed_out = is_cancelled = False
        deadline = awake.now() + timeout
        grace_period_ends: float | None = None
        kill_at: float | None = None
        while True:
            log.write(process.read(_STEP if not process.is_at_end else _STEP / 5))
            now = awake.now()
            if process.has_exited():
                grace_period_ends = grace_period_ends or now + grace_period
                if process.is_at_end or now >= grace_period_ends:
                    break
            elif kill_at is None:
                is_cancelled = cancelled.is_set()
                is_timed_out = not is_cancelled and now >= deadline
                if is_cancelled or is_timed_out:
                    process.signal(signal.SIGTERM)
                    kill_at = now + (_KILL_DELAY_CANCELLED if is_cancelled else _KILL_DELAY)
            elif now >= kill_at:
                break
        is_stopped = is_timed_out or is_cancelled
        remaining = 0.0 if is_stopped else max((grace_period_ends or 0.0) - awake.now(), 0.0)
        left_behind = process.kill_remaining(remaining)
        for _ in range(_READS_TO_DRAIN):
            log.write(process.read(0.0))
        log.close()
        return CommandResult(
            code=process.reap(),
            is_timed_out=is_timed_out,
            is_cancelled=is_cancelled,
            is_status_lost=process.is_status_lost,
            is_output_open=not process.is_at_end,
            left_behind=0 if is_stopped else left_behind,
        )
    finally:
        process.kill_remaining(0.0)
        process.reap()


def _outcome(run: CommandResult, command: str, timeout: float, tail: list[str]) -> str:
    if run.is_cancelled:
        return "stopped before it had a result"
    if run.is_timed_out:
        return f"no result after {show_duration(timeout)} (timeout); it was stopped"
    if run.is_status_lost:
        return "its exit code was lost, because this process ignores SIGCHLD"
    if run.code < 0:
        return f"killed by {signal_name(-run.code)}"
    if run.code == 127:
        return f"command not found: {_program_name(_NOT_FOUND, tail, command)} (exit code 127)"
    if run.code == 126:
        return f"cannot be executed: {_program_name(_NOT_EXECUTABLE, tail, command)} (exit code 126)"
    if 128 < run.code < 128 + 32:
        return f"exit code {run.code}, as after {signal_name(run.code - 128)}"
    return f"exit code {run.code}"


def signal_name(number: int) -> str:
    """Return the name of a signal, for instance SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _program_name(pattern: re.Pattern[str], tail: list[str], command: str) -> str:
    """Return the program that the shell's error message names, or the first word of the command."""
    for line in reversed(tail):
        if match := pattern.search(line):
            return match[1]
    return next(iter(command.split()), command)


def search_path(environment: Mapping[str, str]) -> str:
    """Return PATH with the folder of the running Python first: ``inv`` and other tools are installed there."""
    python_folder = os.path.dirname(sys.executable)
    inherited = environment.get("PATH", os.defpath)
    return f"{python_folder}{os.pathsep}{inherited}" if python_folder else inherited


def tool_environment() -> dict[str, str]:
    """Return this process's environment with a PATH that finds the tools of this installation first."""
    return {**os.environ, "PATH": search_path(os.environ)}
