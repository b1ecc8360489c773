"""Finish or undo what an interrupted run left; quick and harmless when there is nothing to do.

This is the service's start gate: between a crash in mid-swap and the next command the live state is mixed, so nothing
should open it before ``recover`` has run.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.assets.placing import leftovers, with_current_devices
from release_tasks.config.schema import Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import LockHeld, StageError, StageFailed, describe_error, with_path
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import run_lock
from release_tasks.core.records import JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.rollback.journal import clear_journal, read_journal
from release_tasks.stages.rollback.recorder import Recorder
from release_tasks.stages.rollback.swap import Swap
from release_tasks.stages.stage import require_assets, stage

__all__ = ["RecoveryReport", "complete_interrupted", "pending", "recover", "recover_locked"]

_LOCK_SECONDS = 60.0


@frozen(kw_only=True)
class RecoveryReport:
    """What was found and done. ``finished`` and ``undone`` concern a rollback that had begun to swap.

    ``pending`` is what a look without acting says when there is something to do.
    """

    status: Literal["clean", "finished", "undone", "discarded", "pending"]
    detail: str
    snapshot_id: str | None = None
    removed: list[str] = field(factory=list)


def recover(
    settings: Settings, *, look_only: bool = False, emit: Emit = ignore, notices: Notifications | None = None
) -> RecoveryReport:
    """Finish or undo what an interrupted run left; quick and harmless when there is nothing to do.

    With ``look_only`` it is said and left alone. Raises StageFailed when neither direction can be completed, LockHeld
    when a rollback that swaps right now takes longer than a minute.
    """
    pipeline = Pipeline(settings.release.root)
    if look_only:
        require_assets(settings)
        return pending(settings, pipeline)
    with stage(settings, pipeline, "release.recover", notices):
        return complete_interrupted(settings, pipeline, "release.recover", emit)


def complete_interrupted(settings: Settings, pipeline: Pipeline, command: str, emit: Emit = ignore) -> RecoveryReport:
    """Bring the live state back to exactly old or exactly new after an interrupted run.

    Waits up to a minute for a rollback that is swapping right now; whatever else another run is doing is left to it.
    Raises LockHeld when that minute was too short, StageFailed when neither direction can be completed.
    """
    is_swapping = read_journal(pipeline) is not None
    report: RecoveryReport | None = None
    try:
        if not is_swapping and not _is_anything_left(settings, pipeline):
            return RecoveryReport(status="clean", detail="Nothing to recover.")
        wait = _LOCK_SECONDS if is_swapping else 0.0
        with with_path(pipeline.root / "lock"), run_lock(pipeline.root, command, wait):
            report = recover_locked(settings, pipeline, shielded(emit))
            return report
    except OSError as error:
        if report is not None:  # only the lock could not be given back
            return report
        if is_swapping:
            raise StageFailed(f"{describe_error(error)} Mend that and run `inv release.recover` again.") from error
        # What is left over harms nobody, and a service must not stay down for it.
        detail = f"No live state waits to be recovered. What an earlier run left stays for now: {describe_error(error)}"
        return RecoveryReport(status="clean", detail=detail)
    except LockHeld:
        if pipeline.has_journal():
            if is_swapping:
                raise
            # It has begun to swap since the first look: now it is waited for.
            return complete_interrupted(settings, pipeline, command, emit)
        # Another run is at work and has not begun to swap, or is done with it: what lies here is its own.
        return RecoveryReport(status="clean", detail="Another run is at work; nothing of it needs recovery.")


def pending(settings: Settings, pipeline: Pipeline) -> RecoveryReport:
    """Say what ``recover`` would find, and change nothing."""
    journal = read_journal(pipeline)
    if journal is not None:
        sentence = f"A rollback to {journal.snapshot_id} was interrupted; `inv release.recover` completes it."
        return RecoveryReport(status="pending", detail=sentence, snapshot_id=journal.snapshot_id)
    if _is_anything_left(settings, pipeline):
        return RecoveryReport(status="pending", detail="An interrupted or running command has files here.")
    return RecoveryReport(status="clean", detail="Nothing to recover.")


def recover_locked(settings: Settings, pipeline: Pipeline, emit: Emit = ignore) -> RecoveryReport:
    """Do the same with the lock already held; every rollback and prepare begins with it."""
    journal = read_journal(pipeline)
    if journal is not None:
        _require_same_assets(settings, journal.steps)
        try:
            with uninterrupted():
                report = _complete(settings, pipeline, journal, emit)
        except (StageError, OSError) as error:
            raise StageFailed(
                f"The interrupted rollback to {journal.snapshot_id} could not be completed, and the live state may be "
                f"part old, part new: {describe_error(error)} "
                "Mend that and run `inv release.recover`; start nothing before."
            ) from error
        _discard_staged(settings)
        with contextlib.suppress(OSError):  # the live state is whole; the next run clears the rest
            pipeline.clean_up()
        return report
    removed = [str(path) for path in _discard_staged(settings)] + pipeline.clean_up()
    state = pipeline.known_state()
    if state is not None and state.status == "in_progress":
        detail = "it left no journal, so nothing live had been swapped"
        if state.restored:
            detail = "its snapshot is live, and health was not asked"
        anchor = pipeline.audit.append(
            "rollback.recovered",
            status="restored" if state.restored else "failed",
            detail=detail,
            snapshot_id=state.snapshot_id,
            rollbackId=state.rollback_id,
        )
        pipeline.write_state(evolve(state, status="failed", updated_at=timestamp(), detail=detail, audit=anchor))
        sentence = f"A rollback to {state.snapshot_id} had ended before it was done; {detail}."
        return RecoveryReport(status="discarded", detail=sentence, snapshot_id=state.snapshot_id, removed=removed)
    if removed:
        detail = "Removed what an interrupted run had left; no live state had been touched."
        return RecoveryReport(status="discarded", detail=detail, removed=removed)
    return RecoveryReport(status="clean", detail="Nothing to recover.")


def _complete(settings: Settings, pipeline: Pipeline, journal: RollbackJournal, emit: Emit) -> RecoveryReport:
    """Roll a journal forward, or back when it says so or when forward turns out to be impossible."""
    failure = ""
    is_forward = journal.direction == "forward"
    journal = evolve(journal, steps=[with_current_devices(step) for step in journal.steps])
    swap = Swap(pipeline=pipeline, assets=settings.release.assets, target=None, safety=None, journal=journal, emit=emit)
    if is_forward:
        try:
            swap.target = _intact(pipeline, journal.snapshot_id, emit)
            emit(StepBegan("finish", f"the rollback to {journal.snapshot_id}"))
            swap.forward()
        except (StageError, OSError) as error:
            is_forward, failure = False, describe_error(error)
    if not is_forward:
        swap.safety = _intact(pipeline, journal.safety_snapshot_id, emit)
        emit(StepBegan("undo", f"the rollback to {journal.snapshot_id}"))
        swap.back()
    detail = f"rolled {'forward' if is_forward else 'back'} by recovery{': ' + failure if failure else ''}"
    anchor = pipeline.audit.append(
        "rollback.recovered",
        status="restored" if is_forward else "failed",
        detail=detail,
        snapshot_id=journal.snapshot_id,
        rollbackId=journal.rollback_id,
        safetySnapshotId=journal.safety_snapshot_id,
    )
    recorder = Recorder(pipeline=pipeline, rollback_id=journal.rollback_id, lineage=journal.lineage)
    status: Literal["success", "failed"] = "success" if is_forward else "failed"
    detail = f"{detail}; health was not asked"
    safety = journal.safety_snapshot_id
    pipeline.write_state(recorder.state(journal.snapshot_id, status, detail, anchor, is_live=is_forward, safety=safety))
    clear_journal(pipeline)
    if is_forward:
        sentence = f"Finished the interrupted rollback to {journal.snapshot_id}. Health was not asked."
        return RecoveryReport(status="finished", detail=sentence, snapshot_id=journal.snapshot_id)
    sentence = f"Undid the interrupted rollback to {journal.snapshot_id}; the state before it is back."
    return RecoveryReport(status="undone", detail=sentence, snapshot_id=journal.snapshot_id)


def _intact(pipeline: Pipeline, snapshot_id: str, emit: Emit) -> SnapshotMetadata:
    snapshot = pipeline.catalogue.get(snapshot_id)
    emit(StepBegan("verify", snapshot_id))
    require_intact(pipeline.catalogue, snapshot, emit)
    return snapshot


def _discard_staged(settings: Settings) -> list[Path]:
    return [path for asset in settings.release.assets.values() for path in asset.kind.finish(asset)]


def _is_anything_left(settings: Settings, pipeline: Pipeline) -> bool:
    if any(leftovers(asset.path) for asset in settings.release.assets.values()) or pipeline.has_leftovers():
        return True
    state = pipeline.known_state()
    return state is not None and state.status == "in_progress"


def _require_same_assets(settings: Settings, steps: list[JournalStep]) -> None:
    assets = settings.release.assets
    moved = [f"{s.key} at {s.path}" for s in steps if s.key not in assets or str(assets[s.key].path) != s.path]
    if moved:
        raise StageFailed(
            f"An interrupted rollback concerns {', '.join(moved)}, which release.assets does not name any more. "
            "Put it back into the configuration and run `inv release.recover`."
        )
