"""Connections to a database, and what SQLite's errors mean.

``apsw`` includes a current SQLite: SQLite up to 3.51.2 can corrupt a WAL database when a checkpoint and a writer race
(https://sqlite.org/wal.html, "The WAL-Reset Bug"). This process never reads the file of a live database while it has a
connection to it: closing any descriptor of the file releases this process's POSIX locks on it.

A connection of this process copies pages and never parses the schema: a service can write a schema whose parsing takes
hours. ``content`` reads schemas and rows, in a process that can be stopped.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from release_tasks.assets.findings import Busy, Damaged
from release_tasks.assets.sqlite.owners import require_unowned
from release_tasks.assets.sqlite.results import extended_code, is_damage
from release_tasks.assets.sqlite.system_calls import (
    SIDE_FILES,
    Guard,
    guarded,
    is_cut,
    known,
    one_thread,
    replace_system_calls,
    require_side_file,
)
from release_tasks.assets.waiting import LockWait, holders_of
from release_tasks.core.errors import DiskFull, StageFailed, with_path
from release_tasks.core.place import Place, trusted

__all__ = [
    "SIDE_FILES",
    "DamagedDatabase",
    "DiskError",
    "SharedMemoryCut",
    "connection",
    "describe_holders",
    "has_content",
    "has_writer",
    "immutable",
    "live_connection",
    "problems_reported",
    "require_database",
    "skip_schema",
    "translated_errors",
    "value",
]

_CACHE_KIB = 8192
_MAX_STATEMENT = 1000  # bytes of a statement, also of one in the schema
# The bytes that SQLite locks: from 1 GiB on in the file (os.h, PENDING_BYTE), 120 to 127 in the -shm: the writer, the
# checkpoint, recovery and the readers (https://sqlite.org/walformat.html, "WAL Locks"). Readers block no writer.
_LOCK_BYTES = 0x40000000
_WAL_LOCKS = (120, 122)
_MAGIC = b"SQLite format 3\0"


replace_system_calls()


class DamagedDatabase(Damaged):
    """The file cannot be read as a database, or SQLite's check found errors."""


class SharedMemoryCut(DamagedDatabase):
    """Another process cut the shared memory of ``live`` while SQLite used it; the content is all old or all new."""

    def __init__(self, live: Place) -> None:
        super().__init__(
            f"Another process cut {live.path}-shm, the shared memory of the database, while SQLite used it. Stop the "
            "processes that have the database open, then try again."
        )


class DiskError(StageFailed):
    """SQLite got an error from the disk. When the error happened in a commit, the commit may or may not be done."""


@contextlib.contextmanager
def live_connection(
    live: Place, flags: int, wait: LockWait | None = None, *, keeps_wal: bool = False
) -> Iterator[tuple[apsw.Connection, os.stat_result]]:
    """Open a live database by the descriptor of its folder, and close it after the block.

    Also yields the result of fstat of the opened file. ``wait`` is for locks of other processes. Raises StageFailed
    when a file of the database was exchanged or is that of another user, see ``guarded``; SharedMemoryCut when another
    process cut the shared memory, also after a block that succeeded.
    """
    with (
        guarded(live) as guard,
        problems_reported(guard),
        connection(Path(guard.reference), flags, wait, reported_as=live, keeps_wal=keeps_wal) as database,
    ):
        try:
            yield database, guard.info
        finally:
            if guard.is_cut:  # the end of a connection would write what SQLite sees of the WAL
                database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


@contextlib.contextmanager
def problems_reported(guard: Guard) -> Iterator[None]:
    """Raise what ``guard`` found instead of the errors that SQLite makes of it in the block.

    Raises SharedMemoryCut also after a block that succeeded.
    """
    try:
        yield
    except (apsw.Error, StageFailed) as error:
        if guard.is_cut and isinstance(error, (apsw.Error, DamagedDatabase)):
            raise SharedMemoryCut(guard.place) from error
        if guard.problem is not None:
            raise guard.problem from error
        raise
    if guard.is_cut:
        raise SharedMemoryCut(guard.place)


@contextlib.contextmanager
def connection(
    path: Path,
    flags: int,
    wait: LockWait | None = None,
    *,
    reported_as: Place | None = None,
    keeps_wal: bool = False,
    is_immutable: bool = False,
    vfs: str | None = None,
) -> Iterator[apsw.Connection]:
    """Open a database that only this user can change, and close it after the block.

    ``vfs`` is the name of the VFS that opens the file instead of SQLite's own.
    """
    # A URI can contain every byte of a path; as text, SQLite takes only UTF-8 (https://sqlite.org/uri.html).
    uri = f"file://{quote(os.fsencode(path.absolute()))}{'?immutable=1' if is_immutable else ''}"
    with contextlib.ExitStack() as resources:
        resources.enter_context(one_thread())
        resources.enter_context(known(str(path.absolute())))
        database = apsw.Connection(uri, flags=flags | apsw.SQLITE_OPEN_URI, vfs=vfs)
        resources.callback(database.close, True)
        # Set this before the first statement reads the file: close() would checkpoint the WAL even after a failure.
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keeps_wal))
        # Errors in the schema are ignored, also the one of ``skip_schema``.
        database.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        database.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, _MAX_STATEMENT)
        if wait is not None:
            database.set_busy_handler(functools.partial(_go_on, wait, reported_as or trusted(path)))
        skip_schema(database)
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield database


