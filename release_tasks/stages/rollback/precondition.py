"""How far releases and rollbacks had come, for a rollback that was decided on before it has the lock."""

from __future__ import annotations

from attrs import frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.errors import StageError
from release_tasks.core.records import RollbackState

__all__ = ["Overtaken", "Standing", "require_standing", "standing_of"]


class Overtaken(StageError):
    """Something was prepared or restored since a rollback was decided on (exit 1); nothing live was touched."""


@frozen(kw_only=True)
class Standing:
    """The newest ready release, the sequences of releases and the rollback state, as they were at one moment."""

    release_id: str | None
    lineage: str
    state: RollbackState | None


def standing_of(pipeline: Pipeline) -> Standing:
    """Return how things stand now."""
    latest = pipeline.latest_ready()
    return Standing(
        release_id=latest.release_id if latest else None, lineage=pipeline.lineage(), state=pipeline.known_state()
    )


def require_standing(pipeline: Pipeline, before: Standing | None) -> None:
    """Raise Overtaken unless things stand as ``before``, if that is given. Call it with the lock held."""
    if before is None:
        return
    now = standing_of(pipeline)
    if now.release_id != before.release_id or pipeline.was_prepared_since(before.lineage):
        raise Overtaken(f"Release {now.release_id} was prepared meanwhile, so this rollback was given up.")
    if now.state != before.state:
        told = f" ({now.state.status}, snapshot {now.state.snapshot_id})" if now.state else ""
        raise Overtaken(f"Another rollback was at work meanwhile{told}, so this one was given up.")
