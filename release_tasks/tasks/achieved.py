"""What the stages of a command line have changed, for a later task of the same line that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.tasks.executor import Achieved, record

if TYPE_CHECKING:
    from release_tasks.core.records import Manifest, RollbackOutcome

__all__ = ["record_release", "record_rollback"]


def record_release(ctx: Context, manifest: Manifest) -> None:
    """Record a release that is ready; its snapshot is the state before it."""
    if manifest.status == "ready" and manifest.snapshot is not None:
        snapshot_id = manifest.snapshot.snapshot_id
        achieved = Achieved(
            sentence=f"Release {manifest.release_id} is prepared.",
            rollback_command=f"inv release.rollback --snapshot {snapshot_id}",
            release_id=manifest.release_id,
            snapshot_id=snapshot_id,
        )
        record(ctx, "achieved", achieved)


def record_rollback(ctx: Context, outcome: RollbackOutcome) -> None:
    """Record a rollback that changed the live state; its safety snapshot is the state before it."""
    is_changed = bool(outcome.restored_assets or outcome.removed_assets)
    if is_changed and outcome.safety_snapshot_id is not None:
        achieved = Achieved(
            sentence=f"Snapshot {outcome.snapshot_id} was restored.",
            rollback_command=f"inv release.rollback --snapshot {outcome.safety_snapshot_id}",
            release_id=None,
            snapshot_id=outcome.snapshot_id,
        )
        record(ctx, "achieved", achieved)
