"""A live SQLite database in and out of a snapshot, always through SQLite itself.

``apsw`` brings its own current SQLite: releases up to 3.51.2 can corrupt a WAL database when a checkpoint and a
writer race (https://sqlite.org/wal.html, "The WAL-Reset Bug"). A live file is never read raw while a connection of
this process is open on it, because closing any descriptor drops this process's POSIX locks on that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from release_tasks.assets.base import Damaged
from release_tasks.core.digests import sha256_file
from release_tasks.core.durable import fsync_file
from release_tasks.core.errors import StageFailed, with_path

__all__ = [
    "BUSY_SECONDS",
    "SIDE_FILES",
    "DamagedDatabase",
    "DiskTrouble",
    "capture_database",
    "check_database",
    "content_digest",
    "count_rows",
    "is_sound",
    "read_schema",
    "restore_database",
    "set_journal_mode",
    "write_canonical_header",
]

SIDE_FILES = ("-wal", "-shm", "-journal")

_PAGES_A_STEP = 2048  # 8 MiB at the default page size: often enough to notice a signal
_CACHE_KIB = 8192
BUSY_SECONDS = 30.0  # how long a lock of another process is waited for; tests shorten it
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
# Header fields that change although the content does not (https://sqlite.org/fileformat.html#the_database_header):
# read and write version (18-19), change counter (24-27), schema cookie (40-43), version-valid-for and the version
# number of the library that wrote last (92-99). A copy carries the values below, so that equal content is equal bytes.
_CANONICAL_FIELDS = ((18, b"\x01\x01"), (24, bytes(4)), (40, bytes(4)), (92, bytes(8)))
# What only the content itself can cause. An I/O error, a refused permission or too many open files say nothing about
# it, and a database that was called damaged for them would be replaced under the service that has it open.
_DAMAGED = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError)
_CODE = re.compile(r"error code[= ]+(\d+)")  # "unable to get the page. error code=10"
_MISSING = re.compile(r"(?:no such|unknown) (?P<kind>collation|function)(?: sequence)?: (?P<name>.+?)(?:\(\))?$")

Progress = Callable[[int, int], None]


class DamagedDatabase(Damaged):
    """The file cannot be read as a database, or fails its integrity check."""


class DiskTrouble(StageFailed):
    """SQLite had an error from the disk; a commit that it came in may or may not have taken place."""


def capture_database(
    source: Path, destination: Path, progress: Progress | None = None, checked: Callable[[int], None] | None = None
) -> tuple[str, str]:
    """Copy the committed content of a database in use; returns its journal mode and the SHA-256 of the copy.

    One read transaction stays pinned over the whole copy, so it ends however busy the writers are, and holds every
    row committed before it began and none committed after. The copy is a rollback-journal database (no ``-wal`` beside
    it), has passed ``quick_check`` and is flushed; its header is canonical, so the digest of its bytes is that of its
    content. Raises DamagedDatabase when the content of the source is none, StageFailed or OSError when it stays locked
    for 30 s or a disk, a permission or a limit is in the way.
    ``progress`` gets (bytes done, bytes in all) of the copying, ``checked`` each number of bytes that was digested.
    """
    with _explained(source), _reader(source) as live:
        journal_mode = str(_value(live, "PRAGMA journal_mode"))
        live.execute("BEGIN")
        _value(live, "SELECT count(*) FROM sqlite_schema")
        _require_whole_pages(live, source)
        with _connection(destination, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) as copy:
            copy.execute("PRAGMA synchronous = OFF")
            _value(copy, "PRAGMA journal_mode = OFF")
            _run_backup(copy, live, progress)
    os.chmod(destination, 0o600)
    write_canonical_header(destination)
    with ThreadPoolExecutor(2) as pool:
        digest = pool.submit(sha256_file, destination, checked)
        flushed = pool.submit(fsync_file, destination)
        check_database(destination, blame=source)
        flushed.result()
        return journal_mode, digest.result()


def restore_database(copy: Path, live: Path, progress: Progress | None = None) -> None:
    """Replace the content of the database ``live`` by that of ``copy`` in one write transaction.

    Other connections, old and new, see the old content until it commits and the new content from then on. Raises
    DamagedDatabase when ``live`` is no usable database, StageFailed or OSError when it stays locked for 30 s or its
    disk is full or read-only; in each case its content is what it was. After DiskTrouble it is all old or all new.
    ``progress`` gets (bytes done, bytes in all).
    """
    _require_database(live)
    with _explained(live), _connection(live, apsw.SQLITE_OPEN_READWRITE) as target, _immutable(copy) as source:
        # EXTRA: with FULL the removal of a rollback journal, which is the commit, may not survive a power cut.
        target.execute("PRAGMA synchronous = EXTRA")
        mode = str(_value(target, "PRAGMA journal_mode"))
        resized = mode == "wal" and _value(target, "PRAGMA page_size") != _value(source, "PRAGMA page_size")
        if resized:
            # A WAL cannot change the page size; leaving WAL mode needs the database to itself.
            _value(target, "PRAGMA journal_mode = DELETE")
        try:
            _run_backup(target, source, progress)
        finally:
            # The content is settled by then, so a lock that comes in between is waited for and never an error.
            for _ in range(3 if resized else 0):
                with contextlib.suppress(apsw.Error):
                    _value(target, "PRAGMA journal_mode = WAL")
                    break
        if mode == "wal":
            # Give the space of the WAL back; who is reading right now may prevent it, which harms nothing.
            target.set_busy_timeout(200)
            with contextlib.suppress(apsw.Error):
                _value(target, "PRAGMA wal_checkpoint(TRUNCATE)")


def check_database(path: Path, thorough: bool = False, blame: Path | None = None) -> None:
    """Run ``quick_check`` (or ``integrity_check``) on a database nobody else uses.

    Raises DamagedDatabase, which names ``blame`` (the file that ``path`` is a copy of) or ``path``.
    """
    # Of a copy that is only stored, nothing better can be said than that it cannot be read.
    trouble = DamagedDatabase if blame is None else StageFailed
    with _explained(blame or path, trouble), _immutable(path) as database:
        found = _findings(database, "integrity_check(5)" if thorough else "quick_check(5)")
    if found != ["ok"]:
        raise DamagedDatabase(f"{blame or path} fails SQLite's integrity check: {'; '.join(found)}.")


def count_rows(path: Path) -> dict[str, int | None]:
    """Return how many rows each table of a database that nobody else uses has; None for one that SQLite cannot count.

    That are tables of a module that only the service has. Raises DamagedDatabase, StageFailed.
    """
    rows: dict[str, int | None] = {}
    with _explained(path), _immutable(path) as database:
        found = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for name in (str(row[0]) for row in found if not str(row[0]).startswith("sqlite_")):
            quoted = name.replace('"', '""')
            rows[name] = None
            with contextlib.suppress(apsw.SQLError):
                rows[name] = int(_value(database, f'SELECT count(*) FROM "{quoted}"'))
    return rows


def read_schema(path: Path) -> dict[str, str]:
    """Return the SQL of each table, index, view and trigger of a database that nobody else uses, by kind and name.

    Raises DamagedDatabase, StageFailed.
    """
    with _explained(path), _immutable(path) as database:
        found = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {f"{kind} {name}": str(sql) for kind, name, sql in found}


def is_sound(path: Path) -> bool:
    """Say whether a database that others may have open can be read and passes ``quick_check``."""
    try:
        with _explained(path), _reader(path) as live:
            _require_whole_pages(live, path)
            return _findings(live, "quick_check(1)") == ["ok"]
    except DamagedDatabase:
        return False


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a database file nobody uses, with canonical values in the header's volatile fields."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        count = file.readinto(buffer)
        if count and count >= _HEADER_BYTES:
            for offset, value in _CANONICAL_FIELDS:
                buffer[offset : offset + len(value)] = value
        while count:
            digest.update(view[:count])
            count = file.readinto(buffer)
    return digest.hexdigest()


def set_journal_mode(path: Path, journal_mode: str | None) -> None:
    """Mark a database file nobody uses as WAL or rollback-journal, in its header alone."""
    version = 2 if journal_mode == "wal" else 1
    _patch(path, [(18, bytes((version, version)))])


def write_canonical_header(path: Path) -> None:
    """Overwrite the header fields that change although the content does not."""
    if path.stat().st_size >= _HEADER_BYTES:
        _patch(path, _CANONICAL_FIELDS)


def _patch(path: Path, fields: Any) -> None:
    with with_path(path), path.open("r+b", buffering=0) as file:
        for offset, value in fields:
            os.pwrite(file.fileno(), value, offset)


def _findings(database: apsw.Connection, check: str) -> list[str]:
    """Run a check; collations and functions that only the service has are stood in for."""
    stood_in: set[str] = set()
    while True:
        try:
            found = [str(row[0]) for row in database.execute(f"PRAGMA {check}")]
        except apsw.SQLError as error:
            missing = _MISSING.search(str(error))
            if missing is None or missing[0] in stood_in:
                raise
            stood_in.add(missing[0])
            if missing["kind"] == "collation":
                database.create_collation(missing["name"], lambda a, b: (a > b) - (a < b))
            else:
                database.create_scalar_function(missing["name"], lambda *_: 1, -1, deterministic=True)
            check = check.replace("integrity_check", "quick_check")  # a stand-in cannot look rows up in an index
            continue
        for code in (int(code) for finding in found for code in _CODE.findall(finding)):
            # A finding on an error in reading, not on the content.
            if code & 0xFF in (apsw.SQLITE_IOERR, apsw.SQLITE_NOMEM) and code != apsw.SQLITE_IOERR_SHORT_READ:
                raise apsw.IOError("; ".join(found))
        return found


def _run_backup(target: apsw.Connection, source: apsw.Connection, progress: Progress | None) -> None:
    give_up = time.monotonic() + BUSY_SECONDS
    page = int(_value(source, "PRAGMA page_size")) if progress is not None else 0
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            try:
                backup.step(_PAGES_A_STEP)
            except (apsw.BusyError, apsw.LockedError):
                if time.monotonic() >= give_up:
                    raise
                time.sleep(0.01)
                continue
            if progress is not None:
                progress((backup.page_count - backup.remaining) * page, backup.page_count * page)


@contextlib.contextmanager
def _connection(path: Path, flags: int, *, keeps_wal: bool = False) -> Iterator[apsw.Connection]:
    database = apsw.Connection(str(path), flags=flags)
    try:
        # Before the first statement reads the file: closing after a failed one would fold the WAL in as well.
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keeps_wal))
        database.set_busy_timeout(int(BUSY_SECONDS * 1000))
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield database
    finally:
        database.close(True)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[apsw.Connection]:
    """Open a live database to read, and leave the file and its WAL as they were found."""
    _require_database(path)
    # A WAL that was there would be folded into the file when the last one closes; one of our own making has to go.
    had_wal = _has_content(path, "-wal")
    # Not read-only: a WAL database whose side files are gone, or one with a hot journal, could not be opened at all.
    with _connection(path, apsw.SQLITE_OPEN_READWRITE, keeps_wal=had_wal) as live:
        live.execute("PRAGMA query_only = 1")
        yield live


@contextlib.contextmanager
def _immutable(path: Path) -> Iterator[apsw.Connection]:
    """Open a copy that nobody writes: no locks, no side files."""
    uri = f"file:{quote(str(path))}?immutable=1"
    with _connection(Path(uri), apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI) as database:
        yield database


def _value(database: apsw.Connection, statement: str) -> Any:
    row = database.execute(statement).fetchone()
    return row[0] if row else None


def _require_database(path: Path) -> None:
    """Raise DamagedDatabase unless the file begins like a database.

    SQLite would delete the WAL of a file that does not, and with it the last good copy of what it held.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedDatabase(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode):
        raise DamagedDatabase(f"{path} should be a SQLite database and is no regular file.")
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(f"{path}{suffix}").st_mode):
                raise DamagedDatabase(f"{path} cannot be opened: {path.name}{suffix} beside it is no regular file.")
    with with_path(path), path.open("rb", buffering=0) as file:
        start = file.read(len(_MAGIC))
    if not start and not any(_has_content(path, suffix) for suffix in ("-wal", "-journal")):
        return  # no bytes at all are a database without tables
    if start != _MAGIC:
        raise DamagedDatabase(f"{path} cannot be read as a SQLite database: its header is gone.")


