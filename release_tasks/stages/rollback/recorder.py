"""The recorder of a rollback: it writes the audit events and the rollback state."""

from __future__ import annotations

import contextlib
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.clock import awake, milliseconds_since, timestamp
from release_tasks.core.codec import encode
from release_tasks.core.records import AuditAnchor, RollbackOutcome, RollbackState, SnapshotMetadata

__all__ = ["Recorder", "record_refusal"]


@frozen(kw_only=True)
class Recorder:
    """Writes the records of one rollback. ``lineage`` identifies the latest release at the start of the rollback.

    ``started`` is the start in seconds of the awake clock.
    """

    pipeline: Pipeline
    rollback_id: str
    lineage: str | None
    started: float = field(factory=awake.now)

    def begin(self, target: SnapshotMetadata, *, is_forced: bool, is_automatic: bool) -> None:
        """Record that a rollback to ``target`` started; the live state is still the state before it.

        ``is_automatic``: a watch started it, and no person.
        """
        anchor = self.pipeline.audit.append(
            "rollback.started",
            status="in_progress",
            release_id=target.release_id,
            snapshot_id=target.snapshot_id,
            rollbackId=self.rollback_id,
            digest=target.digest,
            checksum=target.checksum,
            forced=is_forced,
            automatic=is_automatic,
        )
        state = self.state(target.snapshot_id, "in_progress", "in progress", anchor, is_live=False)
        self.pipeline.write_state(state)

    def mark_restored(self, target: SnapshotMetadata, safety: SnapshotMetadata | None) -> None:
        """Record that the snapshot is live, before restart and health check."""
        detail = "the snapshot is live; restart and health check are next"
        anchor = self.pipeline.audit.anchor()
        safety_id = safety.snapshot_id if safety is not None else None
        state = self.state(target.snapshot_id, "in_progress", detail, anchor, is_live=True, safety=safety_id)
        self.pipeline.write_state(state)

    def finish(self, outcome: RollbackOutcome, target: SnapshotMetadata) -> None:
        """Record the outcome of a rollback whose snapshot is live."""
        detail = outcome.diagnostics[0] if outcome.status == "failed" else outcome.status
        anchor = self.pipeline.audit.append(
            "rollback.finished",
            status=outcome.status,
            detail=detail,
            release_id=target.release_id,
            snapshot_id=target.snapshot_id,
            rollbackId=self.rollback_id,
            durationMs=milliseconds_since(self.started),
            safetySnapshotId=outcome.safety_snapshot_id,
            restoredAssets=outcome.restored_assets,
            removedAssets=outcome.removed_assets,
            databases=encode(outcome.databases),
            health=encode(outcome.health_check) if outcome.health_check else None,
        )
        status: Literal["failed", "success"] = "failed" if outcome.status == "failed" else "success"
        safety = outcome.safety_snapshot_id
        self.pipeline.write_state(self.state(target.snapshot_id, status, detail, anchor, is_live=True, safety=safety))

    def state(
        self,
        snapshot_id: str,
        status: Literal["in_progress", "success", "failed"],
        detail: str,
        anchor: AuditAnchor | None,
        *,
        is_live: bool,
        safety: str | None = None,
    ) -> RollbackState:
        """Return the new rollback state; unless the snapshot is live, the state retains the last restored snapshot."""
        before = None if is_live else self.pipeline.known_state()
        live: tuple[str | None, str | None] = (snapshot_id, self.lineage) if is_live else (None, None)
        if before is not None:
            live = (before.restored_snapshot_id, before.lineage)
        return RollbackState(
            snapshot_id=snapshot_id,
            status=status,
            updated_at=timestamp(),
            detail=detail,
            restored=is_live,
            restored_snapshot_id=live[0],
            lineage=live[1],
            rollback_id=self.rollback_id,
            safety_snapshot_id=safety,
            audit=anchor,
        )


def record_refusal(pipeline: Pipeline, requested: str | None, status: str, detail: str) -> None:
    """Record an attempt that ended early, and close its rollback state.

    While a journal exists, the state stays open: recovery closes it. An OSError here is dropped, so that it does not
    hide the reason of the early end.
    """
    with contextlib.suppress(OSError):
        state = pipeline.known_state()
        is_open = state is not None and state.status == "in_progress" and not pipeline.has_journal()
        # The event has a rollbackId only if the snapshot of the rollback is live. An event without one changed nothing.
        rollback_id = {"rollbackId": state.rollback_id} if state is not None and is_open and state.restored else {}
        anchor = pipeline.audit.append(
            "rollback.refused", status=status, detail=detail, requestedSnapshot=requested, **rollback_id
        )
        if state is not None and is_open:
            if state.restored:
                detail += " The snapshot is live; restart and health were not reached."
            pipeline.write_state(evolve(state, status="failed", updated_at=timestamp(), detail=detail, audit=anchor))
