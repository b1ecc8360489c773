"""What the stages of a command line have changed, for the later tasks of the same line."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from invoke import Context

from release_tasks.core.typed import typed
from release_tasks.tasks.executor import Achieved, recall, record

if TYPE_CHECKING:
    from release_tasks.core.records import Manifest, RollbackOutcome

__all__ = ["prepared_release", "record_release", "record_rollback"]


def record_release(ctx: Context, manifest: Manifest) -> None:
    """Record a release that is ready; its snapshot is the state before it."""
    if manifest.status == "ready" and manifest.snapshot is not None:
        snapshot_id = manifest.snapshot.snapshot_id
        achieved = Achieved(
            sentence=f"Release {manifest.release_id} is prepared.",
            rollback_command=typed("release.rollback", "--snapshot", snapshot_id),
            release_id=manifest.release_id,
            snapshot_id=snapshot_id,
        )
        record(ctx, "achieved", achieved)
        record(ctx, "release", manifest.release_id)


def prepared_release(ctx: Context) -> str | None:
    """Return the release that was prepared earlier in this command line, or None.

    The stages after it are about this release, whatever another command line prepares meanwhile.
    """
    return cast("str | None", recall(ctx, "release"))


def record_rollback(ctx: Context, outcome: RollbackOutcome) -> None:
    """Record a rollback that changed the live state; its safety snapshot is the state before it."""
    is_changed = bool(outcome.restored_assets or outcome.removed_assets)
    if is_changed and outcome.safety_snapshot_id is not None:
        achieved = Achieved(
            sentence=f"Snapshot {outcome.snapshot_id} was restored.",
            rollback_command=typed("release.rollback", "--snapshot", outcome.safety_snapshot_id),
            release_id=None,
            snapshot_id=outcome.snapshot_id,
        )
        record(ctx, "achieved", achieved)
