"""SQLite databases as assets: captured in use, restored through SQLite while others have them open."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from attrs import NOTHING, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetFinding, AssetKind, Inspection, Listing, Move, Sound, State
from release_tasks.assets.overwrite import write_over
from release_tasks.assets.placing import inode_of
from release_tasks.assets.sqlite.database import (
    SIDE_FILES,
    DamagedDatabase,
    DiskTrouble,
    capture_database,
    check_database,
    content_digest,
    count_rows,
    is_sound,
    read_schema,
    restore_database,
    set_journal_mode,
)
from release_tasks.core.durable import fsync_directory, fsync_file
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.options import option
from release_tasks.core.records import AssetRecord, JournalStep

__all__ = ["SQLITE", "SqliteKind", "SqliteOptions", "set_side_files_aside", "side_files"]


@frozen(kw_only=True)
class SqliteOptions:
    """A SQLite database."""

    sqlite: Path = option("a SQLite database, captured while it is in use", NOTHING)


class SqliteKind(AssetKind):
    """A database that other processes have open: a readable one gets new content, a damaged one another file."""

    name = "sqlite"
    options = SqliteOptions
    restores = frozenset({"sqlite"})
    records_as = "sqlite"
    soundness_cost = 1  # every page is read
    may_be_plugins = False

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the committed content of the database; raises Damaged for one that cannot be read."""
        copied = Meter(emit, "capture", record.key, 0)
        checked = Meter(emit, "check", record.key, 0)
        journal_mode, digest = capture_database(
            asset.path, copy, copied.reach, lambda size: checked.reach(checked.done + size, copied.total)
        )
        info = os.lstat(asset.path)
        if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(copy, info.st_uid, info.st_gid)
        size = copy.stat().st_size
        return evolve(record, exists=True, size=size, sha256=digest, content_digest=digest, journal_mode=journal_mode)

    def remains(self, asset: AssetConfig) -> list[Path]:
        """Return the database and its side files: together they may hold what SQLite cannot read any more."""
        return [asset.path, *side_files(asset.path)]

    def verify(self, record: AssetRecord, stored: Path, meter: Meter, *, thorough: bool = False) -> list[AssetFinding]:
        """Compare the bytes with the record; ``thorough`` runs ``integrity_check`` on them."""
        findings = super().verify(record, stored, meter)
        return self._integrity(record, stored) if thorough and not findings and not record.damaged else findings

    def may_have_content_digest(self, record: AssetRecord) -> bool:
        """A copy carries the canonical header, so both digests are of the same bytes."""
        return not record.damaged and record.content_digest == record.sha256

    def check_legacy(self, record: AssetRecord, stored: Path) -> list[AssetFinding]:
        """Run ``integrity_check``: it is all that can be known of a copy without digests."""
        if not stat.S_ISREG(os.lstat(stored).st_mode):  # SQLite would wait for a writer of a pipe
            return [AssetFinding(key=record.key, what="should be a regular file and is none")]
        return self._integrity(record, stored)

    def _integrity(self, record: AssetRecord, stored: Path) -> list[AssetFinding]:
        try:
            check_database(stored, thorough=True)
        except DamagedDatabase as error:
            return [AssetFinding(key=record.key, what=error.message)]
        return []

    def inspect(self, record: AssetRecord, copy: Path) -> Inspection | None:
        """Run ``integrity_check`` and count the rows of every table."""
        try:
            check_database(copy, thorough=True)
            return Inspection(rows=count_rows(copy))
        except (StageFailed, OSError) as error:
            return Inspection(problem=describe_error(error))

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the schema and how many rows each table has."""
        rows = {name: str(count) for name, count in count_rows(copy).items()}
        return [Listing("schema", read_schema(copy)), Listing("rows", rows, is_shown=True)]

    def digest(self, record: AssetRecord, path: Path) -> str | None:
        """Return the digest of the content, without the header fields that a restore changes."""
        return content_digest(path)

    def strays(self, path: Path) -> list[Path]:
        """Return the names of side files: one of another database would be mixed into this one."""
        return side_files(path)

    def is_sound(self, asset: AssetConfig, record: AssetRecord, scratch: Path) -> Sound:
        """Say whether the live database can be read: what is in it since the restore is the service's own."""
        return Sound(is_sound=is_sound(asset.path) if record.exists else not asset.path.exists())

    def stage(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, rollback_id: str, *, is_usable: bool, emit: Emit
    ) -> JournalStep:
        """Stage a file where no usable database is; else the content comes straight from the snapshot."""
        if record.exists and is_usable:
            # A process that has it open keeps it open: its content is replaced through SQLite.
            return JournalStep(key=record.key, path=str(asset.path), action="database")
        return super().stage(asset, record, stored, rollback_id, is_usable=is_usable, emit=emit)

    def place(self, record: AssetRecord, stored: Path, goal: Path, meter: Meter) -> None:
        """Copy the stored file and mark it with the journal mode that the database had."""
        super().place(record, stored, goal, meter)
        assert record.mode is not None
        os.chmod(goal, 0o600)
        set_journal_mode(goal, record.journal_mode)
        os.chmod(goal, record.mode)

    def state_of(self, step: JournalStep) -> State:
        """A database whose restore has not begun is what it was; of one that has begun SQLite alone knows."""
        if step.action == "database" and not step.done and not step.begun:
            return "old"
        return super().state_of(step)

    def _carry_out(self, move: Move) -> None:
        if move.step.action != "database":
            super()._carry_out(move)
            return
        was_begun = move.step.begun
        if not was_begun:
            move.note(evolve(move.step, begun=True))
        try:
            restore_database(move.stored, move.live, Meter(move.emit, "restore", move.step.key, 0).reach)
        except StageFailed as error:
            # An error from the disk may come after the commit, when the journal's removal is flushed.
            if move.is_forward and not was_begun and not isinstance(error, DiskTrouble):
                # SQLite has rolled it back, so there is nothing to take back; only this process knows.
                move.amend(evolve(move.step, begun=False))
            raise
        mode = move.record.mode
        if mode is not None and mode != stat.S_IMODE(os.lstat(move.live).st_mode):
            os.chmod(move.live, mode)
            fsync_file(move.live)

    def exchange(self, move: Move) -> bool:
        """Exchange the files, with the side files of the old one out of the way before the new one has the name."""
        live, staged = move.live, move.staged
        # At no moment a foreign WAL lies beside the database under its name. Once the wanted file is there, what lies
        # beside it is its own.
        if inode_of(live) != move.wanted:
            set_side_files_aside(live, staged if move.is_forward else None)
        if not super().exchange(move):
            return False
        if not move.is_forward:
            for goal, path in zip(side_files(live), side_files(staged), strict=True):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, goal)
            fsync_directory(live.parent)
        return True

    def _is_equal(self, record: AssetRecord, live: Path) -> bool:
        return False  # never read raw: another process may have it open

    def write_over(self, record: AssetRecord, stored: Path, live: Path) -> None:
        """Write the stored file into the name, with its journal mode."""
        assert record.mode is not None
        write_over(stored, live)
        os.chmod(live, record.mode)
        set_journal_mode(live, record.journal_mode)
        fsync_file(live)


def side_files(database: Path) -> list[Path]:
    """Return the names that SQLite gives to the WAL, the shared memory and the rollback journal of a database."""
    return [database.with_name(database.name + suffix) for suffix in SIDE_FILES]


def set_side_files_aside(live: Path, staged: Path | None) -> None:
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


SQLITE = SqliteKind()
