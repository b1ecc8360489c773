"""The rollbacks that the audit log tells of, each from its beginning to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve, frozen

from release_tasks.report.html.values import actor_of, seconds_between, text

__all__ = ["Rollback", "read_rollbacks", "rollbacks_of"]


@frozen(kw_only=True)
class Rollback:
    """One rollback; ``seconds`` is the time to restore, None until it has ended."""

    rollback_id: str
    release_id: str
    snapshot_id: str
    status: str
    started_at: str | None
    ended_at: str | None = None
    seconds: float | None = None
    detail: str = ""
    actor: str
    safety_snapshot_id: str | None = None
    health: object = None

    @property
    def took_effect(self) -> bool:
        """Whether its snapshot went live."""
        return self.status in ("restored", "live")


def read_rollbacks(events: Sequence[dict[str, Any]]) -> list[Rollback]:
    """Return every rollback that began, and those that found nothing to do, in the order of the log."""
    found: dict[str, Rollback] = {}
    for event in events:
        kind = event.get("event")
        if kind == "rollback.started":
            found[text(event.get("rollbackId"))] = _begun(event)
        elif kind in ("rollback.finished", "rollback.recovered", "rollback.refused"):
            rollback = found.get(text(event.get("rollbackId")))
            if rollback is None and kind == "rollback.refused":
                rollback = _given_up(event, found)
            if rollback is None and kind == "rollback.finished":
                rollback = evolve(_begun(event), started_at=None)  # with the snapshot in place already nothing begins
            if rollback is not None:
                found[rollback.rollback_id] = _ended(rollback, event)
    return list(found.values())


def rollbacks_of(rollbacks: Sequence[Rollback], release_id: str, snapshot_id: str | None) -> list[Rollback]:
    """Return those that took this release back, or tried to."""
    return [r for r in rollbacks if r.release_id == release_id or (snapshot_id and r.snapshot_id == snapshot_id)]


def _begun(event: dict[str, Any]) -> Rollback:
    return Rollback(
        rollback_id=text(event.get("rollbackId")),
        release_id=text(event.get("releaseId")),
        snapshot_id=text(event.get("snapshotId")),
        status="in_progress",
        started_at=text(event.get("time")),
        actor=actor_of(event),
    )


def _given_up(event: dict[str, Any], known: dict[str, Rollback]) -> Rollback | None:
    # The end of one that changed nothing live does not name it; a run that was turned away meanwhile ended none.
    is_end = event.get("status") == "failed" or text(event.get("detail")).startswith("Interrupted")
    begun = [rollback for rollback in known.values() if rollback.status == "in_progress"]
    return begun[-1] if begun and is_end else None


def _ended(rollback: Rollback, event: dict[str, Any]) -> Rollback:
    status, ended_at = text(event.get("status")), text(event.get("time"))
    kind = event.get("event")
    if status in ("failed", "refused") and (
        kind == "rollback.finished" or (kind == "rollback.refused" and "rollbackId" in event)
    ):
        status = "live"  # the snapshot went live, and the service did not get well on it
    return evolve(
        rollback,
        status=status,
        ended_at=ended_at,
        seconds=seconds_between(rollback.started_at, ended_at),
        detail=text(event.get("detail")),
        safety_snapshot_id=text(event.get("safetySnapshotId")) or None,
        health=event.get("health"),
    )
