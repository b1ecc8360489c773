"""The restart hook: a command that may return, such as ``systemctl restart``, or not, such as ``npm run start``."""

from __future__ import annotations

import math
import os
import subprocess
import time
from pathlib import Path

from release_tasks.core.clock import awake
from release_tasks.core.durable import make_private_directory
from release_tasks.core.process.command import signal_name, tool_environment
from release_tasks.core.process.find import start_ticks
from release_tasks.core.process.masking import LogMask
from release_tasks.core.process.output import read_log_tail
from release_tasks.core.redact import Redactor
from release_tasks.service.listeners import local_listeners

__all__ = ["Restart", "start_detached"]

_TAIL_LINES = 5
_TAIL_TEXT = 2048  # characters


class _Detached(subprocess.Popen[bytes]):
    """A command that may outlive this process, so Popen must not warn that it still runs."""

    def __del__(self) -> None:
        pass


class Restart:
    """A started restart command. It is observed while health is asked: the process before it may answer for a while.

    ``settle`` is in seconds. An answer counts when it was requested that long after the command ended with 0, or while
    the command runs and every process that listens at ``url`` was started after it. Otherwise only the deadline of the
    health check ends the doubt: a command may run for ever, and a listener may be a proxy.
    """

    def __init__(self, command: str, process: _Detached, *, log: Path, settle: float, url: str | None) -> None:
        self.command = Redactor.of_process().redact_text(command)
        self.log = log
        self.exit_code: int | None = None
        self._process = process
        self._started = start_ticks(process.pid)
        self._settle = settle
        self._url = url
        self._counts_from = math.inf
        self._mask = LogMask(log)

    @property
    def failed(self) -> bool:
        """Whether the command has ended with an exit code other than 0."""
        return self.exit_code not in (None, 0)

    def observe(self) -> int | None:
        """Return the exit code, or None while the command runs. Masks the secrets in its output so far."""
        self._mask.observe()
        if self.exit_code is None and (code := self._process.poll()) is not None:
            self.exit_code = code
            self._counts_from = awake.now() + self._settle
        return self.exit_code

    def failure(self) -> str:
        """Return the reason why the service cannot be the one that was started; an empty text while it can."""
        self.observe()
        return "the restart command failed" if self.failed else ""

    def counts_from(self) -> float:
        """Return the awake time from which an answer counts; infinity while it may be of the process before."""
        if self.observe() is None and self._counts_from == math.inf and self._old_listeners() == []:
            self._counts_from = awake.now()
        return self._counts_from

    def unsettled(self) -> float:
        """Return the seconds until an answer can count, when that is known."""
        return max(self._counts_from - awake.now(), 0.0) if self._counts_from != math.inf else 0.0

    def unfinished(self) -> str:
        """Return a message when the command still runs, else an empty text."""
        if self.observe() is not None:
            return ""
        return f"The restart command still runs (pid {self._process.pid}). Its output is in {self.log}."

    def doubt(self) -> str:
        """Return a message when the answers may not be of the process that the command started, else an empty text."""
        old = self._old_listeners()
        by = f" (pid {', '.join(map(str, old))}, which was started before it)" if old else ""
        if self.exit_code is None and self._counts_from == math.inf:
            return (
                f"The restart command still runs (pid {self._process.pid}); the healthy answers may come from the "
                f"process before it{by}. Its output is in {self.log}."
            )
        if self.exit_code == 0 and old:
            return (
                f"The process that listens at {self._url} (pid {', '.join(map(str, old))}) was started before the "
                "restart command. If it is no proxy and did not read its files again, end it and start the service."
            )
        return ""

    def explain(self) -> str:
        """Return a message with the reason of the failure and the end of the output."""
        assert self.exit_code is not None
        if self.exit_code == 127:
            reason = "was not found"
        elif self.exit_code < 0:
            reason = f"was killed by {signal_name(-self.exit_code)}"
        else:
            reason = f"ended with exit code {self.exit_code}"
        tail = self._tail()
        output = f": {tail}" if tail else ""
        return f"The restart command {self.command!r} {reason}{output}. Its output is in {self.log}."

    def _old_listeners(self) -> list[int] | None:
        """Return the listeners at the URL that were started before the command; None when that is unknown."""
        found = local_listeners(self._url) if self._url is not None else None
        if not found or self._started is None:
            return None
        starts = {pid: start_ticks(pid) for pid in found}
        return [pid for pid, start in starts.items() if start is None or start < self._started]

    def finish(self) -> None:
        """Mask the secrets at the end of the output too; call it once, when the command is not observed any more."""
        self._mask.finish()

    def _tail(self) -> str:
        self._mask.observe()
        lines = [line.strip() for line in read_log_tail(self.log)[-_TAIL_LINES:]]
        return " | ".join(filter(None, lines))[-_TAIL_TEXT:]


def start_detached(command: str, *, project: Path, log: Path, settle: float, url: str | None = None) -> Restart:
    """Start a shell command in its own session, with its output in ``log``, and observe it for ``settle`` seconds.

    Returns when the command has ended or the time is over; a command that still runs is left running. ``url`` is the
    health endpoint of the service.
    """
    make_private_directory(log.parent)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = _Detached(
            ["/bin/sh", "-c", command],
            cwd=project,
            env=tool_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)
    restart = Restart(command, process, log=log, settle=settle, url=url)
    deadline = awake.now() + settle
    while restart.observe() is None and awake.now() < deadline:
        time.sleep(0.02)
    return restart
