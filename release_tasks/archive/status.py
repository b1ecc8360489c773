"""How things stand: releases, snapshots, drills, the last rollback, who is at work."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from release_tasks.archive.catalogue import Unreadable
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.restore_tests import RestoreTests, proofs
from release_tasks.config.schema import Settings
from release_tasks.core.errors import StageFailed
from release_tasks.core.lock import Holder, current_holder
from release_tasks.core.records import Manifest, RollbackState, SnapshotMetadata

__all__ = ["ReleaseStatus", "release_status"]


@frozen(kw_only=True)
class ReleaseStatus:
    """How things stand. ``manifests`` and ``snapshots`` are oldest first; ``current`` is the release that is ready.

    ``rollback`` is the last one, unless ``rollback_problem`` says why it cannot be read. ``is_interrupted`` says that
    one waits to be finished; ``holder`` is who is at work now.
    """

    root: Path
    current: Manifest | None
    manifests: list[ManifestFile]
    snapshots: list[SnapshotMetadata]
    unreadable: list[Unreadable]
    proofs: RestoreTests
    rollback: RollbackState | None
    rollback_problem: str
    is_interrupted: bool
    holder: Holder | None


def release_status(settings: Settings) -> ReleaseStatus:
    """Return how things stand: releases, snapshots, drills, the last rollback, who is at work. Nothing is changed."""
    pipeline = Pipeline(settings.release.root)
    snapshots, unreadable = pipeline.catalogue.published()
    holder = current_holder(pipeline.root)
    state, problem = None, ""
    try:
        state = pipeline.read_state()
    except StageFailed as error:
        problem = error.message
    return ReleaseStatus(
        root=pipeline.root,
        current=pipeline.latest_ready(),
        manifests=pipeline.read_manifests(),
        snapshots=snapshots,
        unreadable=unreadable,
        proofs=proofs(pipeline),
        rollback=state,
        rollback_problem=problem,
        is_interrupted=pipeline.has_journal() and holder is None,
        holder=holder,
    )
