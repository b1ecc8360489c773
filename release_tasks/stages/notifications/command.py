"""Delivery of a notification to a command, which reads the document from its standard input."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from release_tasks.core.process.command import CommandProcess, supervise, tool_environment
from release_tasks.core.process.output import OutputLog
from release_tasks.core.redact import Redactor
from release_tasks.stages.notifications.notification import SendAttempt

__all__ = ["notify_command"]

_GRACE_PERIOD = 2.0  # seconds for processes that the command left in the background


def notify_command(
    command: str,
    body: bytes,
    *,
    project: Path,
    log_path: Path,
    redactor: Redactor,
    timeout: float,
    cancelled: threading.Event,
) -> SendAttempt:
    """Run ``command`` once with ``body`` on its standard input and its output in the log at ``log_path``.

    The notification is delivered when the command exits with 0 within ``timeout`` seconds. Processes that it left in
    the background are ended two seconds later.
    """
    try:
        # A file instead of a pipe: a command that does not read all of its input cannot block or break the write.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(body)
            stdin.seek(0)
            process = CommandProcess(command, cwd=project, environment=tool_environment(), stdin=stdin)
    except (OSError, ValueError) as error:
        return SendAttempt(is_delivered=False, detail=f"cannot be started: {getattr(error, 'strerror', None) or error}")
    log = OutputLog(log_path, redactor)
    result = supervise(process, log, timeout, cancelled, grace_period=_GRACE_PERIOD)
    detail = result.describe(command, timeout, log.tail())
    is_final = result.cannot_start or result.is_status_lost
    return SendAttempt(is_delivered=result.succeeded, detail=redactor.redact_text(detail), is_final=is_final)
