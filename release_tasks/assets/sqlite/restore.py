"""Replace the content of a live database through SQLite: lock it, write the new pages, commit them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from release_tasks.assets.base import Hold
from release_tasks.assets.sqlite.connection import (
    SharedMemoryCut,
    live_connection,
    require_database,
    skip_schema,
    translated_errors,
    value,
)
from release_tasks.assets.sqlite.database import PAGES_A_STEP, Progress
from release_tasks.assets.sqlite.journal import require_no_super_journal
from release_tasks.assets.sqlite.stored import stored_database
from release_tasks.assets.sqlite.system_calls import was_cut
from release_tasks.assets.stored import recorded_rights
from release_tasks.assets.waiting import LockWait
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import Place
from release_tasks.core.records import JournalStep

__all__ = ["LockedDatabase", "locked_database", "restore_database"]

_CHECKPOINT_MS = 200


def restore_database(
    copy: Path,
    live: Place,
    sha256: str | None,
    progress: Progress | None = None,
    wait: LockWait | None = None,
    held: Hold | None = None,
) -> None:
    """Replace the content of the database ``live`` by the content of ``copy`` in one write transaction.

    All other connections see the old content until the commit and the new content afterwards. ``sha256`` is the digest
    of ``copy``: if SQLite read other bytes, nothing is committed. ``held`` is the lock on ``live`` where the caller has
    it already, with the pages of ``copy`` written. Raises DamagedDatabase when ``live`` is no usable database, Busy
    when it stays locked during ``wait``, StageFailed or OSError when its disk is full or read-only, or when ``copy``
    changed; its content is unchanged then. After a DiskError or SharedMemoryCut the content is all old or all new.
    ``progress`` gets (copied bytes, total bytes).
    """
    if held is not None:
        held.commit()
        return
    with locked_database(live, copy, sha256, wait) as database:
        database.write(progress)
        database.commit()


@contextlib.contextmanager
def locked_database(live: Place, copy: Path, sha256: str | None, wait: LockWait | None) -> Iterator[LockedDatabase]:
    """Hold the write lock on ``live`` while the block runs, for a restore from ``copy`` with this digest.

    In rollback-journal mode the lock excludes readers too: a reader could else make the commit fail. In WAL mode it
    excludes no reader. What the block has not committed is rolled back. While the lock is held, this process must not
    open the file in another way. Raises the errors of ``restore_database``.
    """
    if was_cut(live.path):
        raise SharedMemoryCut(live)
    require_database(live)
    require_no_super_journal(live, wait)
    with contextlib.ExitStack() as resources:
        with translated_errors(live, wait=wait):
            database = LockedDatabase(live, copy, sha256, wait, resources)
        yield database


class LockedDatabase:
    """A live database with a write transaction of this process, into which ``write`` copies the new content."""

    def __init__(
        self, live: Place, copy: Path, sha256: str | None, wait: LockWait | None, resources: contextlib.ExitStack
    ) -> None:
        self._live = live
        self._resources = resources
        target, info = resources.enter_context(live_connection(live, apsw.SQLITE_OPEN_READWRITE, wait))
        if not live.is_own_file(info, recorded_rights(copy, 0)):
            raise StageFailed(f"{live.path} was exchanged by another process before it was locked. Try again.")
        self._target = target
        source, self._stored = resources.enter_context(stored_database(copy, sha256))
        if not value(source, "PRAGMA page_count"):
            source = resources.enter_context(_without_tables())
        # EXTRA: with FULL the removal of a rollback journal, which is the commit, may not survive a power cut.
        target.execute("PRAGMA synchronous = EXTRA")
        self._page = int(value(source, "PRAGMA page_size"))
        self._is_wal = str(value(target, "PRAGMA journal_mode")) == "wal"
        if self._is_wal and value(target, "PRAGMA page_size") != self._page:
            # The page size cannot change in WAL mode, and leaving WAL mode needs exclusive access to the database.
            value(target, "PRAGMA journal_mode = DELETE")
            resources.callback(self._return_to_wal)
        self._backup = target.backup("main", source, "main")
        resources.callback(self._backup.close, True)  # rolls back what is not committed; repeats no error
        # Begins the transaction: it takes EXCLUSIVE in rollback-journal mode (backup.c, sqlite3_backup_step).
        self._backup.step(0)

    def write(self, progress: Progress | None = None) -> None:
        """Write the pages, without a commit: a full disk shows here, and a copy that changed since it was verified.

        Raises StageFailed, OSError. When another process cuts the shared memory, ``commit`` raises SharedMemoryCut.
        """
        backup = self._backup
        self._stored.read_in_order()
        try:
            with translated_errors(self._live):
                while backup.remaining > 1:  # the step with the last page commits
                    backup.step(min(PAGES_A_STEP, backup.remaining - 1))
                    if progress is not None:
                        progress((backup.page_count - backup.remaining) * self._page, backup.page_count * self._page)
                self._target.cache_flush()
        except StageFailed:
            if not was_cut(self._live.path):
                raise
        self._stored.require_intact()

    def commit(self) -> None:
        """Commit the new content and close the database. Raises StageFailed, OSError; see ``restore_database``."""
        if was_cut(self._live.path):
            self.release()
            raise SharedMemoryCut(self._live)
        with translated_errors(self._live), self._resources:
            self._backup.step(-1)
            self._backup.finish()
            if self._is_wal:
                # Free the disk space of the WAL. A process that is reading may prevent this, which is harmless.
                self._target.set_busy_timeout(_CHECKPOINT_MS)
                with contextlib.suppress(apsw.Error):
                    self._target.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def noted(self, step: JournalStep) -> JournalStep:
        """Return the step as it is: SQLite's own copy of the pages leaves no mark in the database."""
        return step

    def release(self) -> None:
        """Roll back what is not committed, and close the database."""
        with contextlib.suppress(SharedMemoryCut):
            self._resources.close()

    def _return_to_wal(self) -> None:
        # The content is committed or rolled back here. A lock of another process is therefore no error: try again.
        for _ in range(3):
            with contextlib.suppress(apsw.Error):
                skip_schema(self._target)  # the end of a backup lets SQLite forget the schema
                value(self._target, "PRAGMA journal_mode = WAL")
                return


@contextlib.contextmanager
def _without_tables() -> Iterator[apsw.Connection]:
    """Open an empty database of one page: SQLite commits a copy of no pages when the copy begins."""
    with contextlib.closing(apsw.Connection(":memory:")) as database:
        database.execute("VACUUM")
        yield database