def _require_whole_pages(live: apsw.Connection, path: Path) -> None:
    """Raise DamagedDatabase for a file that ends inside a page: SQLite reads zeros there and finds nothing amiss."""
    page, size = int(_value(live, "PRAGMA page_size")), os.stat(path).st_size
    # Beside a WAL the last page may be the one that a checkpoint is writing.
    if size % page and not _has_content(path, "-wal"):
        raise DamagedDatabase(f"{path} was cut short: its {size} bytes are no whole number of pages of {page}.")


def _has_content(path: Path, suffix: str) -> bool:
    try:
        return os.lstat(f"{path}{suffix}").st_size > 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _explained(path: Path, trouble: type[StageFailed] = StageFailed) -> Iterator[None]:
    """Turn SQLite's errors on ``path`` into sentences; ``trouble`` is for what says nothing about the content."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StageFailed(
            f"{path} stayed locked by another process for {BUSY_SECONDS:g} s. "
            "End the transaction that holds it, or stop the service, and run this again."
        ) from error
    except apsw.FullError as error:
        raise trouble(f"The disk is full: {path} could not be copied or written.") from error
    except apsw.ReadOnlyError as error:
        raise trouble(f"{path} cannot be written: its file or folder is read-only.") from error
    except _DAMAGED as error:
        raise DamagedDatabase(f"{path} cannot be read as a SQLite database: {error}.") from error
    except apsw.CantOpenError as error:
        is_writable = os.access(path.parent, os.W_OK)
        look = "owners, modes and the limit of open files" if is_writable else f"{path.parent}, which is read-only"
        raise trouble(
            f"{path}, or a file that SQLite keeps beside it, cannot be opened. Look at {look}, and run this again."
        ) from error
    except apsw.Error as error:
        extended = getattr(error, "extendedresult", 0)
        code = apsw.mapping_extended_result_codes.get(extended) or type(error).__name__
        if extended == apsw.SQLITE_IOERR_SHORT_READ:
            raise DamagedDatabase(f"{path} cannot be read as a SQLite database: {code}.") from error
        if trouble is StageFailed:
            trouble = DiskTrouble
        raise trouble(
            f"SQLite could not read or write {path} or the copy of it ({code}). "
            "See whether a disk of theirs, or a quota, is full or failing, and run this again."
        ) from error
