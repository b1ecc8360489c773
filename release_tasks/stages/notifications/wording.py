"""The texts of the notifications: builds a notification from the result of a stage."""

from __future__ import annotations

import contextlib

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageError
from release_tasks.core.records import Manifest, RollbackOutcome
from release_tasks.core.typed import typed
from release_tasks.stages.notifications.notification import Notification, new_notification
from release_tasks.stages.watch_command import watch_command

__all__ = ["about_broken_chain", "about_degraded", "about_failure", "about_manifest", "about_rollback"]


def about_manifest(settings: Settings, manifest: Manifest) -> Notification:
    """Report that a release is ready, or why it is blocked."""
    is_ready = manifest.status == "ready"
    reason = manifest.diagnostics[0] if manifest.diagnostics else ""
    failed = [check for check in manifest.preflight.checks if check.status == "failed" and check.blocks]
    next_command = (
        str(failed[0].diagnostics.get("next", typed("release.preflight"))) if failed else typed("release.diagnose")
    )
    return new_notification(
        settings,
        "prepared" if is_ready else "blocked",
        stage="release.prepare",
        status=manifest.status,
        text=f"release {manifest.release_id} is {'ready' if is_ready else f'blocked: {reason}'}",
        detail="its snapshot is taken" if is_ready else reason,
        version=manifest.app_version,
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot.snapshot_id if manifest.snapshot else None,
        next=watch_command(settings) if is_ready else next_command,
        diagnostics=manifest.diagnostics,
    )


def about_rollback(
    settings: Settings, pipeline: Pipeline, outcome: RollbackOutcome, *, stage: str = "release.rollback"
) -> Notification | None:
    """Report that a rollback restored its snapshot, or why it failed; return None for a ``noop``."""
    if outcome.status == "noop":
        return None
    manifest = _release_of(pipeline, outcome.snapshot_id)
    target = outcome.snapshot_id or "the latest snapshot"
    is_restored = outcome.status == "restored"
    health = outcome.health_check
    health_text = f"health: {health.status}" if health else "health was not checked"
    reason = outcome.diagnostics[0] if outcome.diagnostics else "no reason was given"
    return new_notification(
        settings,
        "restored" if is_restored else "failed",
        stage=stage,
        status=outcome.status,
        text=f"rolled back to {target}, {health_text}" if is_restored else f"the rollback to {target} failed: {reason}",
        detail=health_text if is_restored else reason,
        version=manifest.app_version if manifest else None,
        release_id=manifest.release_id if manifest else None,
        snapshot_id=outcome.snapshot_id,
        next=typed("release.status") if is_restored else typed("release.diagnose"),
        diagnostics=outcome.diagnostics,
    )


def about_degraded(
    settings: Settings, release: Manifest | None, reasons: list[str], snapshot_id: str | None, *, will_roll_back: bool
) -> Notification:
    """Report that a watched release is degraded, and whether a rollback to ``snapshot_id`` starts now."""
    watched = f"release {release.release_id}" if release else "the service"
    suggested = typed("release.rollback", "--snapshot", snapshot_id) if snapshot_id else typed("release.diagnose")
    return new_notification(
        settings,
        "degraded",
        stage="release.watch",
        status="degraded",
        text=f"{watched} is degraded{', rolling back now' if will_roll_back else ''}: {reasons[0]}",
        detail=reasons[0],
        version=release.app_version if release else None,
        release_id=release.release_id if release else None,
        snapshot_id=snapshot_id,
        next=typed("release.status") if will_roll_back else suggested,
        diagnostics=reasons,
    )


def about_failure(
    settings: Settings,
    stage: str,
    message: str,
    *,
    release_id: str | None = None,
    snapshot_id: str | None = None,
    diagnostics: list[str] | None = None,
) -> Notification:
    """Report that a stage failed."""
    return new_notification(
        settings,
        "failed",
        stage=stage,
        status="failed",
        text=f"{stage} failed: {message}",
        detail=message,
        release_id=release_id,
        snapshot_id=snapshot_id,
        next=typed("release.diagnose"),
        diagnostics=diagnostics,
    )


def about_broken_chain(
    settings: Settings,
    *,
    task: str,
    reason: str,
    achieved: str,
    rollback_command: str,
    release_id: str | None,
    snapshot_id: str | None,
) -> Notification:
    """Report that a task of the project failed after a stage of the same command line had changed something.

    ``reason`` and ``achieved`` are sentences; ``rollback_command`` is the command that undoes what was achieved.
    """
    return new_notification(
        settings,
        "failed",
        stage=task,
        status="failed",
        text=f"{reason} {achieved}",
        detail=reason,
        release_id=release_id,
        snapshot_id=snapshot_id,
        next=rollback_command,
    )


def _release_of(pipeline: Pipeline, snapshot_id: str | None) -> Manifest | None:
    """Return the release of a snapshot, None when it is unknown (no release, or unreadable records)."""
    with contextlib.suppress(StageError, OSError):
        release_id = pipeline.catalogue.get(snapshot_id).release_id if snapshot_id else None
        return next((file.manifest for file in pipeline.read_manifests() if file.release_id == release_id), None)
    return None
