"""A SQLite with the table ``sqlite_dbpage``, which reads and writes the pages of a database in its transactions.

The SQLite of ``apsw`` has no such table; that of the package ``arize-phoenix-sqlean`` has (module ``sqlean``, the extra
``fast``). Another package with the same module name has a SQLite with the WAL-reset bug, so the version decides.

Two copies of SQLite in one process, or a descriptor of a live file that is closed, drop each other's POSIX locks
(https://sqlite.org/howtocorrupt.html, 2.2). ``owners`` keeps the two apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import apsw
from attrs import frozen

from release_tasks.assets.sqlite.connection import describe_holders, problems_reported
from release_tasks.assets.sqlite.system_calls import guarded, known, replace_system_calls_of
from release_tasks.assets.waiting import LockWait
from release_tasks.core.place import Place

__all__ = ["Engine", "PageConnection", "find_engine", "why_missing"]

_MODULE = "sqlean"
_FIRST_VERSION = (3, 51, 3)  # without the WAL-reset bug (https://sqlite.org/wal.html)
_CACHE_KIB = 16384
_FEW_STEPS = 40  # of SQLite's virtual machine: more than a statement needs that reads one page
_MAX_STATEMENT = 1000  # bytes of a statement, also of one in the schema
# sqlite3.h: SQLITE_LIMIT_SQL_LENGTH, SQLITE_DBCONFIG_WRITABLE_SCHEMA, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
_LIMIT_SQL_LENGTH, _WRITABLE_SCHEMA, _NO_CHECKPOINT = 1, 1011, 1006
# The messages of SQLite's result codes (main.c, sqlite3ErrStr); the module has no codes.
_ERRORS: tuple[tuple[str, type[apsw.Error]], ...] = (
    ("database is locked", apsw.BusyError),
    ("database table is locked", apsw.LockedError),
    ("locking protocol", apsw.ProtocolError),
    ("disk image is malformed", apsw.CorruptError),
    ("file is not a database", apsw.NotADBError),
    ("database or disk is full", apsw.FullError),
    ("readonly database", apsw.ReadOnlyError),
    ("unable to open database file", apsw.CantOpenError),
    ("disk I/O error", apsw.IOError),
    ("out of memory", apsw.NoMemError),
    ("interrupted", apsw.InterruptError),
)


class _Opening(threading.local):
    """The connection that this thread opens: whether its end keeps the WAL, and its ``sqlite3 *``."""

    keeps_wal = False
    handle = 0


_opening = _Opening()


@frozen
class Engine:
    """A module with the interface of Python's ``sqlite3`` and the table ``sqlite_dbpage``."""

    module: ModuleType
    version: str
    library: ctypes.CDLL

    @contextlib.contextmanager
    def open(
        self, live: Place, wait: LockWait | None = None, *, keeps_wal: bool = False
    ) -> Iterator[Callable[[], PageConnection]]:
        """Let the block open connections to a live database by the descriptor of its folder; close them after it.

        ``wait`` is for locks of other processes. ``keeps_wal``: the end of the last connection leaves the WAL.
        While the block runs, no other code of this process may open the file.
        Raises StageFailed, as ``guarded`` does, and SharedMemoryCut when another process cut the shared memory.
        """
        with (
            guarded(live, self.module.__name__) as guard,
            known(os.path.abspath(guard.reference)),
            problems_reported(guard),
            contextlib.ExitStack() as connections,
        ):

            def connect() -> PageConnection:
                _opening.keeps_wal = keeps_wal
                return connections.enter_context(
                    contextlib.closing(PageConnection(self, Path(guard.reference), live, wait))
                )

            yield connect


