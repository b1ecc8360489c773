"""The swap: it carries out the steps of a journal, forward or back. Steps are repeatable, so recovery can resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import define, evolve, field

from release_tasks.archive.attestation.signing import Signer
from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig, Hold, Move, State
from release_tasks.assets.placing import displaced, inode_at, inode_of, staged
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, ignore
from release_tasks.core.place import find
from release_tasks.core.records import Inode, JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.stages.rollback.held_again import held_again
from release_tasks.stages.rollback.journal import write_journal

__all__ = ["Swap"]


@define(kw_only=True)
class Swap:
    """Carries out a journal on the configured assets.

    ``holds`` has the locks under which the new state of some assets is written already. Recovery has none.
    ``target`` is the snapshot to restore, ``safety`` the snapshot of the state before. ``journal`` equals the one on
    disk, except for one fact that only this process knows: that SQLite has rolled back a failed restore. ``signer``
    signs another safety snapshot. ``notes`` name the folders above assets whose mode or owner could not be restored.
    """

    pipeline: Pipeline
    parents: Parents
    target: SnapshotMetadata | None
    safety: SnapshotMetadata | None
    journal: RollbackJournal
    holds: Mapping[str, Hold] = field(factory=dict)
    signer: Signer | None = None
    emit: Emit = ignore
    notes: list[str] = field(factory=list)
    folders: dict[Path, Inode | None] = field(factory=dict)  # the parent folders of the assets at the start

    @property
    def assets(self) -> Mapping[str, AssetConfig]:
        """The configured assets."""
        return self.parents.assets

    def forward(self) -> None:
        """Bring every asset to the new state. Raises StageFailed or OSError; ``back`` undoes the completed steps."""
        if self.target is None:
            raise StageFailed(f"Snapshot {self.journal.snapshot_id} does not exist any more.")
        self.require_targets()
        for step in self.journal.steps:
            kind = self.assets[step.key].kind
            if step.key in self.holds or kind.state_of(step) != "new":  # a held database must not be looked at
                self._carry_out(step, kind.commit, self.target)
        self.notes += self.parents.restore(self.target)

    def back(self) -> None:
        """Bring every asset to the old state, wherever ``forward`` stopped. Raises StageFailed or OSError."""
        for hold in self.holds.values():
            hold.release()
        if self.safety is None and self.journal.safety_snapshot_id is not None:
            raise StageFailed(f"Snapshot {self.journal.safety_snapshot_id} does not exist any more.")
        self._require_old_databases()
        self.require_targets()
        if self.journal.direction == "forward":
            self.journal = write_journal(self.pipeline, evolve(self.journal, direction="back"))
        with self._held_again(self.safety, "old"):
            for step in reversed(self.journal.steps):
                kind = self.assets[step.key].kind
                if step.key in self.holds or kind.state_of(step) != "old":
                    self._carry_out(step, kind.abort, self.safety)
        if self.safety is not None:
            self.notes += self.parents.restore(self.safety)

    def forward_again(self) -> None:
        """Complete ``forward`` after a crash: the service may have written to the databases that are not restored."""
        with self._held_again(self.target, "new"):
            self.forward()

    @contextlib.contextmanager
    def _held_again(self, source: SnapshotMetadata | None, final: State) -> Iterator[None]:
        """Hold the databases that are restored from ``source``, with a safety copy of what no snapshot has."""
        steps = [step for step in self.journal.steps if step.new_cookie is not None]
        steps = [step for step in steps if self.assets[step.key].kind.state_of(step) != final]
        if source is None or not steps:
            self.holds = {}
            yield
            return
        known = [snapshot for snapshot in (self.target, self.safety) if snapshot is not None]
        with held_again(self.pipeline, self.assets, steps, source, known, self.signer, self.emit) as holds:
            for key, hold in holds.items():
                step = next(step for step in self.journal.steps if step.key == key)
                self._amend(hold.noted(step) if final == "new" else _backwards(hold.noted(step)))
            write_journal(self.pipeline, self.journal)
            self.holds = holds
            yield

    @property
    def is_untouched(self) -> bool:
        """Whether no step of a restore by page has changed anything yet; False in doubt.

        Without such a step, and in a journal of an earlier version, a database shows no commit.
        """
        steps = self.journal.steps
        return any(step.new_cookie is not None for step in steps) and all(map(self._is_untouched, steps))

    def _is_untouched(self, step: JournalStep) -> bool:
        if step.action == "database":
            return self.assets[step.key].kind.state_of(step) == "old"
        if step.done or step.mirrored:
            return False
        with find(Path(step.path)) as live:
            if live is None:
                return False
            copy = staged(live, self.journal.rollback_id)
            if step.new is not None:
                return inode_of(copy) == step.new
            return inode_of(copy) is None and inode_of(displaced(copy)) is None

    def _require_old_databases(self) -> None:
        """Raise StageFailed when a database may have its new content, and no safety snapshot has the old content."""
        for step in self.journal.steps:
            is_old = step.action != "database" or self.assets[step.key].kind.state_of(step) == "old"
            if self.safety is None and not is_old:
                raise StageFailed(
                    f"{step.path} may have its new content already, and no safety snapshot was taken: this rollback "
                    "can only be completed."
                )

    def require_targets(self) -> None:
        """Raise StageFailed when a volume is not mounted: neither the asset nor its staged copy exists then.

        Otherwise the content would be written into the empty mount point, and the volume would hide it later. The
        volume of the snapshots also has the journal, and an undo needs it, although every lock is held already.
        """
        for snapshot in (self.target, self.safety):
            if snapshot is not None and not self.pipeline.catalogue.path(snapshot.snapshot_id).is_dir():
                raise StageFailed(f"{self.pipeline.root} disappeared during the rollback. Is the volume mounted?")
        for step in self.journal.steps:
            if step.new is not None and not step.mirrored and not self._is_there(Path(step.path)):
                raise StageFailed(f"Neither {step.path} nor its staged copy exists. Is the volume mounted?")
            folder = Path(step.path).parent
            self.folders[folder] = inode_at(folder)

    def _is_there(self, path: Path) -> bool:
        """Return whether the asset at ``path`` or its staged copy exists."""
        with find(path) as live:
            if live is None:
                return False
            copy = staged(live, self.journal.rollback_id)
            return any(inode_of(place) for place in (live, copy, displaced(copy)))

    def _require_same_folder(self, live: Path) -> None:
        if inode_at(live.parent) != self.folders[live.parent]:
            raise StageFailed(f"{live.parent} disappeared during the restore of {live.name}. Is the volume mounted?")

    def _carry_out(self, step: JournalStep, act: Callable[[Move], None], source: SnapshotMetadata | None) -> None:
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
                folder=self.pipeline.catalogue.path(source.snapshot_id) if source is not None else None,
                note=self._note,
                amend=self._amend,
                hold=self.holds.get(step.key),
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


def _backwards(step: JournalStep) -> JournalStep:
    """Return a step that is undone: the cookie that is written now is that of the old state."""
    return evolve(step, cookie=step.new_cookie, new_cookie=step.cookie)
