"""The swap: it carries out the steps of a journal, forward or back. Steps are repeatable, so recovery can resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import define, evolve, field

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig, Move
from release_tasks.assets.placing import displaced_path, inode_of, staged_path
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import Inode, JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.stages.rollback.journal import write_journal

__all__ = ["Swap", "locked"]


@contextlib.contextmanager
def locked(assets: Mapping[str, AssetConfig], steps: list[JournalStep]) -> Iterator[None]:
    """Hold the locks of all changing assets, in the order of the steps, while the block runs."""
    with contextlib.ExitStack() as locks:
        for step in steps:
            locks.enter_context(assets[step.key].kind.lock(assets[step.key]))
        yield


@define(kw_only=True)
class Swap:
    """Carries out a journal on the configured assets.

    ``target`` is the snapshot to restore, ``safety`` the snapshot of the state before. ``journal`` equals the one on
    disk, except for one fact that only this process knows: that SQLite has rolled back a failed restore.
    """

    pipeline: Pipeline
    assets: Mapping[str, AssetConfig]
    target: SnapshotMetadata | None
    safety: SnapshotMetadata | None
    journal: RollbackJournal
    emit: Emit = ignore
    folders: dict[Path, Inode | None] = field(factory=dict)  # the parent folders of the assets at the start

    def forward(self) -> None:
        """Bring every asset to the new state. Raises StageFailed or OSError; ``back`` undoes the completed steps."""
        if self.target is None:
            raise StageFailed(f"Snapshot {self.journal.snapshot_id} does not exist any more.")
        self.require_targets()
        for step in self.journal.steps:
            kind = self.assets[step.key].kind
            if kind.state_of(step) != "new":
                self._carry_out(step, kind.commit, self.target)

    def back(self) -> None:
        """Bring every asset to the old state, wherever ``forward`` stopped. Raises StageFailed or OSError."""
        if self.safety is None:
            raise StageFailed(f"Snapshot {self.journal.safety_snapshot_id} does not exist any more.")
        self.require_targets()
        if self.journal.direction == "forward":
            self.journal = write_journal(self.pipeline, evolve(self.journal, direction="back"))
        for step in reversed(self.journal.steps):
            kind = self.assets[step.key].kind
            if kind.state_of(step) != "old":
                self._carry_out(step, kind.abort, self.safety)

    def require_targets(self) -> None:
        """Raise StageFailed when a volume is not mounted: neither the asset nor its staged copy exists then.

        Otherwise the content would be written into the empty mount point, and the volume would hide it later.
        """
        for step in self.journal.steps:
            staged = staged_path(Path(step.path), self.journal.rollback_id)
            names = [Path(step.path), staged, displaced_path(staged)]
            is_staged = step.new is not None and not step.mirrored
            if is_staged and not any(inode_of(name) for name in names):
                raise StageFailed(f"Neither {step.path} nor its staged copy exists. Is the volume mounted?")
            folder = Path(step.path).parent
            self.folders[folder] = inode_of(folder)

    def _require_same_folder(self, live: Path) -> None:
        if inode_of(live.parent) != self.folders[live.parent]:
            raise StageFailed(f"{live.parent} disappeared during the restore of {live.name}. Is the volume mounted?")

    def _carry_out(self, step: JournalStep, act: Callable[[Move], None], source: SnapshotMetadata) -> None:
        asset = self.assets[step.key]
        is_forward = self.journal.direction == "forward"
        self._require_same_folder(asset.path)
        act(
            Move(
                asset=asset,
                step=step,
                rollback_id=self.journal.rollback_id,
                is_forward=is_forward,
                source=source,
                folder=self.pipeline.catalogue.path(source.snapshot_id),
                note=self._note,
                amend=self._amend,
                emit=self.emit,
            )
        )
        self._require_same_folder(asset.path)
        step = next(noted for noted in self.journal.steps if noted.key == step.key)
        self._note(evolve(step, done=is_forward, begun=is_forward and step.begun))

    def _note(self, step: JournalStep) -> JournalStep:
        """Replace the step of the same asset in the journal on disk."""
        self._amend(step)
        write_journal(self.pipeline, self.journal)
        return step

    def _amend(self, step: JournalStep) -> None:
        self.journal = evolve(self.journal, steps=[step if old.key == step.key else old for old in self.journal.steps])
