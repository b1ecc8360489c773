"""Capture and restore live SQLite databases through SQLite.

``apsw`` includes a current SQLite: SQLite up to 3.51.2 can corrupt a WAL database when a checkpoint and a writer race
(https://sqlite.org/wal.html, "The WAL-Reset Bug"). This process never reads the file of a live database while it has a
connection to it: closing any descriptor of the file releases this process's POSIX locks on it.
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
from release_tasks.assets.sqlite.private import private_copy
from release_tasks.core.digests import sha256_file
from release_tasks.core.durable import fsync_file
from release_tasks.core.errors import StageFailed, with_path

__all__ = [
    "BUSY_SECONDS",
    "SIDE_FILES",
    "DamagedDatabase",
    "DiskError",
    "capture_database",
    "check_database",
    "content_digest",
    "count_rows",
    "examine_database",
    "read_schema",
    "restore_database",
    "set_journal_mode",
    "write_canonical_header",
]

SIDE_FILES = ("-wal", "-shm", "-journal")

_PAGES_A_STEP = 2048  # 8 MiB at the default page size: short enough to react to a signal
_CACHE_KIB = 8192
_EXAMINATIONS = 3
BUSY_SECONDS = 30.0  # how long a lock of another process is waited for; tests shorten it
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
# Header fields that can change when the content does not (https://sqlite.org/fileformat.html#the_database_header):
# read and write version (18-19), change counter (24-27), schema cookie (40-43), version-valid-for and the version
# number of the library that wrote last (92-99). A copy has the values below, so that equal content gives equal bytes.
_CANONICAL_FIELDS = ((18, b"\x01\x01"), (24, bytes(4)), (40, bytes(4)), (92, bytes(8)))
# Errors that only damaged content can cause. An I/O error, a denied permission or too many open files do not mean
# damage: a restore would replace the file of a "damaged" database while the service has it open.
_DAMAGED = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError)
_CODE = re.compile(r"error code[= ]+(\d+)")  # "unable to get the page. error code=10"
_MISSING = re.compile(r"(?:no such|unknown) (?P<kind>collation|function)(?: sequence)?: (?P<name>.+?)(?:\(\))?$")

Progress = Callable[[int, int], None]


class DamagedDatabase(Damaged):
    """The file cannot be read as a database, or SQLite's check found errors."""


class DiskError(StageFailed):
    """SQLite got an error from the disk. When the error happened in a commit, the commit may or may not be done."""


def capture_database(
    source: Path, destination: Path, progress: Progress | None = None, checked: Callable[[int], None] | None = None
) -> tuple[str, str]:
    """Copy the committed content of a database in use; return its journal mode and the SHA-256 of the copy.

    One read transaction covers the whole copy. So the copy finishes also while other processes write, and it contains
    exactly the rows that were committed before the transaction started. The copy is a rollback-journal database without
    a WAL, has passed ``quick_check`` and is flushed. Its header is canonical, so the digest of its bytes is the digest
    of its content. Raises DamagedDatabase when the source is damaged, StageFailed or OSError when it stays locked for
    30 s or when a disk, a permission or a limit prevents the copy. ``progress`` is called with (copied bytes, total
    bytes), ``checked`` with the number of bytes of each read for the digest.
    """
    with _translated_errors(source), _reader(source) as live:
        journal_mode = _back_up(live, source, destination, progress)
    return journal_mode, _completed(destination, source, checked)


