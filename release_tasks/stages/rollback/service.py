"""The service during a rollback: stopped, started again, asked about its health."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from release_tasks.core.errors import Interrupted, StageError, StageFailed, describe_error
from release_tasks.core.events import StepBegan
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import HealthReport, SnapshotMetadata
from release_tasks.service.sampling import sample_health
from release_tasks.service.wait import poll_health
from release_tasks.stages.rollback.attempt import RollbackAttempt
from release_tasks.stages.rollback.outcome import find_doubts
from release_tasks.stages.rollback.restart import Restart

__all__ = ["await_health", "doubts", "restart_service", "service_kept", "stop_service"]


@contextlib.contextmanager
def service_kept(run: RollbackAttempt) -> Iterator[None]:
    """Start the service again when the block ends early after it was stopped, and say so; not on a mixed state.

    The secrets in the output of its restart command are masked when the block ends.
    """
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
    finally:
        run.hooks.finish()


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
