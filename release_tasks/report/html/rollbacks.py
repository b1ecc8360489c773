"""The rollbacks that the audit log tells of, each from its beginning to its end."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from release_tasks.report.html.notifications import seconds_between, text
from release_tasks.report.html.page import Rollback

__all__ = ["read_rollbacks", "rollbacks_of"]

_ENDS = ("rollback.finished", "rollback.recovered", "rollback.refused")


def read_rollbacks(events: list[dict[str, Any]]) -> list[Rollback]:
    """Return every rollback that began, and those that found nothing to do, in the order of the log."""
    found: dict[str, Rollback] = {}
    for event in events:
        kind = event.get("event")
        if kind == "rollback.started":
            found[text(event.get("rollbackId"))] = _started(event)
        elif kind in _ENDS:
            rollback = _ended_by(event, found)
            if rollback is not None:
                found[rollback.rollback_id] = rollback
    return list(found.values())


def rollbacks_of(rollbacks: list[Rollback], release_id: str, snapshot_id: str | None) -> list[Rollback]:
    """Return those that took this release back, or tried to."""
    return [r for r in rollbacks if r.release_id == release_id or (snapshot_id and r.snapshot_id == snapshot_id)]


def _started(event: dict[str, Any]) -> Rollback:
    return Rollback(
        rollback_id=text(event.get("rollbackId")),
        release_id=text(event.get("releaseId")),
        snapshot_id=text(event.get("snapshotId")),
        status="in_progress",
        started_at=text(event.get("time")),
        ended_at=None,
        seconds=None,
        detail="",
        actor=_actor(event),
    )


def _ended_by(event: dict[str, Any], known: dict[str, Rollback]) -> Rollback | None:
    """Return the rollback that ``event`` ended; None when it is about none that began."""
    rollback = known.get(text(event.get("rollbackId")))
    if rollback is None and event.get("event") == "rollback.refused":
        rollback = _given_up(event, known)
    if rollback is None:
        if event.get("event") != "rollback.finished":
            return None
        rollback = evolve(_started(event), started_at=None)  # with the snapshot in place already nothing begins
    ended_at = text(event.get("time"))
    return evolve(
        rollback,
        status=_status(event),
        ended_at=ended_at,
        seconds=seconds_between(rollback.started_at, ended_at),
        detail=text(event.get("detail")),
        safety_snapshot_id=text(event.get("safetySnapshotId")) or None,
        health=event.get("health"),
    )


def _given_up(event: dict[str, Any], known: dict[str, Rollback]) -> Rollback | None:
    # The end of one that changed nothing live does not name it; a run that was turned away meanwhile ended none.
    is_end = event.get("status") == "failed" or text(event.get("detail")).startswith("Interrupted")
    begun = [rollback for rollback in known.values() if rollback.status == "in_progress"]
    return begun[-1] if begun and is_end else None


def _status(event: dict[str, Any]) -> str:
    """Return how it ended: ``live`` when the snapshot went live and the service did not get well on it."""
    status = text(event.get("status"))
    is_live = event.get("event") == "rollback.finished" or (
        event.get("event") == "rollback.refused" and "rollbackId" in event
    )
    return "live" if status in ("failed", "refused") and is_live else status


def _actor(event: dict[str, Any]) -> str:
    return f"{text(event.get('actor'), 64)}@{text(event.get('host'), 64)}"
