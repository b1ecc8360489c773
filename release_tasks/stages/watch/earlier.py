"""Find an earlier rollback of a release, because a watch never rolls a release back a second time."""

from __future__ import annotations

from typing import Any

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageError
from release_tasks.core.records import Manifest

__all__ = ["find_earlier_rollback"]


def find_earlier_rollback(pipeline: Pipeline, release: Manifest) -> str:
    """Return why ``release`` counts as rolled back already, as the start of a sentence; empty if it does not.

    A restore of any snapshot since the prepare of the release counts, by a person or by a watch, also one that was
    undone since. So does the attempt of a watch that was killed or failed: a supervisor that starts the watch again
    must not repeat it. The log decides. The rollback state counts only when the log has lost the release: the file is
    easy to write.
    """
    try:
        events = pipeline.audit.verify().events
    except OSError:
        return ""  # the evidence cannot be written to this log either, and without it there is no rollback
    if _prepared_at(events, release.release_id) is None:
        state = pipeline.known_state()
        restored = state.restored_snapshot_id if state else None
        if restored is not None and restored in _snapshots_of(pipeline, release, restored):
            return f"{restored} was restored already"
    since = _since_prepare(events, release.release_id)
    if (done := next(filter(_took_effect, since), None)) is not None:
        return f"{_named(done)} was restored already, at {done.get('time')}"
    for event in since:
        if event.get("event") == "rollback.started" and event.get("automatic") is True:
            return f"A watch started a rollback to {_named(event)} already, at {event.get('time')}"
    return ""


def _named(event: dict[str, Any]) -> str:
    return excerpt(str(event.get("snapshotId") or "a snapshot"))


def _snapshots_of(pipeline: Pipeline, release: Manifest, restored: str) -> set[str]:
    """Return the snapshot of ``release``, and ``restored`` if it was made from that snapshot."""
    found = {release.snapshot.snapshot_id} if release.snapshot is not None else set()
    try:
        is_derived = pipeline.catalogue.get(restored).release_id == release.release_id
    except (StageError, OSError):
        return found
    return found | {restored} if is_derived else found


def _prepared_at(events: list[dict[str, Any]], release_id: str) -> int | None:
    """Return the index of the latest prepare of the release; None when the log does not contain it."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].get("event") == "prepare.ready" and events[index].get("releaseId") == release_id:
            return index
    return None


def _since_prepare(events: list[dict[str, Any]], release_id: str) -> list[dict[str, Any]]:
    """Return the events after the prepare of the release; those of the release when the log does not contain that."""
    index = _prepared_at(events, release_id)
    if index is not None:
        return events[index + 1 :]
    return [event for event in events if event.get("releaseId") == release_id]


def _took_effect(event: dict[str, Any]) -> bool:
    """Return whether the snapshot of a rollback went live, whatever health was after it."""
    kind = event.get("event")
    if kind == "rollback.refused":
        return "rollbackId" in event
    return kind == "rollback.finished" or (kind == "rollback.recovered" and event.get("status") == "restored")
