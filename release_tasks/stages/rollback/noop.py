"""A rollback to a snapshot that is live already."""

from __future__ import annotations

from typing import Literal

from release_tasks.core.clock import timestamp
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Noted
from release_tasks.core.records import RollbackOutcome, SnapshotMetadata
from release_tasks.core.scratch import NoScratchSpace
from release_tasks.core.typed import typed
from release_tasks.stages.rollback.amendment import find_amended, plan_amendment
from release_tasks.stages.rollback.attempt import RollbackAttempt
from release_tasks.stages.rollback.in_place import LastRestore, find_last_restore
from release_tasks.stages.rollback.outcome import find_problems
from release_tasks.stages.rollback.record import finish
from release_tasks.stages.rollback.service import await_health, doubts, restart_service, stop_service
from release_tasks.stages.rollback.written_back import describe_written_back, find_written_back_since

__all__ = ["confirm", "in_place"]


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
    return finish(run, outcome, target)
