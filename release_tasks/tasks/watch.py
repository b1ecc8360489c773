"""The task ``release.watch``: health after a deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.core.errors import ExitCode
from release_tasks.tasks.achieved import prepared_release, record_rollback
from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import duration_flag, text_flag, with_flags
from release_tasks.tasks.session import Session, session

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings

__all__ = ["watch"]


@stage(
    help={
        "release_id": "Watch this release instead of the one of this command line, else of the latest ready one.",
        "for_": "Watch this long instead of release.watch.for, e.g. 10m.",
        "interval": "Take a sample this often instead of release.watch.interval, e.g. 10s.",
        "rollback": "Roll back once to the state before the release if it is degraded.",
        "health_url": "Use this URL instead of release.health.url.",
    },
)
def watch(
    ctx: Context,
    release_id: str | None = None,
    for_: str | None = None,
    interval: str | None = None,
    rollback: bool = False,
    health_url: str | None = None,
    json: bool = False,
) -> None:
    """Watch a release after its deploy: healthy, degraded or inconclusive; exit 0 only when healthy."""
    with session(ctx, json) as current:
        from release_tasks.core.codec import encode
        from release_tasks.report.answers import show_watch
        from release_tasks.stages.watch.watching import watch_release

        settings = with_flags(
            current.settings,
            length=duration_flag("for", for_),
            interval=duration_flag("interval", interval),
            rollback=rollback or None,
            health_url=health_url,
        )
        watched = text_flag("release-id", release_id) or prepared_release(ctx)
        if current.is_dry:
            _show_dry(current, settings, watched)
            return
        with current.progress() as emit:
            report = watch_release(settings, release_id=watched, emit=emit, notices=current.notifications)
        if report.rollback is not None:
            record_rollback(ctx, report.rollback)
        document = encode(report)
        current.answer(document, lambda screen: show_watch(screen, document, report.rollback))
        current.exit_code = ExitCode(report.exit_code)


def _show_dry(current: Session, settings: Settings, release_id: str | None) -> None:
    from release_tasks.core.units import show_duration
    from release_tasks.stages.watch.response import watch_context
    from release_tasks.stages.watch.watching import require_watchable

    require_watchable(settings)
    rules, context = settings.release.watch, watch_context(settings, current.pipeline, release_id)
    release = context.release_id
    target = context.snapshot_id if rules.rollback and not context.blocker else None
    times = {"for": show_duration(rules.for_), "interval": show_duration(rules.interval)}
    current.answer({"status": "dry", "releaseId": release, **times, "rollbackTo": target})
    if not current.as_json:
        subject = f"release {release}" if release else "the service, which has no ready release"
        current.screen.line(f"Would watch {subject} every {times['interval']} for {times['for']}.")
        if rules.rollback:
            current.screen.line(f"Would roll back to {target} if it is degraded." if target else context.blocker)
