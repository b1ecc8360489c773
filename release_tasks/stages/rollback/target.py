"""Find the snapshot to restore, and check it before anything is stopped or changed."""

from __future__ import annotations

from attrs import evolve

from release_tasks.archive import legacy
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.verify import require_intact
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.events import StepBegan
from release_tasks.core.records import SnapshotMetadata
from release_tasks.service.request import require_requests
from release_tasks.stages.preflight.missing import missing_restart
from release_tasks.stages.rollback.adoption import adopt_legacy, require_forced
from release_tasks.stages.rollback.attempt import RollbackAttempt

__all__ = ["require_records", "require_restart", "require_sendable", "resolve_and_verify"]


def require_sendable(run: RollbackAttempt) -> None:
    """Refuse a typed rollback whose health check could not be sent afterwards, unless it is forced."""
    if run.request.force or run.request.is_automatic:
        return
    try:
        require_requests(run.settings.release)
    except UsageError as error:
        without = f"To roll back without asking health: {evolve(run.request, force=True).command}"
        raise UsageError(f"{error.message} Nothing was changed. {without}") from None


def resolve_and_verify(run: RollbackAttempt) -> SnapshotMetadata:
    """Find the snapshot, verify all its digests and compare it with its records, before anything live is changed."""
    target = run.pipeline.catalogue.find(run.request.snapshot_id)
    run.emit(StepBegan("verify", target.snapshot_id))
    if legacy.is_legacy(target):
        require_records(run, target)  # first: a record may say that it is no such snapshot, and --force cannot help
        require_forced(target, is_forced=run.request.force)
        return adopt_legacy(run.settings, run.pipeline, target, emit=run.emit)
    require_intact(run.pipeline.catalogue, target, run.emit)
    require_records(run, target)
    return target


def require_records(run: RollbackAttempt, target: SnapshotMetadata) -> None:
    """Raise StageFailed unless the audit log, and where keys are configured a statement, agrees with ``target``."""
    provenance, request = Provenance(run.settings, run.pipeline), run.request
    is_forced = request.force or legacy.is_legacy(target)
    command = evolve(request, snapshot_id=target.snapshot_id, unverified=True, force=is_forced).command
    notes = provenance.require(target, requested=request.snapshot_id, command=command, unverified=request.unverified)
    run.record_notes.extend(notes)
    if request.snapshot_id is None and not request.unverified:
        provenance.require_latest(target)


def require_restart(run: RollbackAttempt, target: SnapshotMetadata) -> None:
    """Raise StageFailed when the restart command certainly cannot be started, before anything is stopped or changed."""
    missing = None if run.pipeline.is_before_first(target) else missing_restart(run.settings)
    if missing is not None:
        command = f"{run.request.command} --restart-command CMD"
        raise StageFailed(f"{missing}. Nothing live was changed. To restart with another command: {command}")