class PageConnection:
    """A connection that reads and writes pages, and never parses the schema. Its errors are those of ``apsw``."""

    def __init__(self, engine: Engine, path: Path, live: Place, wait: LockWait | None) -> None:
        self._library = engine.library
        self._module = module = engine.module
        uri = f"file://{quote(os.fsencode(path.absolute()))}?mode=rw"
        self._raised: BaseException | None = None  # in the busy handler, through which no exception can pass
        with self._errors():
            self._database = module.connect(uri, isolation_level=None, timeout=0, uri=True, cached_statements=16)
        self._handle = _opening.handle
        if wait is not None:
            self._database.set_busy_handler(functools.partial(self._go_on, wait, live))
        self.skip_schema()
        self.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def skip_schema(self) -> None:
        """Let SQLite take the schema as read, without parsing it; needed again after each begin of a transaction.

        A statement whose schema is older than that of the file parses the schema. Interrupted in that, with errors
        of the schema ignored, SQLite keeps what it has parsed: a few statements of limited length.
        """
        steps = iter(range(_FEW_STEPS))
        self._database.set_progress_handler(lambda: next(steps, None) is None, 1)
        try:
            with contextlib.suppress(apsw.InterruptError), self._errors():
                self._database.execute("SELECT pgno FROM sqlite_dbpage WHERE pgno = 1").fetchall()
        finally:
            self._database.set_progress_handler(None, 0)

    def begin(self, kind: str = "") -> None:
        """Begin a transaction of this kind; raises apsw.Error."""
        self.execute(f"BEGIN {kind}")
        self.skip_schema()

    def execute(self, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows; raises apsw.Error."""
        with self._errors():
            return list(self._database.execute(statement, tuple(values)).fetchall())

    def value(self, statement: str, values: Iterable[Any] = ()) -> Any:
        """Return the first value of the first row of a statement, None without a row."""
        rows = self.execute(statement, values)
        return rows[0][0] if rows else None

    def blocks(self, pages: int) -> Iterator[list[bytes]]:
        """Yield the content of all pages in the order of their numbers, up to ``pages`` of them at once."""
        with self._errors():
            cursor = self._database.execute("SELECT data FROM sqlite_dbpage")
            while rows := cursor.fetchmany(pages):
                yield [row[0] for row in rows]

    def page(self, number: int) -> bytes:
        """Return the content of a page; raises apsw.CorruptError when there is none."""
        found = self.value("SELECT data FROM sqlite_dbpage WHERE pgno = ?", (number,))
        if not isinstance(found, bytes):
            raise apsw.CorruptError(f"CorruptError: page {number} does not exist")
        return found

    def write(self, pages: Iterable[tuple[int, bytes | None]]) -> None:
        """Write pages in one prepared statement; a page without content cuts the database before it.

        The cut must be last: a page that is written after it cancels it. Page 1 must keep its schema cookie until then:
        with another one, SQLite reads the schema anew before the next page. Raises apsw.Error.
        """
        with self._errors():
            self._database.executemany("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?, ?)", pages)

    def flush_cache(self) -> None:
        """Write the changed pages to the log or the file, without a commit: a full disk shows here.

        Raises apsw.Error.
        """
        if code := self._library.sqlite3_db_cacheflush(ctypes.c_void_p(self._handle)):
            raise _error_of(str(self._library.sqlite3_errstr(code).decode()))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of the module into those of ``apsw`` with the same meaning."""
        try:
            yield
        except self._module.Error as error:
            raised, self._raised = self._raised, None
            if raised is not None:
                raise raised from None
            raise _error_of(str(error)) from error

    def _go_on(self, wait: LockWait, live: Place, attempts: int) -> bool:
        try:
            if attempts == 0:
                wait.begin()
            return wait.go_on(lambda: f"{live.path} is locked by {describe_holders(live)}.")
        except BaseException as error:  # a signal, for instance
            self._raised = error
            return False

    def close(self) -> None:
        """Roll back what is not committed, and close the database; may be repeated."""
        with contextlib.suppress(self._module.Error):
            self._database.close()


def _error_of(text: str) -> apsw.Error:
    """Return the error of ``apsw`` for a message of SQLite."""
    found = next((kind for message, kind in _ERRORS if message in text), apsw.SQLError)
    return found(f"{found.__name__}: {text}")


def find_engine() -> Engine | None:
    """Return the engine; None without one, and ``why_missing`` has the reason."""
    return _found()[0]


def why_missing() -> str:
    """Return why there is no engine, as the end of a sentence; empty when there is one."""
    return _found()[1]


@functools.cache
def _found() -> tuple[Engine | None, str]:
    try:
        module = importlib.import_module(_MODULE)
    except ImportError:
        return None, "the extra `fast` is not installed"
    version = str(module.sqlite_version)
    if tuple(int(part) for part in version.split(".")[:3]) < _FIRST_VERSION:
        return None, f"the SQLite {version} of the module {_MODULE} has the WAL-reset bug"
    with contextlib.closing(module.connect(":memory:")) as database:
        options = {str(row[0]) for row in database.execute("PRAGMA compile_options")}
    if "ENABLE_DBPAGE_VTAB" not in options:
        return None, f"the SQLite {version} of the module {_MODULE} has no sqlite_dbpage"
    try:
        library = ctypes.CDLL(importlib.import_module(f"{module.__name__}._sqlite3").__file__)
        _limit_schemas(library)
    except (ImportError, AttributeError, OSError):
        return None, f"the library of the module {_MODULE} does not export the interface of SQLite"
    if not replace_system_calls_of(functools.partial(_system_call_setter, library)):
        return None, f"the system calls of the module {_MODULE} cannot be replaced, which root needs"
    return Engine(module, version, library), ""


def _limit_schemas(library: ctypes.CDLL) -> None:
    """Let each new connection take no long statement, also none of a schema, and ignore errors in a schema."""
    limit, configure = library.sqlite3_limit, library.sqlite3_db_config
    library.sqlite3_errstr.restype = ctypes.c_char_p
    limit.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)

    def prepare(database: int, *_: Any) -> int:
        limit(database, _LIMIT_SQL_LENGTH, _MAX_STATEMENT)
        _opening.handle = database
        configure(ctypes.c_void_p(database), _NO_CHECKPOINT, int(_opening.keeps_wal), None)
        return int(configure(ctypes.c_void_p(database), _WRITABLE_SCHEMA, 1, None))

    if library.sqlite3_auto_extension(_kept(_PREPARE(prepare))):
        raise OSError("SQLite takes no extension")


_PREPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_callbacks: list[Any] = []  # for as long as SQLite may call them


def _kept(callback: Any) -> Any:
    _callbacks.append(callback)
    return callback


class _Vfs(ctypes.Structure):
    """The struct sqlite3_vfs of version 3 (https://sqlite.org/c3ref/vfs.html)."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("max_path", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("methods", ctypes.c_void_p * 13),
        ("set_system_call", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
    )


def _system_call_setter(library: ctypes.CDLL) -> Callable[[str, int], None]:
    """Return the function that replaces a system call of a library of SQLite. Raises AttributeError, OSError."""
    find = library.sqlite3_vfs_find
    find.restype = ctypes.POINTER(_Vfs)
    vfs = find(b"unix")

    def set_call(name: str, address: int) -> None:
        if vfs.contents.set_system_call(ctypes.addressof(vfs.contents), name.encode(), address):
            raise OSError(f"SQLite has no system call {name}")

    if not vfs or vfs.contents.version < 3:
        raise OSError("the VFS of SQLite has no system calls")
    return set_call