def examine_database(
    source: Path, destination: Path, progress: Progress | None = None, checked: Callable[[int], None] | None = None
) -> tuple[str, str]:
    """Copy the committed content of a database as ``capture_database`` does, and change nothing next to ``source``.

    SQLite reads a private copy of the file and its journals, in a folder next to ``destination`` that is removed. Only
    when a writer never pauses, SQLite reads the live database, as an ordinary reader of the service does: then the
    files change anyway, and there is no hot journal. Raises the errors of ``capture_database``, and StageFailed for a
    database that keeps changing.
    """
    _require_database(source)
    scratch = destination.with_name(f".{destination.name[:64]}.private")
    copied = 0

    def count(size: int) -> None:
        nonlocal copied
        copied += size
        if progress is not None:
            progress(copied, copied)

    for _ in range(_EXAMINATIONS):
        with private_copy(source, scratch, count) as private:
            if private is not None:
                journal_mode = _fold_journals(private, source)
                os.rename(private, destination)
                return journal_mode, _completed(destination, source, checked, is_durable=False)
        try:
            with _translated_errors(source), _connection(source, apsw.SQLITE_OPEN_READONLY, keeps_wal=True) as live:
                journal_mode = _back_up(live, source, destination, progress)
            return journal_mode, _completed(destination, source, checked, is_durable=False)
        except StageFailed as error:
            # The writer has ended meanwhile: a read-only connection plays no journal and creates no side file.
            if not isinstance(error.__cause__, (apsw.ReadOnlyError, apsw.CantOpenError)):
                raise
            destination.unlink(missing_ok=True)
    raise StageFailed(f"{source} kept changing, so it could not be compared. Try again when the service is less busy.")


def restore_database(copy: Path, live: Path, progress: Progress | None = None) -> None:
    """Replace the content of the database ``live`` by the content of ``copy`` in one write transaction.

    All other connections see the old content until the commit and the new content afterwards. Raises DamagedDatabase
    when ``live`` is no usable database, StageFailed or OSError when it stays locked for 30 s or its disk is full or
    read-only; its content is unchanged then. After a DiskError the content is all old or all new. ``progress`` gets
    (copied bytes, total bytes).
    """
    _require_database(live)
    with _translated_errors(live), _connection(live, apsw.SQLITE_OPEN_READWRITE) as target, _immutable(copy) as source:
        # EXTRA: with FULL the removal of a rollback journal, which is the commit, may not survive a power cut.
        target.execute("PRAGMA synchronous = EXTRA")
        mode = str(_value(target, "PRAGMA journal_mode"))
        resized = mode == "wal" and _value(target, "PRAGMA page_size") != _value(source, "PRAGMA page_size")
        if resized:
            # The page size cannot change in WAL mode, and leaving WAL mode needs exclusive access to the database.
            _value(target, "PRAGMA journal_mode = DELETE")
        try:
            _run_backup(target, source, progress)
        finally:
            # The content is committed or rolled back here. A lock of another process is therefore no error: try again.
            for _ in range(3 if resized else 0):
                with contextlib.suppress(apsw.Error):
                    _value(target, "PRAGMA journal_mode = WAL")
                    break
        if mode == "wal":
            # Free the disk space of the WAL. A process that is reading may prevent this, which is harmless.
            target.set_busy_timeout(200)
            with contextlib.suppress(apsw.Error):
                _value(target, "PRAGMA wal_checkpoint(TRUNCATE)")


def check_database(path: Path, thorough: bool = False, reported_as: Path | None = None) -> None:
    """Run ``quick_check``, or with ``thorough`` ``integrity_check``, on a database that no other process uses.

    Raises DamagedDatabase. The message names ``reported_as`` (the original of the copy ``path``) or else ``path``.
    """
    # Without ``reported_as``, ``path`` is a stored copy: every read error counts as damage.
    error_class = DamagedDatabase if reported_as is None else StageFailed
    with _translated_errors(reported_as or path, error_class), _immutable(path) as database:
        found = _findings(database, "integrity_check(5)" if thorough else "quick_check(5)")
    if found != ["ok"]:
        raise DamagedDatabase(f"{reported_as or path} fails SQLite's integrity check: {'; '.join(found)}.")


def count_rows(path: Path) -> dict[str, int | None]:
    """Return the row count of each table of a database that no other process uses.

    The count is None for a virtual table whose module only the service has. Raises DamagedDatabase, StageFailed.
    """
    rows: dict[str, int | None] = {}
    with _translated_errors(path), _immutable(path) as database:
        found = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for name in (str(row[0]) for row in found if not str(row[0]).startswith("sqlite_")):
            quoted = name.replace('"', '""')
            rows[name] = None
            with contextlib.suppress(apsw.SQLError):
                rows[name] = int(_value(database, f'SELECT count(*) FROM "{quoted}"'))
    return rows


