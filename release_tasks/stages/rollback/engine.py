"""The rollback: its steps in the order of the runbook."""

from __future__ import annotations

from attrs import evolve

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, ignore
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_rollback
from release_tasks.stages.rollback.amendment import amend_target
from release_tasks.stages.rollback.attempt import RollbackEnded, RollbackRequest, attempt
from release_tasks.stages.rollback.commit import commit, swap_in
from release_tasks.stages.rollback.noop import confirm, in_place
from release_tasks.stages.rollback.plan import plan_changes, snapshot_before
from release_tasks.stages.rollback.record import record
from release_tasks.stages.rollback.safety import notes_on_safety
from release_tasks.stages.rollback.safety_copy import live_records, publish, safety_copy
from release_tasks.stages.rollback.scanning import scans_opened
from release_tasks.stages.rollback.service import await_health, restart_service, service_kept, stop_service
from release_tasks.stages.rollback.staging import lock_all, staged, write_all
from release_tasks.stages.rollback.stores import hold_stores, require_own_stores
from release_tasks.stages.rollback.target import require_restart, require_sendable, resolve_and_verify
from release_tasks.stages.rollback.written_back import find_written_back
from release_tasks.stages.stage import stage

__all__ = ["RollbackRequest", "roll_back", "rollback"]


def roll_back(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    release_id: str | None = None,
    force: bool = False,
    wait: float = 0.0,
    without_safety: bool = False,
    unverified: bool = False,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> RollbackOutcome:
    """Restore a snapshot, by default the latest of a release, restart the service and check its health.

    With ``release_id`` it restores the state before that release. ``status`` of the outcome is ``restored``, ``noop``
    or ``failed``. ``force`` restores a snapshot that is live already, or has no digests; ``wait`` is the time in
    seconds to wait for the lock. ``without_safety`` takes no safety snapshot, for a disk without space: the rollback
    cannot be undone. ``unverified`` restores a snapshot without complete records. Raises UsageError for an unknown
    snapshot or release, and when no key can check the signatures, Superseded when another release was prepared after
    ``release_id``, LockHeld while another command runs; the live state is consistent in each case.
    """
    pipeline = Pipeline(settings.release.root)
    with stage(settings, pipeline, "release.rollback", notices) as notifications:
        snapshot_id = snapshot_id or snapshot_before(settings, pipeline, release_id, unverified=unverified)
        request = RollbackRequest(
            snapshot_id=snapshot_id,
            release_id=release_id,
            force=force,
            wait=wait,
            without_safety=without_safety,
            unverified=unverified,
        )
        outcome = rollback(settings, request, emit, pipeline)
        notifications.announce(lambda: about_rollback(settings, pipeline, outcome))
    return outcome


def rollback(
    settings: Settings, request: RollbackRequest, emit: Emit = ignore, pipeline: Pipeline | None = None
) -> RollbackOutcome:
    """Restore a snapshot, restart the service and check its health.

    Returns the outcome, also a failed one. Raises UsageError for an unknown snapshot, LockHeld while another command
    runs, Superseded when the precondition of the request has changed, Interrupted after a signal. The live state is
    consistent in each case, and every attempt is audited.
    """
    require_own_stores(settings)
    try:
        pipeline = pipeline or Pipeline(settings.release.root)
    except StageFailed as error:  # the folder cannot be read, so there is no log to write to
        now = timestamp()
        return RollbackOutcome(
            status="failed",
            snapshot_id=request.snapshot_id,
            started_at=now,
            completed_at=now,
            diagnostics=[error.message],
        )
    try:
        with attempt(settings, pipeline, request, emit) as run, service_kept(run):
            require_sendable(run)
            target = resolve_and_verify(run)
            if (found := in_place(run, target)) and (outcome := confirm(run, found)):
                return outcome
            require_restart(run, target)
            stop_service(run)
            with hold_stores(settings) as stores:
                target, notes = amend_target(settings, run.pipeline, target, run.rollback_id)
                run.recorder.begin(target, is_forced=request.force, is_automatic=request.is_automatic)
                with scans_opened(run, target) as scans, safety_copy(run, target, scans) as safety:
                    folder = run.pipeline.catalogue.path(target.snapshot_id)
                    plan = plan_changes(target, folder, run.assets, live_records(run, safety, scans))
                    with (
                        staged(run, target, plan, stores) as steps,
                        lock_all(run, target, steps, scans) as holds,
                        uninterrupted(),
                    ):
                        safety = publish(run, safety, scans)
                        write_all(run, holds)
                        swap = commit(run, target, safety, steps, holds)
                        swap_in(run, swap)
            plan = evolve(plan, diagnostics=plan.diagnostics + notes + notes_on_safety(safety) + swap.notes)
            restart = restart_service(run, target)
            health = await_health(run, target, restart)
            written_back = find_written_back(run.assets, target, safety)
            return record(run, target, safety, plan, scans, restart, health, written_back)
    except RollbackEnded as ended:
        return ended.outcome
