"""An SQLite connection that reopens the database after a restore replaced the file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from release_tasks.gateway.errors import StoreError

__all__ = ["Connection", "open_existing"]

_BUSY_MILLISECONDS = 10_000
_LOCK_SECONDS = 15.0


def open_existing(path: Path, *, busy_ms: int, read_only: bool) -> sqlite3.Connection:
    """Open the database at ``path`` without creating it; raises sqlite3.Error."""
    # mode=rw: the default creates an empty database if the file is missing, which hides the loss. A reader uses it too,
    # because a WAL database cannot always be opened with mode=ro.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


class Connection:
    """A connection that stays open while the service runs; one thread uses it at a time.

    A restore through SQLite is visible to an open connection. A restore that replaces the file is not: the connection
    would continue to read and write the old, unlinked file. So each use first compares device and inode of the path
    with the opened file, and opens a new connection if they differ.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._path = path
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode
        self.write_failure: str | None = None  # of the last transaction; None after a transaction that was committed

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection with exclusive access; converts every SQLite error to a StoreError."""
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            raise StoreError("the database is busy")
        try:
            yield self._current()
        except sqlite3.Error as error:
            # SQLITE_CORRUPT and SQLITE_NOTADB raise the base class; Python 3.10 has no sqlite_errorcode.
            if type(error) is sqlite3.DatabaseError or "disk I/O error" in str(error):
                self._drop()
            raise StoreError(str(error)) from error
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a write transaction, which is committed, or rolled back after an exception."""
        try:
            with self.use() as connection:
                # IMMEDIATE: a deferred transaction that starts to write later cannot wait for another writer.
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            self.write_failure = None
        except StoreError as error:
            self.write_failure = error.message
            raise

    def check_writes(self) -> None:
        """Raise StoreError if the last transaction failed and a write that changes nothing fails now.

        Does not wait for another writer: while it works, the last failure is the best answer.
        """
        if self.write_failure is None:
            return
        try:
            with contextlib.closing(open_existing(self._path, busy_ms=0, read_only=False)) as probe:
                version = int(probe.execute("PRAGMA user_version").fetchone()[0])
                probe.execute(f"PRAGMA user_version = {version}")  # writes a page, also with the same value
        except sqlite3.Error:
            raise StoreError(f"the last write failed: {self.write_failure}") from None
        self.write_failure = None

    def close(self, timeout: float) -> bool:
        """Close the connection and return True, or return False if it is still in use after ``timeout`` seconds."""
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            self._drop()
        finally:
            self._lock.release()
        return True

    def _current(self) -> sqlite3.Connection:
        try:
            status = os.stat(self._path)
        except OSError as error:
            self._drop()
            reason = "is missing" if isinstance(error, FileNotFoundError) else "is not accessible"
            raise StoreError(f"the database {self._path.name} {reason}") from error
        current = (status.st_dev, status.st_ino)
        if self._connection is not None and self._opened != current:
            self._drop()
        if self._connection is None:
            self._connection = open_existing(self._path, busy_ms=_BUSY_MILLISECONDS, read_only=self._read_only)
            self._opened = current
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self._opened = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
