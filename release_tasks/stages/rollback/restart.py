"""The restart hook: a command that may return, such as ``systemctl restart``, or not, such as ``npm run start``."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from attrs import frozen

from release_tasks.core.clock import awake
from release_tasks.core.durable import make_private_directory
from release_tasks.core.process.command import tool_environment

__all__ = ["Restart", "start_detached"]

_TAIL_BYTES = 2048


@frozen(kw_only=True)
class Restart:
    """A started restart command. ``exit_code`` is None while it runs."""

    command: str
    exit_code: int | None
    log: Path

    @property
    def failed(self) -> bool:
        """Whether the command ended early with an exit code other than 0."""
        return self.exit_code not in (None, 0)

    def explain(self) -> str:
        """Return a message with the reason of the failure and the end of the output."""
        reason = "was not found" if self.exit_code == 127 else f"ended immediately with exit code {self.exit_code}"
        tail = self._tail()
        output = f": {tail}" if tail else ""
        return f"The restart command {self.command!r} {reason}{output}. Its output is in {self.log}."

    def _tail(self) -> str:
        try:
            text = self.log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())


def start_detached(command: str, *, project: Path, log: Path, settle: float) -> Restart:
    """Start a shell command in its own session, with its output in ``log``, and observe it for ``settle`` seconds.

    Returns when the command has ended or the time is over; a command that still runs is left running.
    """
    make_private_directory(log.parent)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
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
    deadline = awake.now() + settle
    while process.poll() is None and awake.now() < deadline:
        time.sleep(0.02)
    # The command may outlive this process. A return code prevents the ResourceWarning of Popen about a running child.
    exit_code, process.returncode = process.returncode, process.returncode or 0
    return Restart(command=command, exit_code=exit_code, log=log)