def read_schema(path: Path) -> dict[str, str]:
    """Return the SQL of each table, index, view and trigger by kind and name; no other process may use the database.

    Raises DamagedDatabase, StageFailed.
    """
    with _translated_errors(path), _immutable(path) as database:
        found = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {f"{kind} {name}": str(sql) for kind, name, sql in found}


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a database file with canonical header fields; no process may use the file."""
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
    """Set the journal mode in the header of a database file that no process uses: WAL or rollback journal."""
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
    """Run a check. Collations and functions that only the service has are replaced by stubs."""
    stubs: set[str] = set()
    while True:
        try:
            found = [str(row[0]) for row in database.execute(f"PRAGMA {check}")]
        except apsw.SQLError as error:
            missing = _MISSING.search(str(error))
            if missing is None or missing[0] in stubs:
                raise
            stubs.add(missing[0])
            if missing["kind"] == "collation":
                database.create_collation(missing["name"], lambda a, b: (a > b) - (a < b))
            else:
                database.create_scalar_function(missing["name"], lambda *_: 1, -1, deterministic=True)
            check = check.replace("integrity_check", "quick_check")  # with a stub, index lookups would fail
            continue
        for code in (int(code) for finding in found for code in _CODE.findall(finding)):
            # This finding reports an error of the disk or of memory, not damaged content.
            if code & 0xFF in (apsw.SQLITE_IOERR, apsw.SQLITE_NOMEM) and code != apsw.SQLITE_IOERR_SHORT_READ:
                raise apsw.IOError("; ".join(found))
        return found


def _back_up(live: apsw.Connection, source: Path, destination: Path, progress: Progress | None) -> str:
    """Copy the content of ``live``, in one read transaction; return its journal mode."""
    journal_mode = str(_value(live, "PRAGMA journal_mode"))
    live.execute("BEGIN")
    _value(live, "SELECT count(*) FROM sqlite_schema")
    _require_whole_pages(live, source)
    with _connection(destination, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        _value(copy, "PRAGMA journal_mode = OFF")
        _run_backup(copy, live, progress)
    return journal_mode


def _fold_journals(private: Path, source: Path) -> str:
    """Let SQLite recover a private copy of ``source`` and fold its WAL into the file; return the journal mode."""
    with _translated_errors(source), _connection(private, apsw.SQLITE_OPEN_READWRITE) as database:
        journal_mode = str(_value(database, "PRAGMA journal_mode"))
        _value(database, "SELECT count(*) FROM sqlite_schema")
        _require_whole_pages(database, private, reported_as=source)
        if journal_mode == "wal":
            _value(database, "PRAGMA journal_mode = DELETE")
    return journal_mode


def _completed(copy: Path, source: Path, checked: Callable[[int], None] | None, *, is_durable: bool = True) -> str:
    """Give a copy its final form, check it, flush it unless it is temporary, and return its digest."""
    os.chmod(copy, 0o600)
    write_canonical_header(copy)
    with ThreadPoolExecutor(2) as pool:
        digest = pool.submit(sha256_file, copy, checked)
        flushed = pool.submit(fsync_file, copy) if is_durable else None
        check_database(copy, reported_as=source)
        if flushed is not None:
            flushed.result()
        return digest.result()


def _run_backup(target: apsw.Connection, source: apsw.Connection, progress: Progress | None) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    page = int(_value(source, "PRAGMA page_size")) if progress is not None else 0
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            try:
                backup.step(_PAGES_A_STEP)
            except (apsw.BusyError, apsw.LockedError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
                continue
            if progress is not None:
                progress((backup.page_count - backup.remaining) * page, backup.page_count * page)


@contextlib.contextmanager
def _connection(path: Path, flags: int, *, keeps_wal: bool = False) -> Iterator[apsw.Connection]:
    database = apsw.Connection(str(path), flags=flags)
    try:
        # Set this before the first statement reads the file: close() would checkpoint the WAL even after a failure.
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keeps_wal))
        database.set_busy_timeout(int(BUSY_SECONDS * 1000))
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield database
    finally:
        database.close(True)


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[apsw.Connection]:
    """Open a live database for reading, and leave the file and its WAL unchanged."""
    _require_database(path)
    # Closing the last connection checkpoints and removes the WAL. Keep an existing WAL; let a new one be removed.
    had_wal = _has_content(path, "-wal")
    # Not read-only: a WAL database without side files, or a database with a hot journal, could not be opened then.
    with _connection(path, apsw.SQLITE_OPEN_READWRITE, keeps_wal=had_wal) as live:
        live.execute("PRAGMA query_only = 1")
        yield live


@contextlib.contextmanager
def _immutable(path: Path) -> Iterator[apsw.Connection]:
    """Open a copy that no process writes, without locks and side files."""
    uri = f"file:{quote(str(path))}?immutable=1"
    with _connection(Path(uri), apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI) as database:
        yield database


def _value(database: apsw.Connection, statement: str) -> Any:
    row = database.execute(statement).fetchone()
    return row[0] if row else None


def _require_database(path: Path) -> None:
    """Raise DamagedDatabase unless the file starts with the header of a database.

    SQLite would delete the WAL of a file without this header, and with it the last good copy of some rows.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedDatabase(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode):
        raise DamagedDatabase(f"{path} should be a SQLite database, but is not a regular file.")
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(f"{path}{suffix}").st_mode):
                raise DamagedDatabase(
                    f"{path} cannot be opened: its side file {path.name}{suffix} is not a regular file."
                )
    with with_path(path), path.open("rb", buffering=0) as file:
        start = file.read(len(_MAGIC))
    if not start and not any(_has_content(path, suffix) for suffix in ("-wal", "-journal")):
        return  # an empty file is a database without tables
    if start != _MAGIC:
        raise DamagedDatabase(f"{path} cannot be read as a SQLite database: its header is missing.")


