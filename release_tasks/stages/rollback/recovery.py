"""Recovery: finish or undo an interrupted rollback, and remove leftovers; quick and safe when there is nothing to do.

It is meant as the service's start gate: after a crash during the swap the live state is mixed, so no process should
open it before ``recover`` has run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive.attestation.signing import available_signer
from release_tasks.archive.parents import Parents, remove_empty
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.recorded import read_recorded
from release_tasks.archive.verify import require_intact
from release_tasks.assets.placing import leftovers, with_current_devices
from release_tasks.config.schema import Settings
from release_tasks.core.clock import awake, timestamp
from release_tasks.core.errors import LockHeld, StageError, StageFailed, describe_error, with_path
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import current_holder, run_lock
from release_tasks.core.records import JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.core.units import show_duration
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.rollback.journal import clear_journal, read_journal
from release_tasks.stages.rollback.recorder import Recorder
from release_tasks.stages.rollback.start_gate import await_open
from release_tasks.stages.rollback.swap import Swap
from release_tasks.stages.stage import require_assets, stage

__all__ = ["GATE_SECONDS", "RecoveryReport", "complete_interrupted", "pending", "recover", "recover_locked"]

GATE_SECONDS = 60.0


@frozen(kw_only=True)
class RecoveryReport:
    """The result of a recovery. ``finished`` and ``undone`` are about a rollback that was interrupted during its swap.

    ``pending`` means that there is something to do, in a check that changes nothing.
    """

    status: Literal["clean", "finished", "undone", "discarded", "pending"]
    detail: str
    snapshot_id: str | None = None
    removed: list[str] = field(factory=list)


def recover(
    settings: Settings,
    *,
    wait: float = GATE_SECONDS,
    look_only: bool = False,
    unverified: bool = False,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> RecoveryReport:
    """Finish or undo an interrupted rollback, and remove leftovers; quick and safe when there is nothing to do.

    It is the start gate of the service: while a rollback runs that has not finished its swap, it waits up to ``wait``
    seconds. With ``look_only`` it reports what it would do, does not wait and changes nothing. With ``unverified`` it
    also restores a snapshot without complete records. Raises StageFailed when the rollback can be neither finished nor
    undone, LockHeld when the time is over.
    """
    pipeline = Pipeline(settings.release.root)
    if look_only:
        require_assets(settings)
        return pending(settings, pipeline)
    with stage(settings, pipeline, "release.recover", notices):
        deadline = awake.now() + wait
        _await_swap(pipeline, wait, emit)
        remaining = max(deadline - awake.now(), 0.0)
        return complete_interrupted(settings, pipeline, "release.recover", emit, wait=remaining, unverified=unverified)


def _await_swap(pipeline: Pipeline, wait: float, emit: Emit) -> None:
    """Wait up to ``wait`` seconds while a rollback runs that has not finished its swap. Raises LockHeld."""
    try:
        if await_open(pipeline.root, 0.0):
            return
        emit(StepBegan("wait", f"for a rollback that has not finished its swap, up to {show_duration(wait)}"))
        if await_open(pipeline.root, wait):
            return
    except OSError as error:
        raise StageFailed(f"It is unknown whether a rollback runs: {describe_error(error)}") from error
    holder = current_holder(pipeline.root)
    raise LockHeld(
        f"A rollback has not finished its swap{f': {holder}' if holder else ''}. Do not start the service yet: try "
        f"again, or wait longer: {typed('release.recover', '--wait', '10m')}"
    )


def complete_interrupted(
    settings: Settings,
    pipeline: Pipeline,
    command: str,
    emit: Emit = ignore,
    *,
    wait: float = GATE_SECONDS,
    unverified: bool = False,
) -> RecoveryReport:
    """Bring the live state to exactly old or exactly new after an interrupted rollback.

    Waits up to ``wait`` seconds for a running swap, and does not wait for other commands. Raises LockHeld when the swap
    takes longer, StageFailed when the rollback can be neither finished nor undone.
    """
    is_swapping = read_journal(pipeline) is not None
    report: RecoveryReport | None = None
    try:
        if not is_swapping and not _has_leftovers(settings, pipeline):
            return RecoveryReport(status="clean", detail="Nothing to recover.")
        lock_wait = wait if is_swapping else 0.0
        with with_path(pipeline.root / "lock"), run_lock(pipeline.root, command, lock_wait, shielded(emit)):
            report = recover_locked(settings, pipeline, shielded(emit), unverified=unverified)
            return report
    except OSError as error:
        if report is not None:  # only the release of the lock failed
            return report
        if is_swapping:
            raise StageFailed(
                f"{describe_error(error)} Fix it, then run `{typed('release.recover')}` again."
            ) from error
        # Leftovers are harmless, so an error here must not prevent the start of the service.
        detail = f"No live state needs recovery. Leftovers of a command could not be removed: {describe_error(error)}"
        return RecoveryReport(status="clean", detail=detail)
    except LockHeld:
        if pipeline.has_journal():
            if is_swapping:
                raise
            # The other command has started its swap since the first check: wait for it.
            return complete_interrupted(settings, pipeline, command, emit, wait=wait, unverified=unverified)
        # The other command has not started its swap, or has finished it: the files here belong to it.
        return RecoveryReport(status="clean", detail="Another command is running; it needs no recovery.")


def pending(settings: Settings, pipeline: Pipeline) -> RecoveryReport:
    """Report what ``recover`` would find; changes nothing."""
    journal = read_journal(pipeline)
    if journal is not None:
        detail = f"A rollback to {journal.snapshot_id} was interrupted; `{typed('release.recover')}` completes it."
        return RecoveryReport(status="pending", detail=detail, snapshot_id=journal.snapshot_id)
    if _has_leftovers(settings, pipeline):
        return RecoveryReport(
            status="pending",
            detail="Files of an interrupted or running command exist. If no command is running, "
            f"`{typed('release.recover')}` removes them.",
        )
    return RecoveryReport(status="clean", detail="Nothing to recover.")


def recover_locked(
    settings: Settings, pipeline: Pipeline, emit: Emit = ignore, *, unverified: bool = False
) -> RecoveryReport:
    """Recover with the lock already held; every rollback starts with it."""
    journal = read_journal(pipeline)
    if journal is not None:
        _require_same_assets(settings, journal.steps)
        records = Provenance(settings, pipeline)
        records.require_journal(journal, unverified=unverified)
        try:
            with uninterrupted():
                steps = [with_current_devices(step) for step in journal.steps]
                report = _complete(_Sources(pipeline, records, unverified, emit), settings, journal)
        except (StageError, OSError) as error:
            raise StageFailed(
                f"The interrupted rollback to {journal.snapshot_id} could not be completed, and the live state may be "
                f"mixed: {describe_error(error)} Fix it, then run `{typed('release.recover')}` before you start the "
                "service."
            ) from error
        _discard_staged(settings, [journal.rollback_id], emit, steps)
        if report.status == "undone":
            remove_empty(Path(path) for path in journal.created_parents)
        with contextlib.suppress(OSError):  # the live state is consistent; the next command removes the rest
            pipeline.clean_up()
        return report
    state = pipeline.known_state()
    ids = [state.rollback_id] if state is not None and state.rollback_id is not None else []
    removed = [str(path) for path in _discard_staged(settings, ids, emit)] + pipeline.clean_up()
    if state is not None and state.status == "in_progress":
        detail = "it left no journal, so no live asset was changed"
        # A copy of the file of an earlier rollback says what is not so: the log has the rollback that is not finished.
        recorded = read_recorded(pipeline.audit.verify().events)
        is_open = state.rollback_id is not None and recorded.open_rollback == state.rollback_id
        state = evolve(state, restored=state.restored and is_open)
        if state.restored:
            detail = "its snapshot is live, and health was not checked"
        anchor = pipeline.audit.append(
            "rollback.recovered",
            status="restored" if state.restored else "failed",
            detail=detail,
            snapshot_id=state.snapshot_id,
            rollbackId=state.rollback_id,
        )
        pipeline.write_state(evolve(state, status="failed", updated_at=timestamp(), detail=detail, audit=anchor))
        message = f"The rollback to {state.snapshot_id} was interrupted; {detail}."
        return RecoveryReport(status="discarded", detail=message, snapshot_id=state.snapshot_id, removed=removed)
    if removed:
        detail = "Removed the leftovers of an interrupted command; the live state was not changed."
        return RecoveryReport(status="discarded", detail=detail, removed=removed)
    return RecoveryReport(status="clean", detail="Nothing to recover.")


@frozen
class _Sources:
    """The snapshots of an interrupted rollback, each of which must be intact and on record."""

    pipeline: Pipeline
    records: Provenance
    unverified: bool
    emit: Emit

    def get(self, snapshot_id: str) -> SnapshotMetadata:
        """Return a snapshot; raises StageError, OSError when it cannot be trusted."""
        snapshot = self.pipeline.catalogue.get(snapshot_id)
        self.emit(StepBegan("verify", snapshot_id))
        require_intact(self.pipeline.catalogue, snapshot, self.emit)
        command = typed("release.recover", "--unverified")
        self.records.require(snapshot, command=command, unverified=self.unverified)
        return snapshot


def _complete(sources: _Sources, settings: Settings, journal: RollbackJournal) -> RecoveryReport:
    """Roll a journal forward; roll it back if that is its direction or if forward fails."""
    pipeline, emit = sources.pipeline, sources.emit
    failure = ""
    is_forward = journal.direction == "forward"
    journal = evolve(journal, steps=[with_current_devices(step) for step in journal.steps])
    parents = Parents(settings.project, settings.release.assets)
    signer = available_signer(settings)
    swap = Swap(pipeline=pipeline, parents=parents, target=None, safety=None, journal=journal, signer=signer, emit=emit)
    if is_forward and swap.is_untouched:
        return _discard(pipeline, journal)
    if is_forward:
        try:
            swap.target = sources.get(journal.snapshot_id)
            emit(StepBegan("finish", f"the rollback to {journal.snapshot_id}"))
            swap.forward_again()
        except (StageError, OSError) as error:
            is_forward, failure = False, describe_error(error)
    if not is_forward:
        if journal.safety_snapshot_id is not None:
            swap.safety = sources.get(journal.safety_snapshot_id)
        emit(StepBegan("undo", f"the rollback to {journal.snapshot_id}"))
        try:
            swap.back()
        except StageFailed as error:
            raise StageFailed(f"{failure} {error.message}".strip()) from error
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
    detail = f"{detail}; health was not checked"
    safety = journal.safety_snapshot_id
    pipeline.write_state(recorder.state(journal.snapshot_id, status, detail, anchor, is_live=is_forward, safety=safety))
    clear_journal(pipeline)
    if is_forward:
        message = f"Finished the interrupted rollback to {journal.snapshot_id}. Health was not checked."
        return RecoveryReport(status="finished", detail=message, snapshot_id=journal.snapshot_id)
    message = f"Undid the interrupted rollback to {journal.snapshot_id}; the earlier state is back in place."
    return RecoveryReport(status="undone", detail=message, snapshot_id=journal.snapshot_id)


def _discard(pipeline: Pipeline, journal: RollbackJournal) -> RecoveryReport:
    """Give up a rollback that had changed nothing: the service may have gone on with the earlier state."""
    detail = "given up by recovery: it had changed nothing"
    anchor = pipeline.audit.append(
        "rollback.recovered",
        status="failed",
        detail=detail,
        snapshot_id=journal.snapshot_id,
        rollbackId=journal.rollback_id,
        safetySnapshotId=journal.safety_snapshot_id,
    )
    recorder = Recorder(pipeline=pipeline, rollback_id=journal.rollback_id, lineage=journal.lineage)
    state = recorder.state(
        journal.snapshot_id, "failed", detail, anchor, is_live=False, safety=journal.safety_snapshot_id
    )
    pipeline.write_state(state)
    clear_journal(pipeline)
    message = f"Gave up the interrupted rollback to {journal.snapshot_id}: it had changed nothing."
    return RecoveryReport(status="undone", detail=message, snapshot_id=journal.snapshot_id)


def _discard_staged(
    settings: Settings, rollback_ids: list[str], emit: Emit, steps: Collection[JournalStep] = ()
) -> list[Path]:
    assets = settings.release.assets.values()
    return [path for asset in assets for path in asset.kind.finish(asset, rollback_ids, steps, emit)]


def _has_leftovers(settings: Settings, pipeline: Pipeline) -> bool:
    state = pipeline.known_state()
    ids = [state.rollback_id] if state is not None and state.rollback_id is not None else []
    if any(leftovers(asset.path, ids) for asset in settings.release.assets.values()) or pipeline.has_leftovers():
        return True
    return state is not None and state.status == "in_progress"


def _require_same_assets(settings: Settings, steps: list[JournalStep]) -> None:
    assets = settings.release.assets
    missing = [f"{s.key} at {s.path}" for s in steps if s.key not in assets or str(assets[s.key].path) != s.path]
    if missing:
        raise StageFailed(
            f"An interrupted rollback has steps for {', '.join(missing)}, which is no longer in release.assets. "
            f"Add it to the configuration again, then run `{typed('release.recover')}`."
        )
