"""The asset kind of a SQLite database: captured and restored through SQLite while other processes have it open."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import NOTHING, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind, Base, Hold, Move, Scan, State
from release_tasks.assets.files import keep_attributes, place_content, set_rights
from release_tasks.assets.findings import AssetFinding, CopyCheck, Damaged, Drift, Inspection, Listing
from release_tasks.assets.footprint import Footprint
from release_tasks.assets.overwrite import overwrite_file
from release_tasks.assets.placing import fits, inode_of, rename_into_place, staged, suffixed
from release_tasks.assets.sqlite.checks import (
    check_database,
    count_rows,
    describe_unchecked,
    is_whole,
    read_schema,
    unread_phrase,
)
from release_tasks.assets.sqlite.comparison import compare_databases
from release_tasks.assets.sqlite.connection import SIDE_FILES, DamagedDatabase, DiskError, SharedMemoryCut
from release_tasks.assets.sqlite.database import (
    Copied,
    Progress,
    capture_database,
    content_digest,
    examine_database,
    is_usable,
    read_cookie,
    set_journal_mode,
)
from release_tasks.assets.sqlite.delta import SUFFIX
from release_tasks.assets.sqlite.delta_check import verify_delta
from release_tasks.assets.sqlite.image import opened_image, stored_image, write_image
from release_tasks.assets.sqlite.page_capture import capture_pages
from release_tasks.assets.sqlite.pages.engine import find_engine
from release_tasks.assets.sqlite.reader import ContentUnread
from release_tasks.assets.sqlite.restore import locked_database, restore_database
from release_tasks.assets.sqlite.scan import DatabaseScan, scanned_database
from release_tasks.assets.sqlite.system_calls import was_cut
from release_tasks.assets.stored import is_digest, is_folder, owner_difference, recorded_owner, recorded_rights
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import FileDigests
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.events import Emit, Meter, Noted, ignore
from release_tasks.core.ids import is_valid_id
from release_tasks.core.options import option
from release_tasks.core.place import Place, found, trusted
from release_tasks.core.records import AssetRecord, DatabaseRestore, Inode, JournalStep

__all__ = ["SQLITE", "SqliteKind", "SqliteOptions", "set_side_files_aside", "side_files"]


_MOST_SCHEMA_CHANGES = 1 << 16  # of a service between a crash and the recovery
_LARGE = 64 << 20  # bytes from which a copy by page saves more time than the engine takes to start

CopyDatabase = Callable[[Place, Path, Progress, Callable[[int], None], LockWait], Copied]


@frozen(kw_only=True)
class SqliteOptions:
    """A SQLite database."""

    sqlite: Path = option("a SQLite database, captured while it is in use", NOTHING)


class SqliteKind(AssetKind):
    """A database that other processes may have open.

    A restore replaces the content of a readable database through SQLite, and the file of a damaged database, and of one
    whose shared memory another process cuts.
    """

    name = "sqlite"
    options = SqliteOptions
    restores = frozenset({"sqlite"})
    records_as = "sqlite"
    state_check_cost = 1  # every page is copied and read
    shares_blocks = False  # SQLite writes the pages
    allows_plugins = False

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the committed content of the database; raises Damaged when the database cannot be read."""
        return self._captured(asset, record, copy, None, emit)

    def can_store_deltas(self) -> bool:
        """Return whether there is an engine that reads pages."""
        return find_engine() is not None

    def capture_against(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, base: Base, *, emit: Emit = ignore
    ) -> AssetRecord:
        """Copy the committed content as what differs from ``base``, where there is an engine; else whole."""
        return self._captured(asset, record, copy, base, emit)

    def _captured(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, base: Base | None, emit: Emit
    ) -> AssetRecord:
        """Copy the committed content of a large database by page, through the engine, and any other with ``apsw``."""
        least = _LARGE if asset.deltas_above is None else asset.deltas_above
        engine = None
        with contextlib.suppress(StageFailed, OSError):  # the copy reports them
            engine = find_engine() if self.size(asset) >= min(least, _LARGE) else None
        if engine is not None:

            def copy_pages(
                live: Place, copy: Path, copied: Progress, checked: Callable[[int], None], wait: LockWait
            ) -> Copied:
                return capture_pages(
                    engine,
                    live,
                    copy,
                    wait,
                    base=base,
                    least=least,
                    progress=copied,
                    checked=checked,
                    note=lambda text: emit(Noted(f"{record.key}: {text}")),
                )

            try:
                return self._copied(copy_pages, asset, record, copy, emit)
            except SharedMemoryCut:
                copy.unlink(missing_ok=True)
        return self._copied(capture_database, asset, record, copy, emit)

    def look(self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore) -> AssetRecord:
        """Copy the committed content through a private copy: SQLite opens no live file, except under a busy writer."""
        return self._copied(examine_database, asset, record, copy, emit)

    def _copied(
        self, copy_database: CopyDatabase, asset: AssetConfig, record: AssetRecord, copy: Path, emit: Emit
    ) -> AssetRecord:
        copied = Meter(emit, "capture", record.key, 0)
        checked = Meter(emit, "check", record.key, 0)
        with asset.found() as live:
            found = copy_database(
                live,
                copy,
                copied.reach,
                lambda size: checked.reach(checked.done + size, copied.total),
                LockWait(asset.lock_wait, emit),
            )
        suffix = SUFFIX if found.delta is not None else ""
        with copy.with_name(copy.name + suffix).open("rb") as file:
            keep_attributes(file.fileno(), found.info, 0o600, str(copy))
        return evolve(
            record,
            relative_path=record.relative_path + suffix,
            exists=True,
            size=found.size,
            mode=stat.S_IMODE(found.info.st_mode),
            sha256=found.sha256,
            content_digest=found.sha256,
            journal_mode=found.journal_mode,
            unchecked=found.unchecked or None,
            delta=found.delta,
        )

    def capture_blockers(self, key: str, asset: AssetConfig) -> list[str]:
        """Also refuse a name that leaves no space for the names of SQLite's side files."""
        blockers = super().capture_blockers(key, asset)
        if not all(fits(asset.path.name + suffix, trusted(asset.path)) for suffix in SIDE_FILES):
            size = len(os.fsencode(asset.path.name))
            blockers.append(
                f"{key}: its name has {size} bytes, so SQLite cannot make its side files: it adds up to 8 bytes. "
                f"Give the database a shorter name. (release.assets.{key}.sqlite)"
            )
        return blockers

    def can_replace_content(self, asset: AssetConfig) -> bool:
        """Return whether SQLite can open the database and read its schema."""
        with asset.found() as live:
            return is_usable(live, LockWait(asset.lock_wait))

    def raw_places(self, live: Place) -> list[Place]:
        """Return the database and its side files: their bytes may help to recover rows that SQLite cannot read."""
        return [live, *side_files(live)]

    def examine(self, record: AssetRecord, asset: AssetConfig | None, copy: Path) -> CopyCheck | None:
        """Run ``integrity_check``; None for a raw copy of a database that could not be read."""
        if record.damaged:
            return None
        try:
            whole = [phrase for phrase in check_database(copy, thorough=True) if is_whole(phrase)]
        except DamagedDatabase as error:
            return CopyCheck(problems=[error.message.rstrip(".")])
        return CopyCheck(problems=[], unchecked="; ".join(whole) or None)

    def verify(
        self, record: AssetRecord, stored: Path, meter: Meter, digests: FileDigests | None = None
    ) -> list[AssetFinding]:
        """Compare a plain copy with its digest; of a delta, the delta and its base, and decode all of it.

        Both digests determine every byte of the database. The base of several deltas is read once with ``digests``.
        """
        if record.delta is None or record.damaged:
            return super().verify(record, stored, meter, digests)
        return verify_delta(record, stored, meter, digests or FileDigests(), self.invalid_value(record))

    def may_have_content_digest(self, record: AssetRecord) -> bool:
        """Return whether both digests are equal: a copy has the canonical header, so they are of the same bytes."""
        return not record.damaged and record.content_digest == record.sha256

    def may_have_delta(self, record: AssetRecord) -> bool:
        """Return whether a whole database is stored as a delta; only one without a digest yet is ``pending``."""
        delta = record.delta
        if delta is None or record.damaged or not record.exists:
            return False
        are_digests = is_digest(delta.sha256) and is_digest(delta.base_sha256)
        has_digest = record.sha256 is None if record.pending else is_digest(record.sha256)
        return are_digests and has_digest and is_valid_id(delta.base_snapshot_id)

    def check_legacy(self, record: AssetRecord, stored: Path) -> list[AssetFinding]:
        """Run ``integrity_check``, the only possible check of a copy without digests."""
        if not stat.S_ISREG(os.lstat(stored).st_mode):  # SQLite would wait for the writer of a pipe
            return [AssetFinding(key=record.key, what="is not a regular file")]
        try:
            check_database(stored, thorough=True)
        except DamagedDatabase as error:
            return [AssetFinding(key=record.key, what=error.message)]
        return []

    def capture_notes(self, record: AssetRecord) -> list[str]:
        """Return sentences about what was not checked in the database."""
        return describe_unchecked(record.key, record.unchecked or [])

    def inspect(self, record: AssetRecord, copy: Path) -> Inspection | None:
        """Run ``integrity_check`` and count the rows of every table."""
        try:
            whole = [phrase for phrase in check_database(copy, thorough=True) if is_whole(phrase)]
            return Inspection(unchecked=whole[0]) if whole else Inspection(rows=count_rows(copy))
        except ContentUnread as error:
            return Inspection(unchecked=unread_phrase(error))
        except (StageFailed, OSError) as error:
            return Inspection(problem=describe_error(error))

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the schema and the row count of each table."""
        rows = {name: str(count) for name, count in count_rows(copy).items()}
        return [Listing("schema", read_schema(copy)), Listing("rows", rows, is_shown=True)]

    def digest(self, record: AssetRecord, place: Place) -> str | None:
        """Return the digest of the content, without the header fields that change when the content does not."""
        return content_digest(place)

    def restore_footprint(self, asset: AssetConfig, stored: Path) -> Footprint:
        """Return the space of the whole database, also where a delta is stored."""
        footprint = super().restore_footprint(asset, stored)
        with contextlib.suppress(StageFailed, OSError), opened_image(stored) as image:
            if image.delta is not None:
                return evolve(footprint, size=image.size, sample=None)
        return footprint

    def side_files(self, live: Place) -> list[Place]:
        """Return the side files: SQLite would apply the WAL or journal of another database to this one."""
        return side_files(live)

    def find_drift(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, scratch: Path | None, emit: Emit = ignore
    ) -> Drift:
        """Compare a private copy of the live database with the restored one; the service may have written rows."""
        missing = self.find_misplaced(asset, record)
        if missing is not None:
            return missing
        assert scratch is not None
        os.makedirs(scratch, 0o700)
        copy = scratch / asset.path.name
        try:
            live = self.look(asset, record, copy, emit=emit)
        except Damaged as error:
            return Drift(form=[f"damaged: {error.message.rstrip('.')}"], is_lost=True)
        except PermissionError as error:
            return Drift(form=[describe_error(error).rstrip(".")], is_lost=True)
        drift = self.compare_copies(record, stored, live, copy)
        # A difference in the mode or the owner is no reason to remove rows.
        rights = f"mode {live.mode:o} instead of {record.mode:o}" if live.mode != record.mode else ""
        with asset.found() as place:
            rights = rights or owner_difference(record, stored, place)
        return evolve(drift, notes=[*drift.notes, rights] if rights else drift.notes)

    def compare_copies(self, record: AssetRecord, stored: Path, live: AssetRecord, copy: Path) -> Drift:
        """Compare the schemas, and the numbers of rows of each table when the content differs."""
        return Drift() if live.content_digest == record.content_digest else compare_databases(stored, copy)

    def stage(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, rollback_id: str, *, is_usable: bool, emit: Emit
    ) -> JournalStep:
        """Stage a file when no usable database exists; otherwise SQLite copies the content from the snapshot."""
        if record.exists and is_usable and not was_cut(asset.path):
            if _may_be_written(asset, record, stored):
                # Processes may have the database open, so its content is replaced through SQLite.
                return JournalStep(key=record.key, path=str(asset.path), action="database")
            emit(
                Noted(
                    f"{asset.path} has another owner than in the snapshot, or other names (hard links): root does not "
                    "write to it, and a new file takes its place. Restart every process that has it open."
                )
            )
        return super().stage(asset, record, stored, rollback_id, is_usable=is_usable, emit=emit)

    def place(self, record: AssetRecord, stored: Path, target: Place, meter: Meter) -> Inode:
        """Copy the stored file and set the journal mode that the database had."""
        if is_folder(record):
            return super().place(record, stored, target, meter)
        inode = self._place_content(evolve(record, mode=0o600), stored, target, meter)
        assert record.mode is not None
        with target.opened(os.O_RDWR) as fd:
            own = os.fstat(fd)
            if (own.st_dev, own.st_ino) != (inode.device, inode.number):
                raise StageFailed(f"{target.path} was exchanged by another process while it was written.")
            set_journal_mode(fd, record.journal_mode)
            set_rights(fd, own, recorded_owner(stored), record.mode)
        return inode

    def extract(self, record: AssetRecord, stored: Path, target: Place, meter: Meter) -> Inode:
        """Copy the database as it was captured: its digest is the recorded one, also where a delta is stored."""
        if record.damaged:
            return super().extract(record, stored, target, meter)
        return self._place_content(record, stored, target, meter)

    def _place_content(self, record: AssetRecord, stored: Path, target: Place, meter: Meter) -> Inode:
        if record.delta is None:
            return super().place(record, stored, target, meter)
        assert record.mode is not None
        with stored_image(stored, record) as image:
            digest, inode = place_content(
                target, record.mode, os.lstat(stored), lambda fd: write_image(image, fd, meter.reach)
            )
        if digest != record.sha256:
            raise StageFailed(f"{stored} or its base changed while it was staged; the live state was not changed.")
        return inode

    @contextlib.contextmanager
    def scanned(
        self, asset: AssetConfig, record: AssetRecord, stored: Path, emit: Emit
    ) -> Iterator[Scan | DatabaseRestore | None]:
        """Prepare a restore by page; see ``scanned_database``."""
        if not asset.restores_by_page:
            yield DatabaseRestore(method="whole", exact=False, reason="release.storage.restore_by_page is off")
            return
        with contextlib.ExitStack() as opened:
            found: DatabaseScan | DatabaseRestore
            try:
                is_whole = was_cut(asset.path) or not _may_be_written(asset, record, stored)
                found = DatabaseRestore(method="whole", exact=False, reason="a new file takes its place")
                if not is_whole:
                    found = opened.enter_context(scanned_database(asset, record, stored, emit))
            except (DamagedDatabase, FileNotFoundError, NotADirectoryError) as error:
                opened.close()
                reason = describe_error(error).rstrip(".")
                found = DatabaseRestore(
                    method="whole", exact=False, reason=f"the live database cannot be read ({reason})"
                )
            yield found

    @contextlib.contextmanager
    def lock(
        self, asset: AssetConfig, step: JournalStep, record: AssetRecord, stored: Path, seconds: float
    ) -> Iterator[Hold | None]:
        """Lock a database whose content is replaced through SQLite; see ``locked_database``."""
        if step.action != "database":
            yield None
            return
        with contextlib.ExitStack() as held:
            live = held.enter_context(asset.found())
            database = None
            with contextlib.suppress(SharedMemoryCut):  # ``_apply`` exchanges the file then
                database = held.enter_context(locked_database(live, stored, record.sha256, LockWait(seconds)))
            yield database

    def state_of(self, step: JournalStep) -> State:
        """Return ``old`` for a ``database`` step that has not started.

        Otherwise return ``new`` when the step is done, else ``partial``. After a restore by page, the schema cookie of
        the live database says whether the restore was committed.
        """
        if step.action != "database" or step.done:
            return super().state_of(step)
        if step.new_cookie is not None and not step.begun:
            return _state_by_cookie(step)
        return "partial" if step.begun else "old"

    def _apply(self, move: Move, live: Place) -> None:
        if move.step.action != "database":
            super()._apply(move, live)
            return
        was_begun = move.step.begun
        wait = LockWait(move.asset.lock_wait, move.emit)
        try:
            if not was_begun and (move.hold is None or move.step.new_cookie is None):
                move.note(evolve(move.step, begun=True))
            meter = Meter(move.emit, "restore", move.step.key, 0)
            restore_database(move.stored, live, move.record.sha256, meter.reach, wait, move.hold)
        except SharedMemoryCut:
            self._exchange_file(move, live)
            return
        except (StageFailed, OSError) as error:
            # A disk error may happen after the commit, when SQLite flushes the removal of its journal.
            if move.is_forward and not was_begun and not isinstance(error, DiskError):
                # SQLite has rolled the transaction back, so there is nothing to undo. A crash loses this information.
                move.amend(evolve(move.step, begun=False))
            raise
        if _restore_rights(move, live):
            live.flush_file()

    def _exchange_file(self, move: Move, live: Place) -> None:
        """Put a new file in the place of a database that SQLite cannot write. Raises StageFailed, OSError.

        The old file may have the new content already. So the journal has the step as one whose content is overwritten:
        an undo takes the old content from the safety snapshot, not from the old file.
        """
        step = super().stage(move.asset, move.record, move.stored, move.rollback_id, is_usable=False, emit=move.emit)
        copy = step.new
        if not move.is_forward:
            step = evolve(step, new=step.old, old=copy)
        move.note(evolve(step, mirrored=True))
        set_side_files_aside(live, None)
        if not rename_into_place(live, move.rollback_id, copy):
            self.overwrite(move.record, move.stored, live)

    def exchange(self, move: Move, live: Place) -> bool:
        """Exchange the files; before that, move the side files of the old database away."""
        copy = staged(live, move.rollback_id)
        # The live database never has the WAL of another database next to it. When the target file is already in place,
        # the side files belong to it.
        if inode_of(live) != move.target_inode:
            set_side_files_aside(live, copy if move.is_forward else None)
        if not super().exchange(move, live):
            return False
        if not move.is_forward:
            for suffix in SIDE_FILES:
                with contextlib.suppress(FileNotFoundError):
                    suffixed(copy, suffix).rename(live.sibling(live.name + suffix))
            live.flush_folder()
        return True

    def _is_equal(self, record: AssetRecord, live: Place) -> bool:
        return False  # do not read the file: another process may have the database open

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Overwrite the file with the stored file, and set its journal mode."""
        assert record.mode is not None

        def write(target: BinaryIO) -> str:
            with stored_image(stored, record) as image:
                digest = write_image(image, target.fileno())
                target.seek(image.size)
            return digest

        set_side_files_aside(live, None)  # of a database that was opened since the first try
        content = None if record.delta is None else write
        with overwrite_file(stored, live, record.mode, record.sha256, content) as fd:
            set_journal_mode(fd, record.journal_mode)
            set_rights(fd, os.fstat(fd), recorded_owner(stored), record.mode)
        live.flush_file()


