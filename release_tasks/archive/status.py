"""The status of a pipeline folder: releases, snapshots, restore tests, the last rollback, the lock."""

from __future__ import annotations

import contextlib
from pathlib import Path

from attrs import field, frozen

from release_tasks.archive.aliases import Alias
from release_tasks.archive.bases import StoredSize
from release_tasks.archive.catalogue import Unreadable
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.restore_tests import RestoreTests, read_restore_tests
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.lock import Holder, current_holder
from release_tasks.core.records import Manifest, RollbackState, SnapshotMetadata

__all__ = ["ReleaseStatus", "release_status"]


@frozen(kw_only=True)
class ReleaseStatus:
    """The status of a pipeline folder. ``manifests`` and ``snapshots`` are oldest first.

    ``current`` is the latest ready release. ``rollback`` is the last rollback, or None with ``rollback_problem`` when
    its state cannot be read. ``is_interrupted``: a journal exists and no process holds the lock, so `release.recover`
    must finish the rollback. ``holder`` is the process that holds the lock. ``aliases`` has the ids of removed
    snapshots whose state is in an equal snapshot. ``stored`` is what the snapshots take, None when that cannot be read.
    """

    root: Path
    current: Manifest | None
    manifests: list[ManifestFile]
    snapshots: list[SnapshotMetadata]
    unreadable: list[Unreadable]
    restore_tests: RestoreTests
    rollback: RollbackState | None
    rollback_problem: str
    is_interrupted: bool
    holder: Holder | None
    aliases: dict[str, Alias] = field(factory=dict)
    stored: StoredSize | None = None

    @property
    def proofs(self) -> RestoreTests:
        """The former name of ``restore_tests``, for programs that use it."""
        return self.restore_tests


def release_status(settings: Settings) -> ReleaseStatus:
    """Read releases, snapshots, restore tests, the last rollback and the lock. Nothing is changed."""
    pipeline = Pipeline(settings.release.root)
    snapshots, unreadable = pipeline.catalogue.published()
    holder = current_holder(pipeline.root)
    state, problem = None, ""
    try:
        state = pipeline.read_state()
    except StageFailed as error:
        problem = error.message
    aliases: dict[str, Alias] = {}
    stored = None
    with contextlib.suppress(OSError):
        stored = pipeline.catalogue.bases.size(snapshots)
    with contextlib.suppress(InvalidDocument):
        aliases = pipeline.catalogue.aliases.read()
    with contextlib.suppress(StageError, OSError):
        hidden, reason = Provenance(settings, pipeline).hidden_latest()
        if hidden and hidden not in {each.snapshot_id for each in unreadable}:
            unreadable = [*unreadable, Unreadable(hidden, reason)]
    return ReleaseStatus(
        root=pipeline.root,
        current=pipeline.latest_ready(),
        manifests=pipeline.read_manifests(),
        snapshots=snapshots,
        unreadable=unreadable,
        restore_tests=read_restore_tests(pipeline),
        rollback=state,
        rollback_problem=problem,
        is_interrupted=pipeline.has_journal() and holder is None,
        holder=holder,
        aliases=aliases,
        stored=stored,
    )
