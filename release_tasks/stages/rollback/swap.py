"""The steps of a journal, forward and back; every one may be repeated, so whoever finds a journal can finish it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from attrs import define, evolve, field

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import stored_path
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.sqlite.database import DiskTrouble, restore_database
from release_tasks.core.durable import exchange, fsync_directory, fsync_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.records import AssetRecord, Inode, JournalStep, RollbackJournal, SnapshotMetadata
from release_tasks.stages.rollback.journal import with_step, write_journal
from release_tasks.stages.rollback.overwrite import mirror
from release_tasks.stages.rollback.staging import inode_of, side_files, staged_path

__all__ = ["Swap", "ordered"]

# What renameat2 answers where names cannot be exchanged: no such call, no such flag on this filesystem,
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# an overlay's lower folder or another filesystem, a mount point.
_NO_RENAME = (errno.EXDEV, errno.EBUSY)


def ordered(steps: list[JournalStep]) -> list[JournalStep]:
    """Put databases first: only they can still fail for want of space or a lock, and then nothing has moved yet."""
    return sorted(steps, key=lambda step: step.action != "database")


@define(kw_only=True)
class Swap:
    """Carries out a journal over the configured assets.

    ``target`` is the snapshot that goes live, ``safety`` the one that was taken before. ``journal`` is kept as it is
    on disk, and knows besides what only this process can know: that SQLite has rolled a failed restore back.
    """

    pipeline: Pipeline
    assets: Mapping[str, AssetConfig]
    target: SnapshotMetadata | None
    safety: SnapshotMetadata | None
    journal: RollbackJournal
    emit: Emit = ignore
    folders: dict[Path, Inode | None] = field(factory=dict)  # in which the assets lay when the swap began

    def forward(self) -> None:
        """Bring every asset to the new state. Raises StageFailed or OSError; ``back`` undoes what was done."""
        if self.target is None:
            raise StageFailed(f"Snapshot {self.journal.snapshot_id} is gone.")
        self.require_targets()
        for step in self.journal.steps:
            if not step.done:
                self._carry_out(step, self.target)

    def require_targets(self) -> None:
        """Raise StageFailed where a volume is not mounted: what is staged on it is not there then, under any name.

        Without this the content would be written anew into the empty folder below, and be hidden by the volume later.
        """
        for step in self.journal.steps:
            staged = staged_path(Path(step.path), self.journal.rollback_id)
            names = [Path(step.path), staged, _spare(staged)]
            is_staged = step.new is not None and not step.mirrored
            if is_staged and not any(inode_of(name) for name in names):
                raise StageFailed(f"Neither {step.path} nor a copy staged for it is there. Is its volume mounted?")
            folder = Path(step.path).parent
            self.folders[folder] = inode_of(folder)

    def _require_same_folder(self, live: Path) -> None:
        if inode_of(live.parent) != self.folders[live.parent]:
            raise StageFailed(f"{live.parent} went away while {live.name} was being restored. Is its volume mounted?")

    def back(self) -> None:
        """Bring every asset to the state before, whatever ``forward`` had reached. Raises as ``forward`` does."""
        if self.safety is None:
            raise StageFailed(f"Snapshot {self.journal.safety_snapshot_id} is gone.")
        self.require_targets()
        if self.journal.direction == "forward":
            self._write(evolve(self.journal, direction="back"))
        for step in reversed(self.journal.steps):
            if step.begun or step.done or step.action == "place":
                self._carry_out(step, self.safety)

    def _write(self, journal: RollbackJournal) -> None:
        self.journal = journal
        write_journal(self.pipeline, journal)

    def _note(self, step: JournalStep) -> JournalStep:
        self._write(with_step(self.journal, step))
        return step

    def _carry_out(self, step: JournalStep, source: SnapshotMetadata) -> None:
        is_forward = self.journal.direction == "forward"
        live = self.assets[step.key].path
        self._require_same_folder(live)
        if step.action == "database":
            was_begun = step.begun
            step = step if was_begun else self._note(evolve(step, begun=True))
            self._replace_content(step, source, was_begun)
        elif step.mirrored or not self._place(step):
            # Written down first: afterwards the inode no longer tells old from new.
            step = self._note(evolve(step, mirrored=True))
            mirror(self._record(source, step.key), self._stored(source, step.key), live)
        self._require_same_folder(live)
        self._note(evolve(step, done=is_forward, begun=is_forward and step.begun))

    def _replace_content(self, step: JournalStep, source: SnapshotMetadata, was_begun: bool) -> None:
        live = self.assets[step.key].path
        try:
            restore_database(self._stored(source, step.key), live, Meter(self.emit, "restore", step.key, 0).reach)
        except StageFailed as error:
            # An error from the disk may come after the commit, when the journal's removal is flushed.
            is_undecided = isinstance(error, DiskTrouble)
            if self.journal.direction == "forward" and not was_begun and not is_undecided:
                # SQLite has rolled it back, so there is nothing to take back; only this process knows.
                self.journal = with_step(self.journal, evolve(step, begun=False))
            raise
        mode = self._record(source, step.key).mode
        if mode is not None and mode != stat.S_IMODE(os.lstat(live).st_mode):
            os.chmod(live, mode)
            fsync_file(live)

    def _place(self, step: JournalStep) -> bool:
        live = self.assets[step.key].path
        staged = staged_path(live, self.journal.rollback_id)
        is_forward = self.journal.direction == "forward"
        wanted = step.new if is_forward else step.old
        is_database = self.assets[step.key].kind == "sqlite"
        # Before the database itself, so that at no moment a foreign WAL lies beside it under its name. Once the wanted
        # file is there, what lies beside it is its own.
        if is_database and inode_of(live) != wanted:
            _set_side_files_aside(live, staged if is_forward else None)
        if not _place(live, staged, wanted):
            return False
        if is_database and not is_forward:
            _bring_side_files_back(live, staged)
        return True

    def _record(self, source: SnapshotMetadata, key: str) -> AssetRecord:
        record = source.asset(key)
        if record is None:
            raise StageFailed(f"Snapshot {source.snapshot_id} has no asset {key!r}.")
        return record

    def _stored(self, source: SnapshotMetadata, key: str) -> Path:
        return stored_path(self.pipeline.catalogue.path(source.snapshot_id), self._record(source, key))


def _place(live: Path, staged: Path, wanted: Inode | None) -> bool:
    """Give the name ``live`` to the inode ``wanted`` (None: to nobody); False where no rename can do that.

    Looks at inodes before it acts, because two exchanges would undo each other. Whatever held the name before lies
    at ``staged`` or beside it afterwards, until the journal is cleared.
    """
    spare = _spare(staged)
    if inode_of(live) == wanted:
        if live.parent.is_dir():
            fsync_directory(live.parent)  # a crash may have come between the rename and its flush
        return True
    try:
        if wanted is None:
            os.rename(live, staged if inode_of(staged) is None else spare)
        else:
            holder = next((place for place in (staged, spare) if inode_of(place) == wanted), None)
            if holder is None:
                return False  # somebody replaced the file since a crash: its content has to be written anew
            if inode_of(live) is None:
                os.rename(holder, live)
            else:
                _swap_names(live, holder)
    except OSError as error:
        if error.errno in _NO_RENAME:
            return False
        raise
    fsync_directory(live.parent)
    return True


def _spare(staged: Path) -> Path:
    return staged.with_name(staged.name + ".before")


def _swap_names(live: Path, holder: Path) -> None:
    try:
        exchange(live, holder)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        # Two renames: between them the name is missing, and the inode numbers tell recovery what is left to do.
        os.rename(live, _spare(holder))
        os.rename(holder, live)


def _set_side_files_aside(live: Path, staged: Path | None) -> None:
    """Move ``-wal``, ``-shm`` and ``-journal`` from beside ``live`` to beside ``staged``, or remove them."""
    for index, path in enumerate(side_files(live)):
        goal = side_files(staged)[index] if staged is not None else None
        with contextlib.suppress(FileNotFoundError):
            if goal is None or os.path.lexists(goal):
                path.unlink()
            else:
                os.rename(path, goal)
    with contextlib.suppress(FileNotFoundError):
        fsync_directory(live.parent)


def _bring_side_files_back(live: Path, staged: Path) -> None:
    for goal, path in zip(side_files(live), side_files(staged), strict=True):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, goal)
    fsync_directory(live.parent)
