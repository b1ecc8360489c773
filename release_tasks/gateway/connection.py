"""One SQLite connection that follows the file behind a path, whatever a restore does to it."""

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
    """Open the database at ``path``, never creating it; raises sqlite3.Error."""
    # mode=rw: the default would make an empty database where one is missing, and hide the loss. A reader gets it too,
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
    """A connection kept open for the life of the service, used by one thread at a time.

    A restore through SQLite is seen by itself. One that puts another file under the path is not: this connection would
    go on reading, and writing to, the old file that nobody can see any more. So each use first compares the file behind
    the path with the one that was opened, and opens the new one.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._path = path
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, alone; every SQLite error becomes a StoreError with a sentence."""
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            raise StoreError("the database is busy")
        try:
            yield self._current()
        except sqlite3.Error as error:
            # SQLITE_CORRUPT and SQLITE_NOTADB come as the bare class; sqlite_errorcode is not there in 3.10.
            if type(error) is sqlite3.DatabaseError or "disk I/O error" in str(error):
                self._drop()
            raise StoreError(str(error)) from error
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside one write transaction: committed or rolled back."""
        with self.use() as connection:
            # IMMEDIATE: a deferred one that turns writer half-way cannot wait for another writer.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self, timeout: float) -> bool:
        """Close it and return True, or give up when it is in use for ``timeout`` seconds."""
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
            reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be reached"
            raise StoreError(f"the database {self._path.name} {reason}") from error
        found = (status.st_dev, status.st_ino)
        if self._connection is not None and self._opened != found:
            self._drop()
        if self._connection is None:
            self._connection = open_existing(self._path, busy_ms=_BUSY_MILLISECONDS, read_only=self._read_only)
            self._opened = found
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self._opened = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
