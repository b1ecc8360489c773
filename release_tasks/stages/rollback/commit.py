"""The commit point of a rollback, and the swap after it."""

from __future__ import annotations

from collections.abc import Mapping

from release_tasks.archive.attestation.signing import available_signer
from release_tasks.assets.base import Hold
from release_tasks.core.errors import StageError, StageFailed, describe_error
from release_tasks.core.events import StepBegan
from release_tasks.core.records import JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.stages.rollback.attempt import NOT_RESTARTED, RollbackAttempt
from release_tasks.stages.rollback.journal import JOURNAL_VERSION, clear_journal, write_journal
from release_tasks.stages.rollback.swap import Swap

__all__ = ["commit", "swap_in"]


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
        steps=[holds[step.key].noted(step) if step.key in holds else step for step in steps],
        created_parents=[str(folder) for folder in run.created_parents],
    )
    swap = Swap(
        pipeline=run.pipeline,
        parents=run.parents,
        target=target,
        safety=safety,
        journal=journal,
        holds=holds,
        signer=available_signer(run.settings),
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