def _require_whole_pages(live: apsw.Connection, path: Path, reported_as: Path | None = None) -> None:
    """Raise DamagedDatabase for a file that ends inside a page: SQLite reads zeros there and reports no error."""
    page, size = int(_value(live, "PRAGMA page_size")), os.stat(path).st_size
    # With a WAL, a checkpoint may be writing the last page.
    if size % page and not _has_content(path, "-wal"):
        raise DamagedDatabase(
            f"{reported_as or path} was truncated: its size of {size} bytes is not a multiple of the page size {page}."
        )


def _has_content(path: Path, suffix: str) -> bool:
    try:
        return os.lstat(f"{path}{suffix}").st_size > 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _translated_errors(path: Path, error_class: type[StageFailed] = StageFailed) -> Iterator[None]:
    """Turn SQLite's errors about ``path`` into messages; ``error_class`` is for errors that do not mean damage."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StageFailed(
            f"{path} stayed locked by another process for {BUSY_SECONDS:g} s. "
            "End the transaction that holds the lock, or stop the service, and try again."
        ) from error
    except apsw.FullError as error:
        raise error_class(f"The disk is full: {path} could not be copied or written.") from error
    except apsw.ReadOnlyError as error:
        raise error_class(f"{path} cannot be written: its file or folder is read-only.") from error
    except _DAMAGED as error:
        raise DamagedDatabase(f"{path} cannot be read as a SQLite database: {error}.") from error
    except apsw.CantOpenError as error:
        is_writable = os.access(path.parent, os.W_OK)
        hint = "Check owners, modes and the limit of open files"
        if not is_writable:
            hint = f"{path.parent} is read-only: make it writable"
        raise error_class(f"{path} or a side file of it cannot be opened. {hint}, and try again.") from error
    except apsw.Error as error:
        extended = getattr(error, "extendedresult", 0)
        code = apsw.mapping_extended_result_codes.get(extended) or type(error).__name__
        if extended == apsw.SQLITE_IOERR_SHORT_READ:
            raise DamagedDatabase(f"{path} cannot be read as a SQLite database: {code}.") from error
        if error_class is StageFailed:
            error_class = DiskError
        raise error_class(
            f"SQLite could not read or write {path} or its copy ({code}). "
            "Check whether a disk or a quota is full, or a disk is failing, and try again."
        ) from error
