"""Copy live SQLite databases through SQLite, and compare files of databases by their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apsw
from attrs import evolve, frozen

from release_tasks.assets.sqlite.checks import check_database
from release_tasks.assets.sqlite.connection import (
    DamagedDatabase,
    SharedMemoryCut,
    connection,
    has_content,
    has_writer,
    live_connection,
    require_database,
    translated_errors,
    value,
)
from release_tasks.assets.sqlite.journal import require_no_super_journal
from release_tasks.assets.sqlite.private import private_copy
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.durable import fsync_file
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.holes import most_data
from release_tasks.core.place import Place, trusted
from release_tasks.core.records import StoredDelta
from release_tasks.core.threads import pool as thread_pool
from release_tasks.core.units import show_size

__all__ = [
    "PAGES_A_STEP",
    "Copied",
    "Progress",
    "canonical_page",
    "capture_database",
    "completed_copy",
    "content_digest",
    "examine_database",
    "is_usable",
    "read_cookie",
    "require_sound_pages",
    "require_sound_size",
    "set_journal_mode",
    "write_canonical_header",
]

PAGES_A_STEP = 2048  # 8 MiB at the default page size: short enough to react to a signal
_EXAMINATIONS = 3
_HEADER_BYTES = 100
# SQLite writes every page of a WAL database into the WAL. In rollback-journal mode it leaves holes for pages that one
# transaction allocates and frees, at most as many as its cache has.
_SIZE_SLACK = 16 << 20
_MOST_HOLES = 1 << 30
# Header fields that can change when the content does not (https://sqlite.org/fileformat.html#the_database_header):
# read and write version (18-19), change counter (24-27), schema cookie (40-43), version-valid-for and the version
# number of the library that wrote last (92-99). A copy has the values below, so that equal content gives equal bytes.
_CANONICAL_FIELDS = ((18, b"\x01\x01"), (24, bytes(4)), (40, bytes(4)), (92, bytes(8)))

Progress = Callable[[int, int], None]


@frozen(kw_only=True)
class Copied:
    """A copy of a database: the journal mode of its source, its SHA-256, and what SQLite could not check in it.

    ``info`` is the result of fstat of the file that was copied. ``size`` is in bytes, of the whole database also when
    it is stored as a ``delta``.
    """

    info: os.stat_result
    journal_mode: str
    sha256: str
    unchecked: list[str]
    size: int
    delta: StoredDelta | None = None


def capture_database(
    source: Place,
    destination: Path,
    progress: Progress | None = None,
    checked: Callable[[int], None] | None = None,
    wait: LockWait | None = None,
) -> Copied:
    """Copy the committed content of a database in use.

    One read transaction covers the whole copy. So the copy finishes also while other processes write, and it contains
    exactly the rows that were committed before the transaction started. The copy is a rollback-journal database without
    a WAL, has passed ``quick_check`` and is flushed. Its header is canonical, so the digest of its bytes is the digest
    of its content. When another process cuts the shared memory, the copy is of a private copy, as in
    ``examine_database``. Raises DamagedDatabase when the source is damaged, Busy when it stays locked during ``wait``,
    StageFailed or OSError when a disk, a permission or a limit prevents the copy. ``progress`` is called with (copied
    bytes, total bytes), ``checked`` with the number of bytes of each read for the digest.
    """
    try:
        with translated_errors(source, wait=wait), _reader(source, wait) as (live, info):
            journal_mode = _back_up(live, source, destination, progress)
    except SharedMemoryCut:
        destination.unlink(missing_ok=True)
        copied = _copied_privately(source, destination, lambda _: None, checked, is_durable=True)
        if copied is None:
            raise
        return copied
    return _completed(destination, source, info, journal_mode, checked)


def examine_database(
    source: Place,
    destination: Path,
    progress: Progress | None = None,
    checked: Callable[[int], None] | None = None,
    wait: LockWait | None = None,
) -> Copied:
    """Copy the committed content of a database as ``capture_database`` does, and change nothing next to ``source``.

    SQLite reads a private copy of the file and its journals, in a folder next to ``destination`` that is removed. Only
    when a writer never pauses, or has written a part of a transaction into the file, SQLite reads the live database, as
    an ordinary reader of the service does: then the files change anyway, and there is no hot journal. Raises the errors
    of ``capture_database``, and StageFailed for a database that keeps changing.
    """
    require_database(source)
    copied = 0

    def count(size: int) -> None:
        nonlocal copied
        copied += size
        if progress is not None:
            progress(copied, copied)

    for _ in range(_EXAMINATIONS):
        try:
            found = _copied_privately(source, destination, count, checked, is_durable=False)
            if found is not None:
                return found
        except DamagedDatabase:
            # With journal_mode MEMORY or OFF, the file can contain a part of an open transaction; a transaction over
            # several databases names its super-journal until the commit is done.
            if not has_writer(source):
                raise
            destination.unlink(missing_ok=True)
        try:
            require_no_super_journal(source, wait)
            with (
                translated_errors(source, wait=wait),
                live_connection(source, apsw.SQLITE_OPEN_READONLY, wait, keeps_wal=True) as (live, info),
            ):
                journal_mode = _back_up(live, source, destination, progress)
            return _completed(destination, source, info, journal_mode, checked, is_durable=False)
        except StageFailed as error:
            # The writer has ended meanwhile: a read-only connection plays no journal and creates no side file.
            if not isinstance(error.__cause__, (apsw.ReadOnlyError, apsw.CantOpenError)):
                raise
            destination.unlink(missing_ok=True)
    raise StageFailed(
        f"{source.path} kept changing, so it could not be compared. Try again when the service is less busy."
    )


def is_usable(source: Place, wait: LockWait) -> bool:
    """Return whether a live database can be opened; its content is not checked, also not its schema."""
    try:
        with translated_errors(source), _reader(source, wait) as (live, _):
            value(live, "PRAGMA schema_version")
            require_sound_size(live, source)
            return True
    except DamagedDatabase:
        return False


def read_cookie(source: Place, wait: LockWait | None = None) -> int:
    """Return the schema cookie of a live database, from 0 on. Raises DamagedDatabase, Busy, StageFailed, OSError."""
    with translated_errors(source, wait=wait), _reader(source, wait) as (live, _):
        return int(value(live, "PRAGMA schema_version")) % (1 << 32)


def content_digest(place: Place) -> str:
    """Return the SHA-256 of a database file with canonical header fields; no process may use the file."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    with place.opened() as fd, os.fdopen(fd, "rb", 0, closefd=False) as file:
        count = file.readinto(buffer)
        if count and count >= _HEADER_BYTES:
            for offset, value in _CANONICAL_FIELDS:
                buffer[offset : offset + len(value)] = value
        while count:
            digest.update(view[:count])
            count = file.readinto(buffer)
    return digest.hexdigest()


