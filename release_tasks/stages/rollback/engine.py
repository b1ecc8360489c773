"""The rollback itself, in the order of the runbook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from attrs import evolve

from release_tasks.archive import legacy
from release_tasks.archive.capture import CaptureRequest, publish_safety_snapshot, unpublished_snapshot
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.assets.base import stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import StageError, StageFailed, describe_error
from release_tasks.core.events import Emit, StepBegan, ignore
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import HealthReport, JournalStep, RollbackJournal, RollbackOutcome, SnapshotMetadata
from release_tasks.service.wait import poll_health
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_rollback
from release_tasks.stages.rollback.adoption import adopt_legacy
from release_tasks.stages.rollback.amendment import amend_target, find_amended, foresee
from release_tasks.stages.rollback.attempt import (
    GO_ON,
    RollbackAttempt,
    RollbackEnded,
    RollbackRequest,
    apply_retention,
    attempt,
)
from release_tasks.stages.rollback.journal import JOURNAL_VERSION, clear_journal, write_journal
from release_tasks.stages.rollback.plan import InPlace, RollbackPlan, find_in_place, plan_changes, remarks_on_safety
from release_tasks.stages.rollback.restart import Restart, start_detached
from release_tasks.stages.rollback.stores import HeldStores, hold_stores
from release_tasks.stages.rollback.swap import Swap, locked
from release_tasks.stages.stage import stage

__all__ = ["RollbackRequest", "roll_back", "rollback"]


def roll_back(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> RollbackOutcome:
    """Restore a snapshot whole, the newest of a release unless one is named, restart the service and judge its health.

    ``status`` of the outcome is ``restored``, ``noop`` or ``failed``. ``force`` restores once more what is live
    already, and what has no digests; ``wait`` is how many seconds to wait for another run's lock. Raises UsageError for
    a snapshot that does not exist, LockHeld while another run is at work; the live state is whole in each case.
    """
    pipeline = Pipeline(settings.release.root)
    with stage(settings, pipeline, "release.rollback", notices) as sending:
        request = RollbackRequest(snapshot_id=snapshot_id, force=force, wait=wait)
        outcome = rollback(settings, request, emit, pipeline)
        sending.announce(lambda: about_rollback(settings, pipeline, outcome))
    return outcome


def rollback(
    settings: Settings, request: RollbackRequest, emit: Emit = ignore, pipeline: Pipeline | None = None
) -> RollbackOutcome:
    """Restore a snapshot whole, restart the service and judge its health.

    Returns the outcome, also a failed one. Raises UsageError for a snapshot that does not exist, LockHeld when another
    run is at work, Overtaken when the request is void, Interrupted after a signal; the live state is whole in each
    case, and every attempt is audited.
    """
    try:
        with attempt(settings, pipeline or Pipeline(settings.release.root), request, emit) as run:
            target = resolve_and_verify(run)
            if found := in_place(run, target):
                return confirm(run, found)
            with hold_stores(settings) as stores:
                target, remarks = amend_target(settings, run.pipeline, target, run.rollback_id)
                run.recorder.begin(target, request.force)
                with safety_copy(run) as safety:
                    plan = plan_changes(target, run.assets, {record.key: record for record in safety.assets})
                    with staged(run, target, plan, stores) as steps, uninterrupted(), locked(run.assets, steps):
                        safety = publish_safety_snapshot(run.pipeline.catalogue, safety, run.assets)
                        swap = commit(run, target, safety, steps)
                        swap_in(run, swap)
            plan = evolve(plan, diagnostics=plan.diagnostics + remarks + remarks_on_safety(safety))
            restart = restart_service(run)
            health = await_health(run, restart)
            return record(run, target, safety, plan, restart, health)
    except RollbackEnded as ended:
        return ended.outcome


def resolve_and_verify(run: RollbackAttempt) -> SnapshotMetadata:
    """Find the snapshot and verify every byte of it, before anything live is touched."""
    target = run.pipeline.catalogue.find(run.request.snapshot_id)
    run.emit(StepBegan("verify", target.snapshot_id))
    if legacy.is_legacy(target):
        return adopt_legacy(run.settings, run.pipeline, target, is_forced=run.request.force, emit=run.emit)
    require_intact(run.pipeline.catalogue, target, run.emit)
    return target


def in_place(run: RollbackAttempt, target: SnapshotMetadata) -> InPlace | None:
    """Return what is live already of the target, None when a restore is needed or was typed."""
    wanted = find_amended(run.pipeline, foresee(run.settings, run.pipeline, target))
    if wanted is None or run.request.force:
        return None
    return find_in_place(run.settings, run.pipeline, wanted)


def confirm(run: RollbackAttempt, found: InPlace) -> RollbackOutcome:
    """Leave the state alone: nothing when the service is healthy, else the restart hook and another request.

    What the service wrote since the restore is its own; only --force takes it back.
    """
    target, restart = found.target, None
    health = await_health(run, None, is_first=True)
    if health is not None and not health.passed:
        restart = restart_service(run)
        health = await_health(run, restart) if restart is not None else health
    problems = _problems(restart, health)
    if problems:
        again = f"inv release.rollback --snapshot {target.snapshot_id}"
        problems.append(
            f"Snapshot {target.snapshot_id} is in place already, so its data was left alone. To restart the "
            f"service: {again} --restart-command CMD. To restore once more, data included: {again} --force"
        )
    status: Literal["restored", "noop"] = "noop" if restart is None else "restored"
    state = run.pipeline.known_state()
    outcome = RollbackOutcome(
        status="failed" if problems else status,
        snapshot_id=target.snapshot_id,
        started_at=run.started_at,
        completed_at=timestamp(),
        skipped_assets=[key for key in run.assets if target.asset(key) is not None],
        safety_snapshot_id=state.safety_snapshot_id if state else None,
        health_check=health,
        restart_command=restart.command if restart else None,
        diagnostics=problems + found.doubts,
    )
    return _finish(run, outcome, target)


@contextlib.contextmanager
def safety_copy(run: RollbackAttempt) -> Iterator[SnapshotMetadata]:
    """Keep the live state as it is now, so that the rollback can itself be rolled back; the block publishes it."""
    run.emit(StepBegan("safety snapshot"))
    request = CaptureRequest(
        snapshot_id=f"safety_snapshot_{run.rollback_id}",
        release_id=None,
        kind="safety",
        retention_limit=run.settings.release.retention,
        audit=run.pipeline.audit.anchor(),
        allow_damaged=True,
    )
    with unpublished_snapshot(run.pipeline.catalogue, run.assets, request, run.emit) as metadata:
        yield metadata


@contextlib.contextmanager
def staged(
    run: RollbackAttempt, target: SnapshotMetadata, plan: RollbackPlan, stores: HeldStores
) -> Iterator[list[JournalStep]]:
    """Lay the new state of every asset that changes beside it, and remove it again once no journal needs it."""
    run.emit(StepBegan("stage"))
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    try:
        steps = []
        for change in plan.changes:
            asset, captured = run.assets[change.key], target.asset(change.key)
            if change.action != "keep" and captured is not None:
                is_usable = change.exists_live and not change.is_live_damaged
                stored = stored_path(folder, captured)
                steps.append(
                    asset.kind.stage(asset, captured, stored, run.rollback_id, is_usable=is_usable, emit=run.emit)
                )
        stores.hold_staged(target, run.rollback_id)
        # Databases first: only they can still fail for want of space or a lock, and then nothing has moved yet.
        yield sorted(steps, key=lambda step: step.action != "database")
    finally:
        if not run.pipeline.has_journal():
            for asset in run.assets.values():
                asset.kind.finish(asset)


def commit(run: RollbackAttempt, target: SnapshotMetadata, safety: SnapshotMetadata, steps: list[JournalStep]) -> Swap:
    """Write the journal: from here on a crash is finished, and not discarded."""
    run.emit(StepBegan("swap"))
    journal = RollbackJournal(
        journal_version=JOURNAL_VERSION,
        rollback_id=run.rollback_id,
        snapshot_id=target.snapshot_id,
        safety_snapshot_id=safety.snapshot_id,
        direction="forward",
        started_at=run.started_at,
        lineage=run.lineage,
        steps=steps,
    )
    swap = Swap(pipeline=run.pipeline, assets=run.assets, target=target, safety=safety, journal=journal, emit=run.emit)
    swap.require_targets()
    try:
        write_journal(run.pipeline, journal)
    except OSError as error:
        left = "Nothing live was changed."
        try:
            # It may have its name already, and the next command would finish what was called failed.
            clear_journal(run.pipeline)
        except OSError:
            left = "The next command may finish this rollback: run `inv release.recover` before the service is started."
        raise StageFailed(f"{describe_error(error)} {left}") from error
    return swap


def swap_in(run: RollbackAttempt, swap: Swap) -> None:
    """Put the new state in place and record that it is live; undo everything when a step fails."""
    try:
        swap.forward()
    except (StageError, OSError) as error:
        raise StageFailed(f"{describe_error(error)} {_undo(run, swap)}") from error
    assert swap.target is not None and swap.safety is not None
    try:
        run.recorder.mark_restored(swap.target, swap.safety)
    except OSError as error:
        live = f"Snapshot {swap.target.snapshot_id} is live, which could not be written down."
        raise StageFailed(f"{describe_error(error)} {live} {GO_ON}") from error
    clear_journal(run.pipeline)


def restart_service(run: RollbackAttempt) -> Restart | None:
    """Start the restart hook, detached; None when there is none."""
    hook = run.settings.release.restart
    if hook.command is None:
        return None
    run.emit(StepBegan("restart"))
    log = run.pipeline.logs / run.rollback_id / "restart.log"
    return start_detached(hook.command, project=run.settings.project, log=log, settle=hook.settle)


def await_health(run: RollbackAttempt, restart: Restart | None, *, is_first: bool = False) -> HealthReport | None:
    """Ask until the service is healthy or the deadline is over; None when no endpoint is known."""
    health = run.settings.release.health
    if health.url is None:
        return None
    run.emit(StepBegan("health"))
    # A service whose restart failed, or that was not restarted yet, is asked once.
    once = is_first or (restart is not None and restart.failed)
    passes, deadline = (1, 0.0) if once else (health.passes_after_restore, None)
    return poll_health(health, passes=passes, deadline=deadline, emit=run.emit)


def record(
    run: RollbackAttempt,
    target: SnapshotMetadata,
    safety: SnapshotMetadata,
    plan: RollbackPlan,
    restart: Restart | None,
    health: HealthReport | None,
) -> RollbackOutcome:
    """Judge, write state and audit event, and apply retention."""
    problems = _problems(restart, health)
    if problems:
        problems.append(f"The restored state was kept. {_way_back(run, safety)}")
    outcome = RollbackOutcome(
        status="failed" if problems else "restored",
        snapshot_id=target.snapshot_id,
        started_at=run.started_at,
        completed_at=timestamp(),
        restored_assets=plan.keys("restore"),
        skipped_assets=plan.keys("keep"),
        removed_assets=plan.keys("remove"),
        damaged_assets=[captured.key for captured in safety.assets if captured.damaged],
        safety_snapshot_id=safety.snapshot_id,
        health_check=health,
        restart_command=restart.command if restart else None,
        diagnostics=problems + plan.diagnostics,
    )
    outcome = _finish(run, outcome, target)
    apply_retention(run.settings, run.pipeline)
    return outcome


def _finish(run: RollbackAttempt, outcome: RollbackOutcome, target: SnapshotMetadata) -> RollbackOutcome:
    """Record the outcome; one that cannot be written down is failed, whatever is live."""
    try:
        run.recorder.finish(outcome, target)
        return outcome
    except OSError as error:
        problem = f"{describe_error(error)} Snapshot {target.snapshot_id} is live, which could not be written down."
        outcome = evolve(outcome, status="failed", diagnostics=[problem, *outcome.diagnostics])
        with contextlib.suppress(OSError):  # the disk may have failed once only
            run.recorder.finish(outcome, target)
        return outcome


def _undo(run: RollbackAttempt, swap: Swap) -> str:
    """Take back what the swap had done, and say whether that succeeded; recovery goes on with the journal."""
    try:
        swap.back()
        clear_journal(run.pipeline)
    except (StageError, OSError) as error:
        return (
            f"Undoing it failed too, and the live state may be part old, part new: {describe_error(error)} "
            "Mend that and run `inv release.recover` before the service is started."
        )
    return "Everything is back as it was before the rollback."


def _way_back(run: RollbackAttempt, safety: SnapshotMetadata) -> str:
    """Say how the state before this rollback comes back."""
    remains = [captured for captured in safety.assets if captured.damaged]
    if remains:
        folder = run.pipeline.catalogue.path(safety.snapshot_id) / remains[0].relative_path
        return f"The state before it was damaged ({remains[0].key}); its remains lie in {folder}."
    return f"To go back to the state before this rollback: inv release.rollback --snapshot {safety.snapshot_id}"


def _problems(restart: Restart | None, health: HealthReport | None) -> list[str]:
    found = [restart.explain()] if restart is not None and restart.failed else []
    if health is not None and not health.passed:
        found.append(f"Health at {health.url}: {health.detail}")
    return found