def skip_schema(database: apsw.Connection) -> None:
    """Let SQLite take the schema as read, without parsing it; tables have no names in this connection then.

    A pragma parses the schema first. Interrupted in that, with errors of the schema ignored, SQLite keeps what it has
    parsed (prepare.c, sqlite3InitOne): at most one short statement.
    """
    database.set_progress_handler(lambda: True, 1)
    try:
        with contextlib.suppress(apsw.InterruptError):
            database.execute("PRAGMA cache_size")
    finally:
        database.set_progress_handler(None)


def _go_on(wait: LockWait, live: Place, attempts: int) -> bool:
    if is_cut(live.path):
        return False  # a lock that is not held, or never given back
    if attempts == 0:
        wait.begin()
    return wait.go_on(lambda: f"{live.path} is locked by {describe_holders(live)}.")


def describe_holders(live: Place) -> str:
    """Return who holds a lock that blocks a reader or writer of a live database."""
    shm = live.sibling(f"{live.name}-shm")
    # In WAL mode every open connection has a shared lock on the file, which blocks no transaction.
    is_wal = shm.exists()
    found = holders_of(live, lambda lock: lock.start >= _LOCK_BYTES and (lock.is_exclusive or not is_wal))
    found += holders_of(shm, lambda lock: lock.is_exclusive and lock.start in _WAL_LOCKS)
    if not found:  # a change of the page size needs a database that no other process has open
        found = holders_of(live, lambda lock: lock.start >= _LOCK_BYTES)
    return ", ".join(dict.fromkeys(found)) or "another process"


def has_writer(live: Place) -> bool:
    """Return whether another process has a lock to write the file of a database."""
    return bool(holders_of(live, lambda lock: lock.is_exclusive and lock.start >= _LOCK_BYTES))


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[apsw.Connection]:
    """Open a copy that no process writes, without locks and side files."""
    with connection(path, apsw.SQLITE_OPEN_READONLY, is_immutable=True) as database:
        yield database


def value(database: apsw.Connection, statement: str) -> Any:
    """Return the first value of the first row of a statement, None without a row."""
    row = database.execute(statement).fetchone()
    return row[0] if row else None


def require_database(live: Place) -> None:
    """Raise DamagedDatabase unless the file starts with the header of a database.

    SQLite would delete the WAL of a file without this header, and with it the last good copy of some rows.
    """
    path = live.path
    try:
        info = live.info()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedDatabase(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(info.st_mode):
        raise DamagedDatabase(f"{path} should be a SQLite database, but is not a regular file.")
    for suffix in SIDE_FILES:
        place = live.sibling(live.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            side_file = place.info()
            if not stat.S_ISREG(side_file.st_mode):
                raise DamagedDatabase(
                    f"{path} cannot be opened: its side file {path.name}{suffix} is not a regular file."
                )
            try:
                require_side_file(place, side_file, info)
            except StageFailed as error:
                raise DamagedDatabase(f"{path} cannot be opened. {error.message}") from error
    require_unowned(info)
    with live.opened() as fd, with_path(path):
        start = os.read(fd, len(_MAGIC))
    if not start and not any(has_content(live, suffix) for suffix in ("-wal", "-journal")):
        return  # an empty file is a database without tables
    if start != _MAGIC:
        raise DamagedDatabase(f"{path} cannot be read as a SQLite database: its header is missing.")


def has_content(live: Place, suffix: str) -> bool:
    """Return whether the side file exists and is not empty."""
    info = live.sibling(live.name + suffix).look()
    return info is not None and info.st_size > 0


@contextlib.contextmanager
def translated_errors(
    live: Place, error_class: type[StageFailed] = StageFailed, wait: LockWait | None = None
) -> Iterator[None]:
    """Turn SQLite's errors about ``live`` into messages.

    Raises DamagedDatabase for damage, Busy for a lock that another process still holds after ``wait``, ``error_class``
    for an error that a disk, a permission or a limit may cause, else StageFailed.
    """
    try:
        yield
    except apsw.Error as error:
        raise _translated(error, live, error_class, wait) from error


def _translated(error: apsw.Error, live: Place, error_class: type[StageFailed], wait: LockWait | None) -> StageFailed:
    path = live.path
    if is_damage(error):
        return DamagedDatabase(f"{path} cannot be read as a SQLite database: {error}.")
    if isinstance(error, (apsw.BusyError, apsw.LockedError, apsw.ProtocolError)):
        seconds = wait.seconds if wait is not None else 0.0
        return Busy(path, describe_holders(live), seconds)
    if isinstance(error, apsw.FullError):
        full = DiskFull if error_class is StageFailed else error_class
        return full(f"The disk is full: {path} could not be copied or written.")
    if isinstance(error, apsw.ReadOnlyError):
        return error_class(f"{path} cannot be written: its file or folder is read-only.")
    if isinstance(error, apsw.CantOpenError):
        hint = "Check owners, modes and the limit of open files"
        if not os.access(path.parent, os.W_OK):
            hint = f"{path.parent} is read-only: make it writable"
        return error_class(f"{path} or a side file of it cannot be opened. {hint}, and try again.")
    if isinstance(error, apsw.SQLError):
        return StageFailed(f"SQLite cannot read {path}: {error}.")
    code = apsw.mapping_extended_result_codes.get(extended_code(error)) or type(error).__name__
    return (DiskError if error_class is StageFailed else error_class)(
        f"SQLite could not read or write {path} or its copy ({code}). "
        "Check whether a disk or a quota is full, or a disk is failing, and try again."
    )
