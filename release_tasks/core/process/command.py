"""A shell command with everything it starts, watched, stopped and cleaned up as one; and what it runs in."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from release_tasks.core.process.find import MarkedProcesses, start_ticks

__all__ = ["CommandProcess", "search_path", "tool_environment"]

_MARK = "RELEASE_TASKS_COMMAND"
_PIPE_BYTES = 256 << 10


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


def search_path(environment: Mapping[str, str]) -> str:
    """Return PATH with the running Python's folder in front: ``inv`` and its like are there."""
    own = os.path.dirname(sys.executable)
    inherited = environment.get("PATH", os.defpath)
    return f"{own}{os.pathsep}{inherited}" if own else inherited


def tool_environment() -> dict[str, str]:
    """Return this process's environment with the tools of this very installation found first."""
    return {**os.environ, "PATH": search_path(os.environ)}
