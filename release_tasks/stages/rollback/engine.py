"""The rollback: its steps in the order of the runbook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal

from attrs import evolve

from release_tasks.archive import legacy
from release_tasks.archive.attestation.signing import available_signer
from release_tasks.archive.capacity import capture_needs, shortages
from release_tasks.archive.capture import (
    CaptureRequest,
    publish_safety_snapshot,
    survey_asset,
    unpublished_snapshot,
)
from release_tasks.archive.parents import remove_empty
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.verify import require_intact
from release_tasks.assets.base import Hold
from release_tasks.assets.findings import Busy, Drift
from release_tasks.assets.protection import require_replaceable
from release_tasks.assets.stored import stored_path
from release_tasks.assets.waiting import LockWait
from release_tasks.config.schema import Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import DiskFull, Interrupted, StageError, StageFailed, UsageError, describe_error
from release_tasks.core.events import Emit, Meter, Noted, StepBegan, ignore
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import (
    AssetRecord,
    HealthReport,
    JournalStep,
    RollbackJournal,
    RollbackOutcome,
    SnapshotMetadata,
)
from release_tasks.core.scratch import NoScratchSpace
from release_tasks.core.typed import typed
from release_tasks.service.request import require_requests
from release_tasks.service.sampling import sample_health
from release_tasks.service.wait import poll_health
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_rollback
from release_tasks.stages.preflight.missing import missing_restart
from release_tasks.stages.rollback.adoption import adopt_legacy, require_forced
from release_tasks.stages.rollback.amendment import amend_target, find_amended, plan_amendment
from release_tasks.stages.rollback.attempt import (
    NOT_RESTARTED,
    RollbackAttempt,
    RollbackEnded,
    RollbackRequest,
    after_retention,
    attempt,
)
from release_tasks.stages.rollback.in_place import (
    LastRestore,
    describe_changes,
    find_changes,
    find_last_restore,
    removed_rows,
)
from release_tasks.stages.rollback.journal import JOURNAL_VERSION, clear_journal, write_journal
from release_tasks.stages.rollback.outcome import NOT_ASKED, find_doubts, find_problems
from release_tasks.stages.rollback.plan import RollbackPlan, plan_changes, snapshot_before
from release_tasks.stages.rollback.restart import Restart
from release_tasks.stages.rollback.safety import advise_without_safety, notes_on_safety, undo_option
from release_tasks.stages.rollback.stores import HeldStores, hold_stores, require_own_stores
from release_tasks.stages.rollback.swap import Swap, locked
from release_tasks.stages.rollback.written_back import (
    describe_written_back,
    find_written_back,
    find_written_back_since,
)
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
        snapshot_id = snapshot_id or snapshot_before(pipeline, release_id)
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
                with safety_copy(run, target) as safety:
                    folder = run.pipeline.catalogue.path(target.snapshot_id)
                    plan = plan_changes(target, folder, run.assets, live_records(run, safety))
                    with (
                        staged(run, target, plan, stores) as steps,
                        lock_all(run, target, steps) as holds,
                        uninterrupted(),
                    ):
                        safety = publish(run, safety)
                        write_all(run, holds)
                        swap = commit(run, target, safety, steps, holds)
                        swap_in(run, swap)
            plan = evolve(plan, diagnostics=plan.diagnostics + notes + notes_on_safety(safety) + swap.notes)
            restart = restart_service(run, target)
            health = await_health(run, target, restart)
            written_back = find_written_back(run.assets, target, safety)
            return record(run, target, safety, plan, restart, health, written_back)
    except RollbackEnded as ended:
        return ended.outcome


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
        require_forced(target, is_forced=run.request.force)
        require_records(run, target)
        return adopt_legacy(run.settings, run.pipeline, target, emit=run.emit)
    require_intact(run.pipeline.catalogue, target, run.emit)
    require_records(run, target)
    return target


def require_records(run: RollbackAttempt, target: SnapshotMetadata) -> None:
    """Raise StageFailed unless the audit log, and where keys are configured a statement, agrees with ``target``."""
    provenance, request = Provenance(run.settings, run.pipeline), run.request
    if request.snapshot_id is None and not request.unverified:
        provenance.require_latest(target)
    command = evolve(request, snapshot_id=target.snapshot_id, unverified=True).command
    notes = provenance.require(target, requested=request.snapshot_id, command=command, unverified=request.unverified)
    run.record_notes.extend(notes)


def in_place(run: RollbackAttempt, target: SnapshotMetadata) -> LastRestore | None:
    """Return the last restore when the target is still live since; None when a restore is needed or forced."""
    amended = find_amended(run.pipeline, plan_amendment(run.settings, run.pipeline, target))
    if amended is None or run.request.force:
        return None
    try:
        last = find_last_restore(run.settings, run.pipeline, amended, run.emit)
    except NoScratchSpace as error:
        again = typed("release.rollback", "--snapshot", target.snapshot_id, "--force")
        raise StageFailed(f"{error.message} To restore without the comparison: {again}") from error
    if last is None or last.is_in_place:
        return last
    changed = " ".join(last.differences)
    run.emit(Noted(f"{amended.snapshot_id} was restored last, and the state was changed since. {changed}"))
    return None


def confirm(run: RollbackAttempt, found: LastRestore) -> RollbackOutcome | None:
    """Leave the state unchanged; restart the service if it is unhealthy, and check its health again.

    The service may have written data since the restore; only --force removes that data. Returns None when the service
    has changed the state while it was stopped, so that a restore is needed.
    """
    target, restart = found.target, None
    written_back: list[str] = []
    run.gate.open()  # nothing live will be changed
    health = await_health(run, target, None, is_first=True)
    if health is not None and not health.passed and run.settings.release.restart.command is not None:
        run.gate.close()  # the service must not start before it is known whether its files must be replaced
        if stop_service(run) and not in_place(run, target):
            return None
        restart = restart_service(run, target)
        health = await_health(run, target, restart)
        written_back = find_written_back_since(run.assets, target, run.pipeline)
    problems = describe_written_back(written_back, target.snapshot_id, run.hooks.stop_command)
    problems += find_problems(restart, health)
    advice = []
    if problems and not written_back:
        again = typed("release.rollback", "--snapshot", target.snapshot_id)
        exactly = "" if found.notes else f" To restore again, including the data: {again} --force"
        live = f"Snapshot {target.snapshot_id} is live already, so its data was not changed."
        advice = [f"{live}{exactly} To restart the service: {again} --restart-command CMD"]
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
        stop_command=run.hooks.stop_command,
        restart_command=restart.command if restart else None,
        diagnostics=(
            problems
            + doubts(run, target, restart, health)
            + run.notes_on(target, has_changes=False)
            + found.notes
            + advice
        ),
    )
    return _finish(run, outcome, target)


@contextlib.contextmanager
def service_kept(run: RollbackAttempt) -> Iterator[None]:
    """Start the service again when the block ends early after it was stopped, and say so; not on a mixed state."""
    try:
        yield
    except (StageError, OSError, Interrupted) as error:
        if not run.hooks.is_stopped:
            raise
        notes = [run.hooks.problem] if run.hooks.problem else []
        if run.pipeline.has_journal():
            notes.append("The service is stopped (release.restart.stop).")
        else:
            run.gate.open()
            with uninterrupted():
                notes.append(run.hooks.start_again())
        if isinstance(error, Interrupted):
            raise Interrupted(error.exit_code, " ".join(notes)) from error
        kind = StageFailed if isinstance(error, StageFailed | OSError) else type(error)
        raise kind(" ".join([describe_error(error), *notes])) from error


def require_restart(run: RollbackAttempt, target: SnapshotMetadata) -> None:
    """Raise StageFailed when the restart command certainly cannot be started, before anything is stopped or changed."""
    missing = None if run.pipeline.is_before_first(target) else missing_restart(run.settings)
    if missing is not None:
        command = f"{run.request.command} --restart-command CMD"
        raise StageFailed(f"{missing}. Nothing live was changed. To restart with another command: {command}")


def stop_service(run: RollbackAttempt) -> bool:
    """Stop the service before the safety copy, if a stop command is configured, and return whether it ran now.

    What the service holds in memory is then in its files, and no process can write it over the restored state.
    """
    if not run.hooks.stop():
        return False
    with contextlib.suppress(OSError):  # a full disk must not close the way to the earlier state
        run.pipeline.audit.append(
            "service.stopped",
            status="failed" if run.hooks.problem else "stopped",
            detail=run.hooks.problem or "the service was stopped before the rollback",
            rollbackId=run.rollback_id,
            command=run.hooks.stop_command,
        )
    return True


@contextlib.contextmanager
def safety_copy(run: RollbackAttempt, target: SnapshotMetadata) -> Iterator[SnapshotMetadata | None]:
    """Capture the live state, so that the rollback can itself be rolled back; the block publishes the snapshot.

    Yields None for a rollback without a safety snapshot. Raises StageFailed with the numbers and the command to type
    when the disk has no space for it.
    """
    if run.request.without_safety:
        yield None
        return
    run.emit(StepBegan("safety snapshot"))
    request = CaptureRequest(
        snapshot_id=f"safety_snapshot_{run.rollback_id}",
        release_id=None,
        kind="safety",
        retention_limit=run.settings.release.retention,
        audit=run.pipeline.audit.anchor(),
        parents=run.parents.record(run.closed_parents),
        allow_damaged=True,
    )
    advice = f"Nothing live was changed. {advise_without_safety(target)}"
    needs = capture_needs(run.pipeline.catalogue.store.folder, run.assets, "the safety copy")
    if problems := shortages(needs):
        raise StageFailed(f"{' '.join(problems)} {advice}")
    with contextlib.ExitStack() as captured:
        try:
            capture = unpublished_snapshot(run.pipeline.catalogue, run.assets, request, run.emit)
            metadata = captured.enter_context(capture)
        except Busy as error:
            raise StageFailed(f"{error.message} {_wait_longer(run)}") from error
        except (StageFailed, OSError) as error:
            if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in DiskFull.errnos):
                raise StageFailed(f"{describe_error(error)} {advice}") from error
            raise
        yield metadata


def live_records(run: RollbackAttempt, safety: SnapshotMetadata | None) -> dict[str, AssetRecord]:
    """Return the live state of each asset by key: from its safety copy, else whether it exists and can be read."""
    if safety is not None:
        return {captured.key: captured for captured in safety.assets}
    return {key: survey_asset(key, asset) for key, asset in run.assets.items()}


def publish(run: RollbackAttempt, safety: SnapshotMetadata | None) -> SnapshotMetadata | None:
    """Publish the safety snapshot, and return its final metadata."""
    if safety is None:
        return None
    return publish_safety_snapshot(run.pipeline.catalogue, safety, run.assets, available_signer(run.settings))


@contextlib.contextmanager
def staged(
    run: RollbackAttempt, target: SnapshotMetadata, plan: RollbackPlan, stores: HeldStores
) -> Iterator[list[JournalStep]]:
    """Stage the new state next to each changing asset; remove the staged copies when no journal needs them."""
    run.emit(StepBegan("stage"))
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    try:
        steps = []
        for change in plan.changes:
            asset, captured = run.assets[change.key], target.asset(change.key)
            if change.action != "keep" and captured is not None:
                stored = stored_path(folder, captured)
                require_replaceable(asset.path, captured, stored, must_exchange=change.has_gaps)
                is_usable = change.exists_live and not change.is_live_damaged
                if captured.exists:
                    run.created_parents.extend(run.parents.create(change.key, target))
                step = asset.kind.stage(asset, captured, stored, run.rollback_id, is_usable=is_usable, emit=run.emit)
                steps.append(evolve(step, exchange_only=change.has_gaps and step.action == "place"))
        stores.hold_staged(target, run.rollback_id)
        # Databases first: only they can still fail for lack of space or a lock, and then no file has been exchanged.
        # Without a safety snapshot they are last: an exchange of files can be undone, a commit of a database cannot.
        yield sorted(steps, key=lambda step: (step.action == "database") == run.request.without_safety)
    finally:
        if not run.pipeline.has_journal():
            for asset in run.assets.values():
                asset.kind.finish(asset, [run.rollback_id])
            remove_empty(run.created_parents)


def lock_all(
    run: RollbackAttempt, target: SnapshotMetadata, steps: list[JournalStep]
) -> contextlib.AbstractContextManager[Mapping[str, Hold]]:
    """Hold the locks of all databases that change, or of none; a signal ends the wait for them."""
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    stored = {captured.key: stored_path(folder, captured) for captured in target.assets}
    return locked(run.assets, steps, stored, LockWait(run.settings.release.lock_wait, run.emit), _wait_longer(run))


def _wait_longer(run: RollbackAttempt) -> str:
    return f"Nothing live was changed. To wait longer: {run.request.command} --lock-wait 2m"


def write_all(run: RollbackAttempt, holds: Mapping[str, Hold]) -> None:
    """Write the new content of all databases, without a commit: a full disk shows before anything is changed."""
    try:
        for key, hold in holds.items():
            hold.write(Meter(run.emit, "restore", key, 0).reach)
    except (StageFailed, OSError) as error:
        raise StageFailed(f"{describe_error(error)} Nothing live was changed.") from error


def commit(
    run: RollbackAttempt,
    target: SnapshotMetadata,
    safety: SnapshotMetadata | None,
    steps: list[JournalStep],
    holds: Mapping[str, Hold],
) -> Swap:
    """Write the journal, the commit point: after a crash from here on, recovery completes the rollback."""
    run.emit(StepBegan("swap"))
    run.gate.enter("swap")
    journal = RollbackJournal(
        journal_version=JOURNAL_VERSION,
        rollback_id=run.rollback_id,
        snapshot_id=target.snapshot_id,
        safety_snapshot_id=safety.snapshot_id if safety is not None else None,
        direction="forward",
        started_at=run.started_at,
        lineage=run.lineage,
        steps=steps,
        created_parents=[str(folder) for folder in run.created_parents],
    )
    swap = Swap(
        pipeline=run.pipeline,
        parents=run.parents,
        target=target,
        safety=safety,
        journal=journal,
        holds=holds,
        emit=run.emit,
    )
    swap.require_targets()
    try:
        write_journal(run.pipeline, journal)
    except OSError as error:
        result = "Nothing live was changed."
        try:
            # The rename may have succeeded, and then the next command would complete a rollback reported as failed.
            clear_journal(run.pipeline)
        except OSError:
            result = (
                f"The next command may complete this rollback: run `{typed('release.recover')}` before you start the "
                "service."
            )
        raise StageFailed(f"{describe_error(error)} {result}") from error
    return swap


def swap_in(run: RollbackAttempt, swap: Swap) -> None:
    """Swap in the new state and record that it is live; undo all steps when one fails."""
    try:
        swap.forward()
    except (StageError, OSError) as error:
        raise StageFailed(f"{describe_error(error)} {_undo(run, swap)}") from error
    assert swap.target is not None
    run.closed_parents.clear()
    try:
        run.recorder.mark_restored(swap.target, swap.safety)
    except OSError as error:
        live = f"Snapshot {swap.target.snapshot_id} is live, but this could not be recorded."
        raise StageFailed(f"{describe_error(error)} {live} {NOT_RESTARTED}") from error
    clear_journal(run.pipeline)


def restart_service(run: RollbackAttempt, target: SnapshotMetadata) -> Restart | None:
    """Open the start gate and start the restart hook, detached; return None when no hook is configured.

    The hook itself may start the service through the gate. Before the first deployment there was no service to start.
    """
    run.gate.open()
    return None if run.pipeline.is_before_first(target) else run.hooks.start()


def await_health(
    run: RollbackAttempt, target: SnapshotMetadata, restart: Restart | None, *, is_first: bool = False
) -> HealthReport | None:
    """Check health until it passes or the deadline is over; return None when there is none to check.

    No endpoint may be configured, and before the first deployment there was no service. The end of the restart
    command is watched meanwhile: until then the process before it may answer.
    """
    health = run.settings.release.health
    questions = run.settings.release.questions
    if not questions or run.pipeline.is_before_first(target):
        return None
    run.emit(StepBegan("health"))
    before = run.pipeline.baseline_of(target)
    if is_first:  # a noop depends on it, and one answer of a service that flaps says nothing
        return sample_health(health, questions, before=before, emit=run.emit)
    # One request is enough if the restart failed, and while the service is stopped.
    if run.hooks.is_stopped or (restart is not None and restart.failed):
        return poll_health(health, passes=1, questions=questions, deadline=0.0, emit=run.emit, before=before)
    deadline = health.deadline + (restart.unsettled() if restart is not None else 0.0)
    return poll_health(
        health,
        passes=health.passes_after_restore,
        questions=questions,
        deadline=deadline,
        emit=run.emit,
        start=restart,
        before=before,
    )


def doubts(
    run: RollbackAttempt, target: SnapshotMetadata, restart: Restart | None, health: HealthReport | None
) -> list[str]:
    """Return what the operator must know about the service although no check failed."""
    is_before_first = run.pipeline.is_before_first(target)
    return find_doubts(run.hooks, target, restart, health, is_before_first=is_before_first)


def record(
    run: RollbackAttempt,
    target: SnapshotMetadata,
    safety: SnapshotMetadata | None,
    plan: RollbackPlan,
    restart: Restart | None,
    health: HealthReport | None,
    written_back: list[str],
) -> RollbackOutcome:
    """Decide the outcome, write state and audit event, and apply retention."""
    problems = describe_written_back(written_back, target.snapshot_id, run.hooks.stop_command)
    problems += find_problems(restart, health)
    changes: Mapping[str, Drift] = {}
    if safety is not None:
        folder = run.pipeline.catalogue.path(safety.snapshot_id)
        changes = find_changes(run.pipeline, target, folder, safety.assets, plan.keys("restore"))
    live = "The rest of the restored state" if written_back else "The restored state"
    advice = [f"{live} stays live. {undo_option(safety, run.settings, run.pipeline)}"] if problems else []
    outcome = RollbackOutcome(
        status="failed" if problems else "restored",
        snapshot_id=target.snapshot_id,
        started_at=run.started_at,
        completed_at=timestamp(),
        restored_assets=plan.keys("restore"),
        skipped_assets=plan.keys("keep"),
        removed_assets=plan.keys("remove"),
        removed_rows=removed_rows(changes),
        damaged_assets=[captured.key for captured in safety.assets if captured.damaged] if safety else [],
        safety_snapshot_id=safety.snapshot_id if safety else None,
        health_check=health,
        stop_command=run.hooks.stop_command,
        restart_command=restart.command if restart else None,
        diagnostics=(
            problems
            + doubts(run, target, restart, health)
            + run.notes_on(target, has_changes=plan.has_changes)
            + (describe_changes(changes, safety.snapshot_id) if safety else [])
            + plan.diagnostics
            + advice
        ),
    )
    outcome = _finish(run, outcome, target)
    return after_retention(run.settings, run.pipeline, outcome)


def _finish(run: RollbackAttempt, outcome: RollbackOutcome, target: SnapshotMetadata) -> RollbackOutcome:
    """Record the outcome; an outcome that cannot be recorded is ``failed``, although the snapshot is live."""
    if outcome.status != "failed" and outcome.health_check is None and not run.pipeline.is_before_first(target):
        outcome = evolve(outcome, diagnostics=[*outcome.diagnostics, NOT_ASKED])
    try:
        run.recorder.finish(outcome, target)
        return outcome
    except OSError as error:
        problem = f"{describe_error(error)} Snapshot {target.snapshot_id} is live, but this could not be recorded."
        outcome = evolve(outcome, status="failed", diagnostics=[problem, *outcome.diagnostics])
        with contextlib.suppress(OSError):  # the error may have been temporary
            run.recorder.finish(outcome, target)
        return outcome


def _undo(run: RollbackAttempt, swap: Swap) -> str:
    """Undo the completed steps of the swap and return a message; if the undo fails, recovery continues it."""
    # These come back from the safety copy, which was taken before the locks were held.
    committed = [step.key for step in swap.journal.steps if step.action == "database" and (step.begun or step.done)]
    try:
        swap.back()
        clear_journal(run.pipeline)
    except (StageError, OSError) as error:
        return (
            f"The undo also failed, and the live state may be mixed: {describe_error(error)} "
            f"Fix it, then run `{typed('release.recover')}` before you start the service."
        )
    undone = "The rollback was undone; the earlier state is back in place."
    if committed:
        missing = "rows that were committed between the safety snapshot and the swap are missing"
        undone += f" In {', '.join(committed)}, {missing}."
    return undone
