"""A rollback in one call, and what a test reads after it: recorded state, audit events, safety snapshot."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import RollbackOutcome, RollbackState
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.outcome import NOT_ASKED
from tests.support.project import Project

__all__ = ["audit_events", "other_notes", "roll_back", "rollback_state", "safety_folder", "safety_id"]


def roll_back(
    project: Project,
    snapshot_id: str | None = None,
    *,
    health_url: str | None = None,
    restart_command: str | None = None,
    force: bool = False,
    unverified: bool = False,
    wait: float = 0.0,
    emit: Emit = ignore,
) -> RollbackOutcome:
    """Run ``release.rollback`` on the project, with the flags a person could type."""
    release = project.settings.release
    health = evolve(release.health, url=health_url or release.health.url)
    restart = evolve(release.restart, command=restart_command or release.restart.command)
    settings = evolve(project.settings, release=evolve(release, health=health, restart=restart))
    request = RollbackRequest(snapshot_id=snapshot_id, force=force, unverified=unverified, wait=wait)
    return rollback(settings, request, emit)


def other_notes(outcome: RollbackOutcome) -> list[str]:
    """Return the notes of a rollback, without those on the removed row, a missing verdict and a missing health URL."""
    expected = (
        "the rollback removed at least 1 row of ledger",
        "was taken after a release that was never judged",
        NOT_ASKED,
    )
    return [note for note in outcome.diagnostics if not any(text in note for text in expected)]


def rollback_state(project: Project) -> RollbackState:
    """Return the recorded state of the last rollback, which must exist."""
    state = project.pipeline.read_state()
    assert state is not None
    return state


def safety_id(outcome: RollbackOutcome) -> str:
    """Return the id of the safety snapshot, which the rollback must have taken."""
    assert outcome.safety_snapshot_id is not None, outcome
    return outcome.safety_snapshot_id


def safety_folder(project: Project, outcome: RollbackOutcome) -> Path:
    """Return the folder of the safety snapshot that the rollback took."""
    return project.pipeline.catalogue.path(safety_id(outcome))


def audit_events(project: Project) -> list[tuple[str, str]]:
    """Return (event, status) of each audit event; fail when the chain does not match the anchors.

    The events of snapshots are left out: a test that captures one has its event before those of the rollback.
    """
    verdict = project.pipeline.audit.verify(project.pipeline.anchors())
    assert verdict.intact, verdict.problems
    events = [event for event in verdict.events if event["event"] != "snapshot.taken"]
    return [(event["event"], event["status"]) for event in events]
