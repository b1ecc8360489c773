"""SQLite's own calls of ``open``, ``lstat`` and ``unlink``, replaced: it opens what was looked up by descriptors.

SQLite knows a database by its path: it resolves the links in the path itself, then opens the file and its side files by
the result, one after the other. Where another user may write a folder of the path, each of these is a new look-up. Here
SQLite gets a path through the descriptor of the folder (``Place.reference``), keeps it as it is, and so reaches each
file of the database by that descriptor and one name. Every opened file is examined before SQLite gets it: it is a
regular file, as root none that another user can have moved there, and for the database itself the file that the caller
has seen. SQLite deletes only side files of the databases that are open: a journal can name any other file
(``sqlite.journal``). Once the shared memory of a database was cut (``sqlite.shared_memory``), SQLite writes and deletes
no file of it.

These calls need Python's lock while SQLite holds its own, and a thread that closes a connection holds Python's lock
while it waits for that of SQLite. So they are replaced in a run as root only, where another user can be an attacker,
and there one thread at a time uses SQLite (``one_thread``).

The replacement is SQLite's own interface for this (xSetSystemCall, https://sqlite.org/c3ref/vfs.html). It is in force
for all connections of ``apsw`` in this process. Links above a database are still followed, by the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
from attrs import define, field

from release_tasks.assets.sqlite.owners import owned
from release_tasks.assets.sqlite.shared_memory import CutFiles
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.interrupt import deferring_signals
from release_tasks.core.place import Place, Rights
from release_tasks.core.users import user_name

__all__ = [
    "SIDE_FILES",
    "Guard",
    "guarded",
    "is_cut",
    "known",
    "one_thread",
    "replace_system_calls",
    "replace_system_calls_of",
    "require_side_file",
    "was_cut",
]

SIDE_FILES = ("-wal", "-shm", "-journal")

_TEMPORARY = "etilqs_"  # SQLITE_TEMP_FILE_PREFIX of os.h

_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, use_errno=True)
_LSTAT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, use_errno=True)
_UNLINK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, use_errno=True)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, use_errno=True)
_PWRITE = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_FTRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64, use_errno=True)
_WRITES = os.O_WRONLY | os.O_RDWR
_GROUP_WRITES = stat.S_IRGRP | stat.S_IWGRP
_ATTEMPTS = 20


@define
class Guard:
    """The examination of the files that SQLite opens for the live database at ``place``.

    ``info`` is the result of fstat of the database that the caller expects. ``reference`` is the path by which SQLite
    must open it. ``problem`` is the reason why a file was refused; SQLite itself reports only that it cannot open a
    file. ``descriptors`` are those of the opened files. ``is_cut``: another process has cut the shared memory.
    """

    place: Place
    info: os.stat_result
    reference: str
    problem: StageError | None = None
    is_cut: bool = False
    descriptors: set[int] = field(factory=set)


_guards: dict[str, Guard] = {}  # by the path of the database, through the descriptor of its folder
_cut: set[Path] = set()  # the paths of the databases whose shared memory was cut in this run


class _Known(threading.local):
    """The paths of the databases that this thread has open, with the number of its connections to each."""

    def __init__(self) -> None:
        self.paths: Counter[str] = Counter()


_known = _Known()


SetCall = Callable[[str, int], Any]
_setters: list[SetCall] = []  # of each copy of SQLite in this process
_IS_ROOT = os.geteuid() == 0
_turn = threading.RLock()


def one_thread() -> contextlib.AbstractContextManager[object]:
    """Let no other thread use SQLite while the block runs, in a run as root."""
    return _turn if _IS_ROOT else contextlib.nullcontext()


@contextlib.contextmanager
def guarded(place: Place, library: str = "apsw") -> Iterator[Guard]:
    """Examine what the SQLite of ``library`` opens at ``place.reference`` and next to it while the block runs.

    Raises StageFailed when the SQLite of another library has the database open, when the database is no regular file,
    and for root where a descriptor cannot be part of a path; OSError.
    """
    info = place.info()
    if not stat.S_ISREG(info.st_mode):
        raise StageFailed(f"{place.path} is not a regular file.")
    reference = place.reference  # looked up once: it depends on /proc
    guard, before = Guard(place, info, reference), _guards.get(reference)
    if place.stranger is not None and reference == str(place.path):
        raise StageFailed(
            f"{place.path} is in a folder that {place.stranger} may exchange, and this system has no /proc: root does "
            "not open it. Run the command as the user of the service."
        )
    _guards[reference] = guard
    try:
        with owned(info, library), _cut_files.handled() if _IS_ROOT else contextlib.nullcontext():
            yield guard
    finally:
        del _guards[reference]
        if before is not None:
            _guards[reference] = before


def _guard_of(path: str) -> Guard | None:
    """Return the guard of the database that has the file ``path``."""
    databases = (path, *(path.removesuffix(suffix) for suffix in SIDE_FILES if path.endswith(suffix)))
    return next((guard for database in databases if (guard := _guards.get(database)) is not None), None)


def was_cut(database: Path) -> bool:
    """Return whether another process has cut the shared memory of this database during the run."""
    return database in _cut


def is_cut(database: Path) -> bool:
    """Return whether the shared memory was cut that an open connection to this database uses."""
    return any(guard.is_cut and guard.place.path == database for guard in list(_guards.values()))


@contextlib.contextmanager
def known(path: str) -> Iterator[None]:
    """Let SQLite delete, in this thread, only the side files of ``path`` and of other known databases."""
    _known.paths[path] += 1
    try:
        yield
    finally:
        _known.paths[path] -= 1
        if not _known.paths[path]:
            del _known.paths[path]


def replace_system_calls() -> None:
    """Replace the calls of ``apsw``, for good; has an effect in a run as root only."""
    replace_system_calls_of(lambda: apsw.VFS("release-tasks", base="unix").xSetSystemCall)


def replace_system_calls_of(find_setter: Callable[[], SetCall]) -> bool:
    """Replace the calls of a copy of SQLite, for good, as root only; return False where that is impossible.

    ``find_setter`` returns the function that sets a call of it by name and address.
    """
    if not _IS_ROOT:
        return True
    try:
        setter = find_setter()
        _set_calls(_CALLS_AFTER_CUT if _cut else {}, setter)
        _set_calls(_CALLS, setter)
    except (AttributeError, OSError):
        return False
    _setters.append(setter)
    return True


def _set_calls(calls: Mapping[str, Any], setter: SetCall) -> None:
    for name, call in calls.items():
        address = ctypes.cast(call, ctypes.c_void_p).value
        assert address is not None
        setter(name, address)


def _mark_cut(path: str) -> None:
    """Let SQLite write no file any more of the open database with this shared memory, or else of any open one."""
    found = [guard for database, guard in list(_guards.items()) if path == _shown_by_kernel(database)]
    for guard in found or list(_guards.values()):
        guard.is_cut = True
        _cut.add(guard.place.path)
    for setter in _setters:
        _set_calls(_CALLS_AFTER_CUT, setter)


_cut_files = CutFiles(_mark_cut)


def _shown_by_kernel(database: str) -> str:
    folder, name = os.path.split(database)
    with contextlib.suppress(OSError):
        folder = os.readlink(folder)
    return f"{folder}/{name}-shm".replace("\n", "\\012")


@deferring_signals
def _open(path: bytes, flags: int, mode: int) -> int:
    """Open a file as open(2) does. An exception cannot pass through SQLite."""
    name = os.path.basename(os.fsdecode(path))
    guard = _guard_of(os.fsdecode(path))
    try:
        fd, is_new = _opened(path, flags | os.O_NONBLOCK, mode, guard)
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1
    if flags & os.O_NOFOLLOW:  # set for a database and its side files (os_unix.c, unixOpen)
        try:
            _examine(fd, name, guard, is_written=bool(flags & _WRITES), is_new=is_new)
        except (OSError, StageError) as error:
            if guard is not None and isinstance(error, StageError):
                guard.problem = error
            os.close(fd)
            ctypes.set_errno(errno.EPERM)
            return -1
    for each in list(_guards.values()):  # the number may be that of a file that was closed
        each.descriptors.discard(fd)
    if guard is not None:
        guard.descriptors.add(fd)
    return fd


def _opened(path: bytes, flags: int, mode: int, guard: Guard | None) -> tuple[int, bool]:
    """Open a file; also return whether this call created it, where another user could have put a file."""
    if guard is None or guard.place.stranger is None or not flags & os.O_CREAT:
        return os.open(path, flags, mode), False
    for attempt in reversed(range(_ATTEMPTS)):
        try:
            return os.open(path, flags | os.O_EXCL, mode), True
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        try:
            return os.open(path, flags & ~os.O_CREAT, mode), False
        except FileNotFoundError:  # the other user has removed it meanwhile
            if attempt == 0:
                raise
    raise AssertionError("the last attempt raises")


def _examine(fd: int, name: str, guard: Guard | None, *, is_written: bool, is_new: bool) -> None:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise StageFailed(f"{guard.place.path.with_name(name) if guard else name} is not a regular file.")
    if guard is None:
        return
    place, is_side_file = guard.place.sibling(name), name != guard.place.name
    if not is_side_file and not os.path.samestat(info, guard.info):
        raise StageFailed(f"{place.path} was exchanged by another process while it was opened. Try again.")
    if is_side_file:
        # SQLite as root gives it the owner of the database, and copies what is in a WAL into the database.
        if not is_new:
            require_side_file(place, info, guard.info)
        elif place.folder_info().st_uid != guard.info.st_uid:
            place.drop_inherited_list(fd)
    elif is_written:
        place.require_writable(fd)


def require_side_file(place: Place, info: os.stat_result, database: os.stat_result) -> None:
    """Raise StageFailed when a side file may be a file of another user that a third one has moved here.

    ``info`` and ``database`` are the results of fstat of the side file and of its database. SQLite makes a side file
    with the rights of the database. A user who may write a database by its group keeps the new side file.
    """
    is_shared = (
        info.st_uid != 0
        and info.st_nlink == 1
        and info.st_gid == database.st_gid
        and stat.S_IMODE(info.st_mode) == stat.S_IMODE(database.st_mode)
        and info.st_mode & _GROUP_WRITES == _GROUP_WRITES
    )
    if not (is_shared or place.is_own_file(info, Rights.of(database))):
        raise StageFailed(
            f"{place.path} belongs to {user_name(info.st_uid)} and has other rights than its database, and "
            f"{place.stranger} may have put it there: root does not use it. Stop the service, and move this file to a "
            "folder of its owner."
        )


@deferring_signals
def _lstat(path: bytes, result: int) -> int:
    """Answer that nothing is there: SQLite then takes the name as it is, and resolves no link in it."""
    ctypes.set_errno(errno.ENOENT)
    return -1


@deferring_signals
def _unlink(path: bytes) -> int:
    """Delete a side file of a known database, or a temporary file of SQLite; a thread without any is not restricted."""
    name = os.fsdecode(path)
    is_side_file = any(name == known_path + suffix for known_path in _known.paths for suffix in SIDE_FILES)
    is_allowed = not _known.paths or is_side_file or os.path.basename(name).startswith(_TEMPORARY)
    guard = _guard_of(name)
    if not is_allowed or (guard is not None and guard.is_cut):
        ctypes.set_errno(errno.EPERM)
        return -1
    try:
        os.unlink(path)
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1
    return 0


def _is_refused(fd: int) -> bool:
    """Return whether SQLite must not write this file, because the index of the WAL that it sees is not the real one."""
    is_refused = any(guard.is_cut and fd in guard.descriptors for guard in list(_guards.values()))
    if is_refused:
        ctypes.set_errno(errno.EIO)
    return is_refused


@deferring_signals
def _write(fd: int, data: int, size: int) -> int:
    return -1 if _is_refused(fd) else int(_real_write(fd, data, size))


@deferring_signals
def _pwrite(fd: int, data: int, size: int, offset: int) -> int:
    return -1 if _is_refused(fd) else int(_real_pwrite(fd, data, size, offset))


@deferring_signals
def _ftruncate(fd: int, size: int) -> int:
    return -1 if _is_refused(fd) else int(_real_ftruncate(fd, size))


_libc = ctypes.CDLL(None, use_errno=True)
_real_write = _WRITE(("write", _libc))
_real_pwrite = _PWRITE(("pwrite", _libc))
_real_ftruncate = _FTRUNCATE(("ftruncate", _libc))
_CALLS = {
    "open": _OPEN(_open),
    "lstat": _LSTAT(_lstat),
    "unlink": _UNLINK(_unlink),
}  # kept for as long as SQLite may call them
_CALLS_AFTER_CUT = {
    "write": _WRITE(_write),
    "pwrite": _PWRITE(_pwrite),
    "pwrite64": _PWRITE(_pwrite),
    "ftruncate": _FTRUNCATE(_ftruncate),
}
