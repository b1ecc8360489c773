"""Find an earlier rollback of a release, because a watch never rolls a release back a second time."""

from __future__ import annotations

from typing import Any

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageError
from release_tasks.core.records import Manifest, RollbackState

__all__ = ["find_earlier_rollback"]


def find_earlier_rollback(pipeline: Pipeline, release: Manifest, state: RollbackState | None) -> str:
    """Return why ``release`` counts as rolled back already, as the start of a sentence; empty if it does not.

    A restore of any snapshot since the prepare of the release counts, by a person or by a watch, also one that was
    undone since. So does the attempt of a watch that was killed or failed: a supervisor that starts the watch again
    must not repeat it. ``state`` is the recorded state of the last rollback.
    """
    restored = state.restored_snapshot_id if state else None
    if restored is not None and restored in _snapshots_of(pipeline, release, restored):
        return f"{restored} was restored already"
    try:
        events = pipeline.audit.verify().events
    except OSError:
        return ""  # the evidence cannot be written to this log either, and without it there is no rollback
    for event in _since_prepare(events, release.release_id):
        snapshot = excerpt(str(event.get("snapshotId") or "a snapshot"))
        if _took_effect(event):
            return f"{snapshot} was restored already, at {event.get('time')}"
        if event.get("event") == "rollback.started" and event.get("automatic") is True:
            return f"A watch started a rollback to {snapshot} already, at {event.get('time')}"
    return ""


def _snapshots_of(pipeline: Pipeline, release: Manifest, restored: str) -> set[str]:
    """Return the snapshot of ``release``, and ``restored`` if it was made from that snapshot."""
    found = {release.snapshot.snapshot_id} if release.snapshot is not None else set()
    try:
        is_derived = pipeline.catalogue.get(restored).release_id == release.release_id
    except (StageError, OSError):
        return found
    return found | {restored} if is_derived else found


def _since_prepare(events: list[dict[str, Any]], release_id: str) -> list[dict[str, Any]]:
    """Return the events after the prepare of the release; all events when the log does not contain that."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].get("event") == "prepare.ready" and events[index].get("releaseId") == release_id:
            return events[index + 1 :]
    return [event for event in events if event.get("releaseId") == release_id]


def _took_effect(event: dict[str, Any]) -> bool:
    """Return whether the snapshot of a rollback went live, whatever health was after it."""
    kind = event.get("event")
    if kind == "rollback.refused":
        return "rollbackId" in event
    return kind == "rollback.finished" or (kind == "rollback.recovered" and event.get("status") == "restored")
