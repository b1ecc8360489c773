"""Stage 4 while it lasts: the watch after a deploy."""

from __future__ import annotations

from release_tasks.config.schema import Settings
from release_tasks.core.errors import ExitCode
from release_tasks.core.events import Emit, ignore
from release_tasks.stages.around import notified
from release_tasks.stages.notifications.notification import Notice
from release_tasks.stages.notifications.sending import Notices
from release_tasks.stages.notifications.wording import about_degraded, about_failure, about_rollback
from release_tasks.stages.watch.watching import Clock, Degraded, WatchReport, watch

__all__ = ["watch_release"]

_STAGE = "release.watch"
_DID_NOT_GO_BACK = (ExitCode.NEGATIVE, ExitCode.LOCKED)


def watch_release(
    settings: Settings,
    *,
    clock: Clock | None = None,
    emit: Emit = ignore,
    notices: Notices | None = None,
) -> WatchReport:
    """Watch a release after its deploy, as ``release.watch`` says, and judge it; roll back once if that is wanted.

    ``status`` of the report is ``healthy``, ``degraded`` or ``inconclusive``. Returns it also after Interrupted. Raises
    UsageError when there is nothing to ask or the watch is too short, StageFailed while an interrupted rollback waits
    to be finished.
    """
    with notified(settings, notices, _STAGE) as sending:
        # Begun before the rollback, so that nobody learns of it only minutes later, and not waited for until after it.
        report = watch(
            settings,
            clock=clock,
            emit=emit,
            on_degraded=lambda verdict: sending.announce(lambda: _about_degraded(settings, verdict)),
        )
        sending.announce(lambda: _about_response(settings, report))
    return report


def _about_degraded(settings: Settings, verdict: Degraded) -> Notice:
    return about_degraded(settings, verdict.release, verdict.reasons, verdict.snapshot_id, goes_back=verdict.goes_back)


def _about_response(settings: Settings, report: WatchReport) -> Notice | None:
    """Say how the rollback ended, or that there was none though one was wanted."""
    if report.rollback is not None:
        return about_rollback(settings, report.rollback, stage=_STAGE)
    is_wanted = report.status == "degraded" and settings.release.watch.rollback
    if not is_wanted or report.exit_code not in _DID_NOT_GO_BACK:
        return None
    sentence = "the release is degraded and was to be rolled back, but was not"
    return about_failure(
        settings, _STAGE, sentence, release_id=report.release_id, diagnostics=report.reasons + report.diagnostics
    )
