"""The restart hook: as likely ``npm run start``, which never returns, as ``systemctl restart``."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from attrs import frozen

from release_tasks.core.durable import make_private_directory
from release_tasks.core.process.command import tool_environment

__all__ = ["Restart", "start_detached"]

_TAIL_BYTES = 2048


@frozen(kw_only=True)
class Restart:
    """A restart command that was started. ``exit_code`` is None while it runs."""

    command: str
    exit_code: int | None
    log: Path

    @property
    def failed(self) -> bool:
        """Whether it ended early and not with 0."""
        return self.exit_code not in (None, 0)

    def explain(self) -> str:
        """Say how it failed, with the end of its output."""
        reason = "was not found" if self.exit_code == 127 else f"ended at once with exit code {self.exit_code}"
        tail = self._tail()
        shown = f": {tail}" if tail else ""
        return f"The restart command {self.command!r} {reason}{shown}. Its output is in {self.log}."

    def _tail(self) -> str:
        try:
            text = self.log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())


def start_detached(command: str, *, project: Path, log: Path, settle: float) -> Restart:
    """Start a shell command in a session of its own, output to ``log``, and watch it for ``settle`` seconds.

    Returns when it has ended or the time is over; a command that goes on running is left to itself.
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
    deadline = time.monotonic() + settle
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    # It outlives this run on purpose; without this Python warns about a child nobody waits for.
    exit_code, process.returncode = process.returncode, process.returncode or 0
    return Restart(command=command, exit_code=exit_code, log=log)