def set_journal_mode(fd: int, journal_mode: str | None) -> None:
    """Set the journal mode in the header of a database file that no process uses: WAL or rollback journal."""
    version = 2 if journal_mode == "wal" else 1
    _patch(fd, [(18, bytes((version, version)))])


def canonical_page(page: bytes) -> bytes:
    """Return the first page of a database with the header fields of a copy."""
    changed = bytearray(page)
    for offset, content in _CANONICAL_FIELDS:
        changed[offset : offset + len(content)] = content
    return bytes(changed)


def write_canonical_header(path: Path) -> None:
    """Overwrite the header fields that change although the content does not."""
    with with_path(path), path.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size >= _HEADER_BYTES:
            _patch(file.fileno(), _CANONICAL_FIELDS)


def _patch(fd: int, fields: Iterable[tuple[int, bytes]]) -> None:
    for offset, content in fields:
        os.pwrite(fd, content, offset)


def _back_up(live: apsw.Connection, source: Place, destination: Path, progress: Progress | None) -> str:
    """Copy the content of ``live``, in one read transaction; return its journal mode."""
    journal_mode = str(value(live, "PRAGMA journal_mode"))
    live.execute("BEGIN")
    value(live, "PRAGMA schema_version")  # starts the read transaction
    require_sound_size(live, source)
    with connection(destination, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        value(copy, "PRAGMA journal_mode = OFF")
        _run_backup(copy, live, progress)
    return journal_mode


def _copied_privately(
    source: Place,
    destination: Path,
    count: Callable[[int], None],
    checked: Callable[[int], None] | None,
    *,
    is_durable: bool,
) -> Copied | None:
    """Copy the content through a private copy of the files, see ``private_copy``; None when a writer never pauses."""
    info = source.info()
    scratch = destination.with_name(f".{destination.name[:64]}.private")
    with private_copy(source, scratch, count) as private:
        if private is None:
            return None
        journal_mode = _fold_journals(private, source)
        os.rename(private, destination)
        return _completed(destination, source, info, journal_mode, checked, is_durable=is_durable)


def _fold_journals(private: Path, source: Place) -> str:
    """Let SQLite recover a private copy of ``source`` and fold its WAL into the file; return the journal mode."""
    with translated_errors(source), connection(private, apsw.SQLITE_OPEN_READWRITE) as database:
        journal_mode = str(value(database, "PRAGMA journal_mode"))
        value(database, "PRAGMA schema_version")  # recovers the file
        require_sound_size(database, trusted(private), reported_as=source)
        if journal_mode == "wal":
            value(database, "PRAGMA journal_mode = DELETE")
    return journal_mode


def _completed(
    copy: Path,
    source: Place,
    info: os.stat_result,
    journal_mode: str,
    checked: Callable[[int], None] | None,
    *,
    is_durable: bool = True,
) -> Copied:
    """Give a copy its final form, check it, and flush it unless it is temporary."""
    os.chmod(copy, 0o600)
    write_canonical_header(copy)
    with thread_pool(2) as pool:
        digest = pool.submit(sha256_file, copy, checked)
        flushed = pool.submit(fsync_file, copy) if is_durable else None
        unchecked = check_database(copy, reported_as=source.path)
        if flushed is not None:
            flushed.result()
        size = os.stat(copy).st_size
        return Copied(info=info, journal_mode=journal_mode, sha256=digest.result(), unchecked=unchecked, size=size)


def completed_copy(copy: Path, source: Place, found: Copied, checked: Callable[[int], None] | None) -> Copied:
    """Check and flush a copy whose digest is known and whose header is canonical, and return its final description."""
    with thread_pool(1) as pool:
        flushed = pool.submit(fsync_file, copy)
        unchecked = check_database(copy, reported_as=source.path)
        flushed.result()
    if checked is not None:
        checked(found.size)
    return evolve(found, unchecked=unchecked)


def _run_backup(target: apsw.Connection, source: apsw.Connection, progress: Progress | None) -> None:
    page = int(value(source, "PRAGMA page_size")) if progress is not None else 0
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(PAGES_A_STEP)
            if progress is not None:
                progress((backup.page_count - backup.remaining) * page, backup.page_count * page)


@contextlib.contextmanager
def _reader(source: Place, wait: LockWait | None) -> Iterator[tuple[apsw.Connection, os.stat_result]]:
    """Open a live database for reading, and leave the file and its WAL unchanged."""
    require_database(source)
    require_no_super_journal(source, wait)
    # Closing the last connection checkpoints and removes the WAL. Keep an existing WAL; let a new one be removed.
    had_wal = has_content(source, "-wal")
    # Not read-only: a WAL database without side files, or a database with a hot journal, could not be opened then.
    with live_connection(source, apsw.SQLITE_OPEN_READWRITE, wait, keeps_wal=had_wal) as (live, info):
        live.execute("PRAGMA query_only = 1")
        yield live, info


def require_sound_size(database: apsw.Connection, source: Place, reported_as: Place | None = None) -> None:
    """Raise DamagedDatabase for a number of pages that the files of a database cannot have.

    Call it in a transaction, before pages are copied: a few bytes of a WAL, of its index or of a journal can name any
    number of pages, and SQLite reads zeros for those that do not exist. ``reported_as`` is the live database whose
    private copy ``source`` is.
    """
    page, pages = int(value(database, "PRAGMA page_size")), int(value(database, "PRAGMA page_count"))
    require_sound_pages(page, pages, source, reported_as)


def require_sound_pages(page: int, pages: int, source: Place, reported_as: Place | None = None) -> None:
    """Raise DamagedDatabase for a number of pages of this size that the files of a database cannot have.

    See ``require_sound_size``.
    """
    live, size = reported_as or source, source.info().st_size
    # With a WAL, a checkpoint may be writing the last page.
    if size % page and not has_content(source, "-wal"):
        raise DamagedDatabase(
            f"{live.path} was truncated: its size of {size} bytes is not a multiple of the page size {page}."
        )
    named = page * pages
    if named > size + _SIZE_SLACK and named > sum(info.st_size for info in _infos(source)) + _SIZE_SLACK:
        raise DamagedDatabase(
            f"{live.path} cannot be read as a SQLite database: it should have {pages} pages, and its files have "
            f"{show_size(size)}."
        )
    # Not the ranges of data: closing a descriptor of the file would release the locks of this process.
    if named > _MOST_HOLES and named > _MOST_HOLES + sum(map(most_data, _infos(live))):
        raise DamagedDatabase(
            f"{live.path} cannot be read as a SQLite database: it should have {pages} pages, and nearly all of "
            f"its {show_size(named)} are a hole. If it is sound, let SQLite run `VACUUM` in it."
        )


def _infos(place: Place) -> list[os.stat_result]:
    found = (place.sibling(place.name + suffix).look() for suffix in ("", "-wal", "-journal"))
    return [info for info in found if info is not None]
