"""The written account of a rollback: audit events and the rollback state, for every way it can end."""

from __future__ import annotations

import contextlib

from attrs import evolve, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import encode
from release_tasks.core.records import RollbackOutcome, RollbackState, SnapshotMetadata

__all__ = ["Account", "record_refusal"]


@frozen(kw_only=True)
class Account:
    """Writes for one rollback. ``lineage`` is how far releases had come when it began."""

    pipeline: Pipeline
    rollback_id: str
    lineage: str | None

    def begin(self, target: SnapshotMetadata, is_forced: bool) -> None:
        """Write down that a rollback to ``target`` is under way; what went live before it still is."""
        anchor = self.pipeline.audit.append(
            "rollback.started",
            status="in_progress",
            release_id=target.release_id,
            snapshot_id=target.snapshot_id,
            rollbackId=self.rollback_id,
            digest=target.digest,
            forced=is_forced,
        )
        before = self.pipeline.known_state()
        self.pipeline.write_state(
            RollbackState(
                snapshot_id=target.snapshot_id,
                status="in_progress",
                updated_at=timestamp(),
                detail="under way",
                restored_snapshot_id=before.restored_snapshot_id if before else None,
                lineage=before.lineage if before else None,
                rollback_id=self.rollback_id,
                audit=anchor,
            )
        )

    def mark_restored(self, target: SnapshotMetadata, safety: SnapshotMetadata) -> None:
        """Write down that the snapshot is live, before anything is asked of the service."""
        self.pipeline.write_state(
            RollbackState(
                snapshot_id=target.snapshot_id,
                status="in_progress",
                updated_at=timestamp(),
                detail="the snapshot is live; restart and health come next",
                restored=True,
                restored_snapshot_id=target.snapshot_id,
                lineage=self.lineage,
                rollback_id=self.rollback_id,
                safety_snapshot_id=safety.snapshot_id,
                audit=self.pipeline.audit.anchor(),
            )
        )

    def finish(self, outcome: RollbackOutcome, target: SnapshotMetadata, safety_snapshot_id: str | None) -> None:
        """Write down how it ended, with the snapshot in place."""
        detail = outcome.diagnostics[0] if outcome.status == "failed" else outcome.status
        anchor = self.pipeline.audit.append(
            "rollback.finished",
            status=outcome.status,
            detail=detail,
            release_id=target.release_id,
            snapshot_id=target.snapshot_id,
            rollbackId=self.rollback_id,
            safetySnapshotId=outcome.safety_snapshot_id,
            restoredAssets=outcome.restored_assets,
            removedAssets=outcome.removed_assets,
            health=encode(outcome.health_check) if outcome.health_check else None,
        )
        self.pipeline.write_state(
            RollbackState(
                snapshot_id=target.snapshot_id,
                status="failed" if outcome.status == "failed" else "success",
                updated_at=timestamp(),
                detail=detail,
                restored=True,
                restored_snapshot_id=target.snapshot_id,
                lineage=self.lineage,
                rollback_id=self.rollback_id,
                safety_snapshot_id=safety_snapshot_id,
                audit=anchor,
            )
        )


def record_refusal(pipeline: Pipeline, requested: str | None, status: str, detail: str) -> None:
    """Write down an attempt that ended early, and close the state if it had been opened.

    A journal that is still there keeps its state open: recovery will close it. A disk too full to write this on does
    not hide why the attempt ended.
    """
    with contextlib.suppress(OSError):
        state = pipeline.known_state()
        is_open = state is not None and state.status == "in_progress" and not pipeline.has_journal()
        # Named only when its snapshot is live: by that it is told from an attempt that changed nothing.
        named = {"rollbackId": state.rollback_id} if state is not None and is_open and state.restored else {}
        anchor = pipeline.audit.append(
            "rollback.refused", status=status, detail=detail, requestedSnapshot=requested, **named
        )
        if state is not None and is_open:
            told = f"{detail} The snapshot is live; restart and health were not reached." if state.restored else detail
            pipeline.write_state(evolve(state, status="failed", updated_at=timestamp(), detail=told, audit=anchor))
