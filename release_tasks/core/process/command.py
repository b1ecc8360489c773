"""A shell command with everything it starts: watched, stopped and cleaned up as one."""

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

__all__ = ["CommandProcess"]

_MARK = "RELEASE_TASKS_COMMAND"
_PIPE_BYTES = 256 << 10
_PROC = Path("/proc")
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD of linux/sched.h
_LONGEST_EXEC = 0.2  # seconds that a process may be in the middle of an execve
_LONGEST_KILL = 1.0  # seconds until the kernel has let go of killed processes


class CommandProcess:
    """A command in a session of its own, its output in one pipe; it reads ``stdin``, or nothing.

    Raises OSError or ValueError when it cannot be started. ``reap`` must be called in the end.
    """

    def __init__(
        self, command: str, *, cwd: Path, environment: Mapping[str, str], stdin: IO[bytes] | None = None
    ) -> None:
        self._id = uuid.uuid4().hex
        # A command inside a command keeps the outer mark, so that either run finds its own processes.
        marks = ":".join(filter(None, [environment.get(_MARK), self._id]))
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
        # In clock ticks since boot; without /proc, later than everything.
        self._started: float = float("inf")
        with contextlib.suppress(OSError, IndexError):
            self._started = int(_stat(self._process.pid)[19])
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
            return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's whole group."""
        if not (self.is_status_lost or self._is_reaped):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def end_rest(self, patience: float) -> int:
        """Wait ``patience`` seconds for what still runs, kill it, and return how many that were.

        Nothing happens after ``reap``.
        """
        if self._is_reaped:
            return 0
        until = time.monotonic() + patience
        while (running := self._settled()) - {self._process.pid} and time.monotonic() < until:
            time.sleep(0.02)
        ended = set(running)
        until = time.monotonic() + _LONGEST_KILL
        self.signal(signal.SIGKILL)
        while running and time.monotonic() < until:
            for pid in running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            running = self._settled()
            ended |= running
        return len(ended - {self._process.pid})

    def reap(self) -> int:
        """Close the pipe and return the exit code, negative for a signal, as subprocess does."""
        self._output.close()
        self._is_reaped = True
        return self._process.wait()

    def _settled(self) -> set[int]:
        """Find this command's processes, looking again while it cannot be told whose one is."""
        until = time.monotonic() + _LONGEST_EXEC
        while True:
            running, is_unsure = self._running()
            if running or not is_unsure or time.monotonic() >= until:
                return running
            time.sleep(0.01)

    def _running(self) -> tuple[set[int], bool]:
        """Find this command's processes: of its session or group, or marked, when they left both.

        Also says whether there may be more in a moment. Linux only; elsewhere nothing is found and
        the group's signal must do.
        """
        if sys.platform != "linux":
            return set(), False
        owned = {int(pid): self._owns(pid) for pid in os.listdir(_PROC) if pid.isdigit()}
        return {pid for pid, is_own in owned.items() if is_own}, None in owned.values()

    def _owns(self, pid: str) -> bool | None:
        """Say whether a process is of this command, or None where that cannot be seen yet."""
        try:
            fields = _stat(pid)
            if fields[0] in (b"Z", b"X") or int(fields[6]) & _KERNEL_THREAD:
                return False
            if self._process.pid in (int(fields[2]), int(fields[3])) and not self.is_status_lost:
                return True
            environment = (_PROC / pid / "environ").read_bytes()
        except (OSError, IndexError):
            return False
        if environment or int(fields[19]) < self._started:
            return self._id.encode() in environment
        # In the middle of an execve the environment is not there; it is that of something new.
        return None


def _stat(pid: str | int) -> list[bytes]:
    """Return state, ppid, pgrp, session ... of a process: what follows "pid (any name)"."""
    return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
