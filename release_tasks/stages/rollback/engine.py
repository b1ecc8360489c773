"""The rollback itself, in the order of the runbook."""

from __future__ import annotations

import contextlib
import secrets
from typing import Literal

from attrs import evolve, frozen

from release_tasks.archive import legacy
from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact, stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.clock import compact, timestamp
from release_tasks.core.errors import (
    Interrupted,
    LockHeld,
    StageError,
    StageFailed,
    UsageError,
    describe_error,
    with_path,
)
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import run_lock
from release_tasks.core.records import HealthReport, JournalStep, RollbackJournal, RollbackOutcome, SnapshotMetadata
from release_tasks.service import ask_health
from release_tasks.stages.rollback.adoption import adopt_legacy
from release_tasks.stages.rollback.amendment import amend_target, find_amended, foresee
from release_tasks.stages.rollback.in_place import InPlace, find_in_place
from release_tasks.stages.rollback.journal import JOURNAL_VERSION, clear_journal, write_journal
from release_tasks.stages.rollback.plan import AssetChange, RollbackPlan, plan_changes, remarks_on_safety
from release_tasks.stages.rollback.precondition import Overtaken, Standing, require_standing
from release_tasks.stages.rollback.recorder import Account, record_refusal
from release_tasks.stages.rollback.recovery import recover_locked
from release_tasks.stages.rollback.restart import Restart, start_detached
from release_tasks.stages.rollback.staging import discard_staged, inode_of, stage_asset
from release_tasks.stages.rollback.stores import HeldStores, hold_stores
from release_tasks.stages.rollback.swap import Swap, ordered

__all__ = ["RollbackRequest", "rollback"]

_GO_ON = "Restart and health were not reached: restart the service and see that it is well."


@frozen(kw_only=True)
class RollbackRequest:
    """What was typed. ``wait`` is how many seconds to wait for another run's lock.

    ``only_while`` makes the request void once anything was prepared or restored since.
    """

    snapshot_id: str | None = None
    health_url: str | None = None
    restart_command: str | None = None
    force: bool = False
    wait: float = 0.0
    only_while: Standing | None = None


def rollback(settings: Settings, request: RollbackRequest, emit: Emit = ignore) -> RollbackOutcome:
    """Restore a snapshot whole, restart the service and judge its health.

    Returns the outcome, also a failed one. Raises UsageError for a snapshot that does not exist, LockHeld when another
    run is at work, Overtaken when the request is void, Interrupted after a signal; the live state is whole in each
    case, and every attempt is audited.
    """
    pipeline = Pipeline(settings.release.root)
    started_at = timestamp()
    has_lock = False
    outcome: RollbackOutcome | None = None
    try:
        with with_path(pipeline.root / "lock"), run_lock(pipeline.root, "release.rollback", request.wait):
            has_lock = True
            outcome = _with_lock(settings, request, pipeline, shielded(emit), started_at)
            return outcome
    except OSError as error:
        # The lock itself: it cannot be taken, or not be given back once all is done.
        if outcome is None:
            outcome = _failed(pipeline, request, started_at, error)
            _note_refusal(pipeline, request, "failed", describe_error(error))
        return outcome
    except (LockHeld, Interrupted) as error:
        if not has_lock:
            _note_refusal(pipeline, request, "refused", str(error))
        raise


def _note_refusal(pipeline: Pipeline, request: RollbackRequest, status: str, detail: str) -> None:
    """Write an attempt without the lock into the audit log alone: the state is the other run's to write."""
    with contextlib.suppress(OSError):
        pipeline.audit.append("rollback.refused", status=status, detail=detail, requestedSnapshot=request.snapshot_id)


def _with_lock(
    settings: Settings, request: RollbackRequest, pipeline: Pipeline, emit: Emit, started_at: str
) -> RollbackOutcome:
    try:
        emit(StepBegan("recover"))
        recover_locked(settings, pipeline, emit)
        require_standing(pipeline, request.only_while)
        return _Rollback(settings, request, pipeline, emit, started_at).run()
    except (StageFailed, OSError) as error:
        outcome = _failed(pipeline, request, started_at, error)
        record_refusal(pipeline, request.snapshot_id, "failed", describe_error(error))
        _let_old_snapshots_go(settings, pipeline)
        return outcome
    except (UsageError, LockHeld, Overtaken, Interrupted) as error:
        record_refusal(pipeline, request.snapshot_id, "refused", str(error))
        raise


