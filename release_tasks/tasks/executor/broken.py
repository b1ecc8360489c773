"""The record of a command line that broke after a stage had changed something, such as a deploy after READY."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from invoke import Config, Context

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.errors import ExitCode, Interrupted, StageError, describe_error
from release_tasks.core.interrupt import interruptible
from release_tasks.core.runner import is_github_actions
from release_tasks.core.streams import error_tolerant
from release_tasks.report.github import report_to_github
from release_tasks.report.screen import Screen
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_broken_chain
from release_tasks.tasks.executor.ledger import Achieved
from release_tasks.tasks.project import settings_of

__all__ = ["BrokenChain", "record_broken_chain"]

_FIRST_SIGNAL_CODE = ExitCode.SIGHUP


@dataclass(frozen=True)
class BrokenChain:
    """A task that ended the command line after a stage had changed something.

    ``reason`` is a sentence about ``task``. ``task_code`` is its own exit code, None for an exception or a signal;
    ``exit_code`` is that of the line.
    """

    task: str
    reason: str
    task_code: int | None
    exit_code: int
    achieved: Achieved

    def document(self) -> dict[str, Any]:
        """Return the document from which the runner of a CI system is informed."""
        achieved = self.achieved
        return {
            "status": "failed",
            "chain": "failed",
            "failedTask": self.task,
            "releaseId": achieved.release_id,
            "snapshotId": achieved.snapshot_id,
            "message": f"{self.reason} {achieved.sentence} To roll back: {achieved.rollback_command}",
        }


def record_broken_chain(config: Config, broken: BrokenChain, *, has_json: bool) -> None:
    """Write the event ``chain.failed``, annotate the step of a CI runner, and send a notification. Raises nothing.

    After a signal no notification is sent: the line must end soon. With ``has_json`` nothing is written to stdout.
    """
    screen = Screen(sys.stderr)
    if is_github_actions():
        stream = error_tolerant(sys.stderr if has_json else sys.stdout)
        report_to_github(broken.document(), broken.exit_code, stream, os.environ)
    try:
        settings = settings_of(Context(config))
        pipeline = Pipeline(settings.release.root)
        _audit(pipeline, broken)
    except (StageError, OSError) as error:
        screen.line(f"This could not be written to the audit log: {describe_error(error)}")
        return
    if broken.exit_code < _FIRST_SIGNAL_CODE:
        _notify(settings, pipeline, screen, broken)


def _audit(pipeline: Pipeline, broken: BrokenChain) -> None:
    achieved = broken.achieved
    pipeline.audit.append(
        "chain.failed",
        status="failed",
        detail=broken.reason,
        release_id=achieved.release_id,
        snapshot_id=achieved.snapshot_id,
        task=broken.task,
        taskExitCode=broken.task_code,
        exitCode=broken.exit_code,
    )


def _notify(settings: Settings, pipeline: Pipeline, screen: Screen, broken: BrokenChain) -> None:
    """Send the notification and wait for it; a signal cancels it, and the exit code stays that of the broken line."""
    achieved = broken.achieved
    try:
        with interruptible(), Notifications(settings, screen.step, pipeline=pipeline) as notifications:
            notifications.announce(
                lambda: about_broken_chain(
                    settings,
                    task=broken.task,
                    reason=broken.reason,
                    achieved=achieved.sentence,
                    rollback_command=achieved.rollback_command,
                    release_id=achieved.release_id,
                    snapshot_id=achieved.snapshot_id,
                )
            )
    except (Interrupted, KeyboardInterrupt):
        return
