"""What the outcome of a rollback says about the service: why it failed, and what no check could see."""

from __future__ import annotations

from release_tasks.core.records import HealthReport, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.stages.rollback.hooks import NO_RESTART, ServiceHooks
from release_tasks.stages.rollback.restart import Restart

__all__ = ["NOT_ASKED", "find_doubts", "find_problems"]

NOT_ASKED = (
    "Whether the service is healthy is unknown: it was not asked. Set release.health.url, or a gate with its URL."
)


def find_problems(restart: Restart | None, health: HealthReport | None) -> list[str]:
    """Return the reasons why a rollback failed although its snapshot is live, one sentence each."""
    problems = [restart.explain()] if restart is not None and restart.failed else []
    if health is not None and not health.passed:
        problems.append(f"Health at {health.url}: {health.detail.replace(f'{health.url} ', '')}")
    return problems


def find_doubts(
    hooks: ServiceHooks,
    target: SnapshotMetadata,
    restart: Restart | None,
    health: HealthReport | None,
    *,
    is_before_first: bool = False,
) -> list[str]:
    """Return what the operator must know about the service although no check failed."""
    doubts = [hooks.problem]
    if health is None and restart is not None and (unfinished := restart.unfinished()):
        doubts.append(
            f"{unfinished} If that command ends a process that "
            "saves its state, compare the state afterwards: "
            f"{typed('release.rollback', '--plan', '--snapshot', target.snapshot_id)}"
        )
    if health is not None and health.passed:
        doubts.append(restart.doubt() if restart is not None else "")
        if health.status == "unknown":
            doubts.append(f"Warning: {health.detail}. Check the service at {health.url} yourself.")
    if hooks.is_stopped and not is_before_first:
        doubts.append(NO_RESTART)
    return [doubt for doubt in doubts if doubt]
