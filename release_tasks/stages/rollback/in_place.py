"""Is the snapshot live already? Then a rollback must leave alone what the service has written since."""

from __future__ import annotations

import secrets

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.records import SnapshotMetadata

__all__ = ["InPlace", "find_in_place"]


@frozen(kw_only=True)
class InPlace:
    """What the last restore put there is there. ``doubts`` name what could not be examined, and was left alone."""

    target: SnapshotMetadata
    doubts: list[str] = field(factory=list)


def find_in_place(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> InPlace | None:
    """Return how sure it is that the last restore was of this very snapshot and is still in place; None when not.

    Files and folders must be as recorded. Databases, and what a plugin captures, only have to be sound: what is in them
    is the service's own since then.
    """
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id != target.snapshot_id or pipeline.was_prepared_since(state.lineage):
        return None
    doubts: list[str] = []
    for key, asset in settings.release.assets.items():
        record = target.asset(key)
        if record is None:
            continue
        scratch = pipeline.catalogue.store.partial_path(f"examined_{secrets.token_hex(6)}")
        found = asset.kind.is_sound(asset, record, scratch)
        if not found.is_sound:
            return None
        doubts += [found.doubt] if found.doubt else []
    return InPlace(target=target, doubts=doubts)
