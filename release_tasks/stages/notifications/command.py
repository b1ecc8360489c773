"""A notice for a command: the document on its standard input, its output in a log, its time kept."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from release_tasks.core.process.command import CommandProcess, supervise, tool_environment
from release_tasks.core.process.output import OutputLog
from release_tasks.core.redact import Redactor
from release_tasks.stages.notifications.notification import SendAttempt

__all__ = ["tell_command"]

_PATIENCE = 2.0  # seconds for what it started in the background


def tell_command(
    command: str,
    body: bytes,
    *,
    project: Path,
    log_path: Path,
    redactor: Redactor,
    timeout: float,
    cancelled: threading.Event,
) -> SendAttempt:
    """Run ``command`` once with ``body`` to read; it is delivered when that ends with 0 within ``timeout`` seconds.

    What it leaves in the background is ended two seconds after it.
    """
    try:
        # A file and not a pipe: a command that reads none of it, or half, cannot break or block anything.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(body)
            stdin.seek(0)
            process = CommandProcess(command, cwd=project, environment=tool_environment(), stdin=stdin)
    except (OSError, ValueError) as error:
        return SendAttempt(is_delivered=False, detail=f"cannot be started: {getattr(error, 'strerror', None) or error}")
    log = OutputLog(log_path, redactor)
    ended = supervise(process, log, timeout, cancelled, grace_period=_PATIENCE)
    detail = ended.describe(command, timeout, log.tail())
    is_final = ended.cannot_start or ended.is_status_lost
    return SendAttempt(is_delivered=ended.succeeded, detail=redactor.redact_text(detail), is_final=is_final)
