"""Decide the outcome of a rollback and record it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from attrs import evolve

from release_tasks.assets.findings import Drift
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import describe_error
from release_tasks.core.records import HealthReport, RollbackOutcome, SnapshotMetadata
from release_tasks.stages.rollback.attempt import RollbackAttempt, after_retention
from release_tasks.stages.rollback.in_place import describe_changes, find_changes, removed_rows
from release_tasks.stages.rollback.outcome import NOT_ASKED, find_problems
from release_tasks.stages.rollback.plan import RollbackPlan
from release_tasks.stages.rollback.restart import Restart
from release_tasks.stages.rollback.safety import undo_option
from release_tasks.stages.rollback.scanning import Scans
from release_tasks.stages.rollback.service import doubts
from release_tasks.stages.rollback.written_back import describe_written_back

__all__ = ["finish", "record"]


def record(
    run: RollbackAttempt,
    target: SnapshotMetadata,
    safety: SnapshotMetadata | None,
    plan: RollbackPlan,
    scans: Scans,
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
        databases=scans.measured(plan.keys("restore")),
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
    outcome = finish(run, outcome, target)
    return after_retention(run.settings, run.pipeline, outcome)


def finish(run: RollbackAttempt, outcome: RollbackOutcome, target: SnapshotMetadata) -> RollbackOutcome:
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