def _state_by_cookie(step: JournalStep) -> State:
    """Return the progress of a restore by page; ``partial`` for a database that can no longer be read.

    The service may have changed the schema since, which adds one to the cookie.
    """
    assert step.new_cookie is not None
    with contextlib.suppress(StageFailed, OSError), found(Path(step.path)) as live:
        passed = (read_cookie(live) - step.new_cookie) % (1 << 32)
        return "new" if passed < _MOST_SCHEMA_CHANGES else "old"
    return "partial"


def _may_be_written(asset: AssetConfig, record: AssetRecord, stored: Path) -> bool:
    """Return whether root may write the snapshot's content into the live file, whose inode stays.

    Otherwise the file may be one of another user, and a new file takes its place.
    """
    assert record.mode is not None
    with asset.found() as live:
        return live.is_own_file(live.info(), recorded_rights(stored, record.mode))


def _restore_rights(move: Move, live: Place) -> bool:
    """Give a database and its side files the recorded mode and owner; return whether one of them had others.

    Raises StageFailed when the database is another file than the one that was written. While a rollback is undone, such
    a file stays as it is.
    """
    mode, owner, is_changed = move.record.mode, recorded_owner(move.stored), False
    before: os.stat_result | None = None
    # SQLite makes a new side file with the rights of the database, and does not change those of an old one.
    for place in (live, *side_files(live)):
        with contextlib.suppress(FileNotFoundError), place.opened() as fd:
            own = os.fstat(fd)
            mode = stat.S_IMODE(own.st_mode) if mode is None else mode
            if not place.is_own_file(own, recorded_rights(move.stored, mode)):
                if before is None and move.is_forward:
                    raise StageFailed(f"{live.path} was exchanged by another process while it was restored. Try again.")
                if before is None:
                    return is_changed
                continue
            before = before or own
            if place is not live and own.st_uid != before.st_uid:
                continue
            is_changed |= set_rights(fd, own, owner, mode)
    return is_changed


def side_files(live: Place) -> list[Place]:
    """Return the places of the WAL, the shared memory and the rollback journal that a database can have."""
    return [live.sibling(live.name + suffix) for suffix in SIDE_FILES if fits(live.name + suffix, live)]


def set_side_files_aside(live: Place, copy: Place | None) -> None:
    """Rename the side files of ``live`` to the side files of ``copy``; remove them when ``copy`` is None."""
    for place in side_files(live):
        target = suffixed(copy, place.name.removeprefix(live.name)) if copy is not None else None
        with contextlib.suppress(FileNotFoundError):
            if target is None or target.exists():
                place.unlink()
            else:
                place.rename(target)
    live.flush_folder()


SQLITE = SqliteKind()