def _failed(
    pipeline: Pipeline, request: RollbackRequest, started_at: str, error: StageFailed | OSError
) -> RollbackOutcome:
    sentences = [describe_error(error)]
    state = pipeline.known_state()
    if state is not None and state.status == "in_progress" and state.restored:
        sentences.append(f"Snapshot {state.snapshot_id} is live. {_GO_ON}")
    return RollbackOutcome(
        status="failed",
        snapshot_id=request.snapshot_id,
        started_at=started_at,
        completed_at=timestamp(),
        diagnostics=sentences,
    )


class _Rollback:
    """One rollback, with the lock held; ``run`` reads like the runbook."""

    def __init__(
        self, settings: Settings, request: RollbackRequest, pipeline: Pipeline, emit: Emit, started_at: str
    ) -> None:
        self.settings = settings
        self.assets = settings.release.assets
        self.request = request
        self.pipeline = pipeline
        self.emit = emit
        self.started_at = started_at
        self.rollback_id = f"{compact()}-{secrets.token_hex(3)}"
        self.account = Account(pipeline=pipeline, rollback_id=self.rollback_id, lineage=pipeline.lineage())

    def run(self) -> RollbackOutcome:
        target = self.resolve()
        wanted = find_amended(self.pipeline, foresee(self.settings, self.pipeline, target))
        if wanted and not self.request.force and (found := find_in_place(self.settings, self.pipeline, wanted)):
            return self.confirm(wanted, found)
        with hold_stores(self.settings) as stores:
            target, told = amend_target(self.settings, self.pipeline, target, self.rollback_id)
            self.account.begin(target, self.request.force)
            safety = self.capture_safety()
            plan = plan_changes(target, self.assets, {record.key: record for record in safety.assets})
            self.swap_in(target, safety, plan, stores)
        plan = evolve(plan, diagnostics=plan.diagnostics + told + remarks_on_safety(safety))
        restart = self.restart()
        health = self.ask_health(restart)
        return self.conclude(target, safety, plan, restart, health)

    def resolve(self) -> SnapshotMetadata:
        """Find the snapshot and verify every byte of it, before anything live is touched."""
        catalogue = self.pipeline.catalogue
        target = catalogue.latest() if self.request.snapshot_id is None else catalogue.get(self.request.snapshot_id)
        self.emit(StepBegan("verify", target.snapshot_id))
        if legacy.is_legacy(target):
            return adopt_legacy(self.settings, self.pipeline, target, is_forced=self.request.force, emit=self.emit)
        require_intact(catalogue, target, self.emit)
        return target

    def confirm(self, target: SnapshotMetadata, found: InPlace) -> RollbackOutcome:
        """Leave the state alone: nothing when the service is well, else the restart hook and another look.

        What the service wrote since the restore is its own; only --force takes it back.
        """
        restart = None
        health = self.ask_health(None, is_first_look=True)
        if health is not None and not health.passed:
            restart = self.restart()
            health = self.ask_health(restart) if restart is not None else health
        problems = _problems(restart, health)
        if problems:
            again = f"inv release.rollback --snapshot {target.snapshot_id}"
            problems.append(
                f"Snapshot {target.snapshot_id} is in place already, so its data was left alone. To restart the "
                f"service: {again} --restart-command CMD. To restore once more, data included: {again} --force"
            )
        status: Literal["restored", "noop", "failed"] = "noop" if restart is None else "restored"
        state = self.pipeline.known_state()
        outcome = RollbackOutcome(
            status="failed" if problems else status,
            snapshot_id=target.snapshot_id,
            started_at=self.started_at,
            completed_at=timestamp(),
            skipped_assets=[key for key in self.assets if target.asset(key) is not None],
            safety_snapshot_id=state.safety_snapshot_id if state else None,
            health_check=health,
            restart_command=restart.command if restart else None,
            diagnostics=problems + found.doubts,
        )
        return self.close(outcome, target)

    def capture_safety(self) -> SnapshotMetadata:
        """Keep the live state as it is now, so that the rollback can itself be rolled back."""
        self.emit(StepBegan("safety snapshot"))
        request = CaptureRequest(
            snapshot_id=f"safety_snapshot_{self.rollback_id}",
            release_id=None,
            kind="safety",
            retention_limit=self.settings.release.retention,
            audit=self.pipeline.audit.anchor(),
            allow_damaged=True,
        )
        return capture_snapshot(self.pipeline.catalogue, self.assets, request, self.emit)

    def swap_in(
        self, target: SnapshotMetadata, safety: SnapshotMetadata, plan: RollbackPlan, stores: HeldStores
    ) -> None:
        """Stage beside the targets, commit the journal, swap; undo everything when a step fails."""
        self.emit(StepBegan("stage"))
        try:
            steps = ordered([self.stage(target, change) for change in plan.changes if change.action != "keep"])
            stores.hold_staged(target, self.rollback_id)
            with uninterrupted():
                self.emit(StepBegan("swap"))
                self.commit_and_swap(target, safety, steps)
        finally:
            if not self.pipeline.has_journal():
                discard_staged(self.assets)

    def stage(self, target: SnapshotMetadata, change: AssetChange) -> JournalStep:
        """Lay the new state of one asset beside it; nothing live is touched."""
        asset, record = self.assets[change.key], target.asset(change.key)
        assert record is not None
        is_usable = change.exists_live and not change.is_live_damaged
        if asset.kind == "sqlite" and change.action == "restore" and is_usable:
            # Who has it open keeps it open: its content is replaced through SQLite, straight from the snapshot.
            return JournalStep(key=change.key, path=str(asset.path), action="database")
        stored = stored_path(self.pipeline.catalogue.path(target.snapshot_id), record)
        is_new = change.action == "restore"
        new = stage_asset(asset, record, stored, self.rollback_id, self.emit) if is_new else None
        return JournalStep(
            key=change.key,
            path=str(asset.path),
            action="place",
            new=new,
            old=inode_of(asset.path),
            folder=inode_of(asset.path.parent),
        )

    def commit_and_swap(self, target: SnapshotMetadata, safety: SnapshotMetadata, steps: list[JournalStep]) -> None:
        """Publish the journal, from which on a crash is finished and not discarded, and carry it out."""
        journal = RollbackJournal(
            journal_version=JOURNAL_VERSION,
            rollback_id=self.rollback_id,
            snapshot_id=target.snapshot_id,
            safety_snapshot_id=safety.snapshot_id,
            direction="forward",
            started_at=self.started_at,
            lineage=self.account.lineage,
            steps=steps,
        )
        swap = Swap(
            pipeline=self.pipeline, assets=self.assets, target=target, safety=safety, journal=journal, emit=self.emit
        )
        swap.require_targets()
        try:
            write_journal(self.pipeline, journal)
        except OSError as error:
            raise StageFailed(f"{describe_error(error)} {self.withdraw()}") from error
        try:
            swap.forward()
        except (StageError, OSError) as error:
            raise StageFailed(f"{describe_error(error)} {self.undo(swap)}") from error
        try:
            self.account.mark_restored(target, safety)
        except OSError as error:
            live = f"Snapshot {target.snapshot_id} is live, which could not be written down."
            raise StageFailed(f"{describe_error(error)} {live} {_GO_ON}") from error
        clear_journal(self.pipeline)

    def withdraw(self) -> str:
        """Remove a journal that was not written to its end, and say where that leaves the live state."""
        try:
            # It may have its name already, and the next command would finish what was called failed.
            clear_journal(self.pipeline)
        except OSError:
            return "The next command may finish this rollback: run `inv release.recover` before the service is started."
        return "Nothing live was changed."

    def undo(self, swap: Swap) -> str:
        """Take back what the swap had done, and say whether that went well; recovery goes on with the journal."""
        try:
            swap.back()
            clear_journal(self.pipeline)
        except (StageError, OSError) as error:
            return (
                f"Undoing it failed too, and the live state may be part old, part new: {describe_error(error)} "
                "Mend that and run `inv release.recover` before the service is started."
            )
        return "Everything is back as it was before the rollback."

    def restart(self) -> Restart | None:
        """Start the restart hook, detached; None when there is none."""
        command = self.request.restart_command or self.settings.release.restart.command
        if command is None:
            return None
        self.emit(StepBegan("restart"))
        log = self.pipeline.logs / self.rollback_id / "restart.log"
        settle = self.settings.release.restart.settle
        return start_detached(command, project=self.settings.project, log=log, settle=settle)

    def ask_health(self, restart: Restart | None, is_first_look: bool = False) -> HealthReport | None:
        """Ask until it is well or the deadline is over; None when no endpoint is known."""
        health = self.settings.release.health
        if self.request.health_url is None and health.url is None:
            return None
        self.emit(StepBegan("health"))
        # A service whose restart failed, or that nobody restarted yet, is not waited for.
        once = is_first_look or (restart is not None and restart.failed)
        return ask_health(
            health,
            url=self.request.health_url,
            passes=1 if once else health.passes_after_restore,
            deadline=0.0 if once else None,
            emit=self.emit,
        )

    def conclude(
        self,
        target: SnapshotMetadata,
        safety: SnapshotMetadata,
        plan: RollbackPlan,
        restart: Restart | None,
        health: HealthReport | None,
    ) -> RollbackOutcome:
        """Judge, write state and audit, and let old snapshots go."""
        problems = _problems(restart, health)
        if problems:
            problems.append(f"The restored state was kept. {self.way_back(safety)}")
        outcome = RollbackOutcome(
            status="failed" if problems else "restored",
            snapshot_id=target.snapshot_id,
            started_at=self.started_at,
            completed_at=timestamp(),
            restored_assets=plan.keys("restore"),
            skipped_assets=plan.keys("keep"),
            removed_assets=plan.keys("remove"),
            damaged_assets=[record.key for record in safety.assets if record.damaged],
            safety_snapshot_id=safety.snapshot_id,
            health_check=health,
            restart_command=restart.command if restart else None,
            diagnostics=problems + plan.diagnostics,
        )
        outcome = self.close(outcome, target)
        _let_old_snapshots_go(self.settings, self.pipeline)
        return outcome

    def close(self, outcome: RollbackOutcome, target: SnapshotMetadata) -> RollbackOutcome:
        """Write the account of it; an outcome that cannot be written down is failed, whatever is live."""
        try:
            self.account.finish(outcome, target, outcome.safety_snapshot_id)
            return outcome
        except OSError as error:
            told = f"{describe_error(error)} Snapshot {target.snapshot_id} is live, which could not be written down."
            outcome = evolve(outcome, status="failed", diagnostics=[told, *outcome.diagnostics])
            with contextlib.suppress(OSError):  # the disk may have failed once only
                self.account.finish(outcome, target, outcome.safety_snapshot_id)
            return outcome

    def way_back(self, safety: SnapshotMetadata) -> str:
        """Say how the state before this rollback comes back."""
        remains = [record for record in safety.assets if record.damaged]
        if remains:
            folder = self.pipeline.catalogue.path(safety.snapshot_id) / remains[0].relative_path
            return f"The state before it was damaged ({remains[0].key}); its remains lie in {folder}."
        return f"To go back to the state before this rollback: inv release.rollback --snapshot {safety.snapshot_id}"


def _let_old_snapshots_go(settings: Settings, pipeline: Pipeline) -> None:
    # What cannot be removed now goes another time; it is no reason to call a restore failed.
    with contextlib.suppress(OSError):
        pipeline.catalogue.retain(settings.release.retention, pipeline.protected_snapshots())


def _problems(restart: Restart | None, health: HealthReport | None) -> list[str]:
    found = [restart.explain()] if restart is not None and restart.failed else []
    if health is not None and not health.passed:
        found.append(f"Health at {health.url}: {health.detail}")
    return found
