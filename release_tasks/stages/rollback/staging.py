"""Prepare the new state next to the live one, and hold the databases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from attrs import evolve

from release_tasks.archive.parents import remove_empty
from release_tasks.assets.base import Hold
from release_tasks.assets.protection import require_replaceable
from release_tasks.assets.stored import stored_path
from release_tasks.assets.waiting import LockWait
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.events import Meter, StepBegan
from release_tasks.core.records import JournalStep, SnapshotMetadata
from release_tasks.stages.rollback.attempt import RollbackAttempt
from release_tasks.stages.rollback.locking import locked
from release_tasks.stages.rollback.plan import RollbackPlan
from release_tasks.stages.rollback.scanning import Scans
from release_tasks.stages.rollback.stores import HeldStores

__all__ = ["lock_all", "staged", "write_all"]


@contextlib.contextmanager
def staged(
    run: RollbackAttempt, target: SnapshotMetadata, plan: RollbackPlan, stores: HeldStores
) -> Iterator[list[JournalStep]]:
    """Stage the new state next to each changing asset; remove the staged copies when no journal needs them."""
    run.emit(StepBegan("stage"))
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    steps: list[JournalStep] = []
    try:
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
                asset.kind.finish(asset, [run.rollback_id], steps, run.emit)
            remove_empty(run.created_parents)


def lock_all(
    run: RollbackAttempt, target: SnapshotMetadata, steps: list[JournalStep], scans: Scans
) -> contextlib.AbstractContextManager[Mapping[str, Hold]]:
    """Hold the locks of all databases that change, or of none; a signal ends the wait for them."""
    scans.release_others(steps)
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    stored = {captured.key: (captured, stored_path(folder, captured)) for captured in target.assets}
    return locked(
        run.assets,
        steps,
        stored,
        scans.opened,
        LockWait(run.settings.release.lock_wait, run.emit),
        run.request.longer_wait,
    )


def write_all(run: RollbackAttempt, holds: Mapping[str, Hold]) -> None:
    """Write the new content of all databases, without a commit: a full disk shows before anything is changed."""
    try:
        for key, hold in holds.items():
            hold.write(Meter(run.emit, "restore", key, 0).reach)
    except (StageFailed, OSError) as error:
        raise StageFailed(f"{describe_error(error)} Nothing live was changed.") from error
