"""Durable writes and renames: the data is on disk when a function returns.

POSIX has no atomic "write a file". A name must only point at bytes that were flushed before, and a rename is durable
only after its folder was flushed too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from release_tasks.core.errors import with_path
from release_tasks.core.tree import Entry, walk

__all__ = [
    "SYNCFS_THRESHOLD",
    "MayRemove",
    "exchange",
    "flush_filesystem",
    "fsync_directory",
    "fsync_file",
    "fsync_tree",
    "keep_out_of_git",
    "make_new_directory",
    "make_private_directory",
    "remove_durably",
    "remove_tree",
    "write_atomic",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_MOST_NAMES = 100_000  # of one default
SYNCFS_THRESHOLD = 200  # files and folders
# Called with a folder and the folder around it; returns whether the first may be removed with its content.
MayRemove = Callable[[os.stat_result, os.stat_result | None], bool]
_REMOVALS = 5  # attempts, while a process adds entries to a folder that is being removed


def fsync_directory(path: Path, dir_fd: int | None = None) -> None:
    """Flush a folder's entries, so that a rename or an unlink in it survives a power cut."""
    with _opened(path, os.O_DIRECTORY, dir_fd) as fd:
        os.fsync(fd)


def fsync_file(path: Path, dir_fd: int | None = None) -> None:
    """Flush one regular file's bytes and metadata. With ``dir_fd``, ``path`` is a name in that folder."""
    with _opened(path, os.O_NOFOLLOW, dir_fd) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def _opened(path: Path, flags: int, dir_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    try:
        with with_path(path):
            yield fd
    finally:
        os.close(fd)


def fsync_tree(root: Path, dir_fd: int | None = None) -> None:
    """Flush every file and folder at and below ``root``; symlinks are flushed with their folder.

    With ``dir_fd``, ``root`` is a name in that folder.
    """
    mode = os.stat(root, dir_fd=dir_fd, follow_symlinks=False).st_mode
    if stat.S_ISREG(mode):
        fsync_file(root, dir_fd)
        return
    if not stat.S_ISDIR(mode):
        return
    if _is_large(root, dir_fd) and flush_filesystem(root, dir_fd):
        return
    for entry in walk(root, dir_fd=dir_fd):
        with with_path(f"{root}/{entry.path}"):
            if entry.is_end:
                fsync_directory(Path("."), entry.fd)
            elif stat.S_ISREG(entry.info.st_mode):
                fsync_file(Path(entry.name), entry.folder)


def _is_large(root: Path, dir_fd: int | None) -> bool:
    flushed = (entry for entry in walk(root, dir_fd=dir_fd) if entry.is_end or stat.S_ISREG(entry.info.st_mode))
    return len(list(itertools.islice(flushed, SYNCFS_THRESHOLD + 1))) > SYNCFS_THRESHOLD


def flush_filesystem(path: Path, dir_fd: int | None = None) -> bool:
    """Flush the whole filesystem of ``path``: ten times as fast as thousands of single flushes.

    Reports errors as fsync does since Linux 5.8 (syncfs(2)). Returns False on a system without syncfs.
    """
    syncfs = getattr(_libc(), "syncfs", None)
    if syncfs is None:
        return False
    with _opened(path, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd) as fd:
        if syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    return True


def make_private_directory(path: Path) -> None:
    """Create ``path`` and its missing parents durably, with mode 0700. An existing folder stays unchanged."""
    missing: list[Path] = []
    probe = path
    while not probe.exists():
        missing.append(probe)
        probe = probe.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        fsync_directory(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def keep_out_of_git(folder: Path) -> None:
    """Write a ``.gitignore`` that excludes everything in ``folder``, which holds secrets, unless it has one already.

    Creates the folder when it is missing. Without the right to write, nothing is changed: git is only one way out.
    """
    ignore = folder / ".gitignore"
    with contextlib.suppress(OSError):
        if not os.path.lexists(ignore):  # the file of a user stays, also an empty one
            write_atomic(ignore, b"*\n", is_durable=False)


def make_new_directory(parent: Path, name: str, taken: Collection[str] = ()) -> Path:
    """Create a folder that no other process has, and return it: ``name``, or ``name-2`` and so on when that exists.

    A name in ``taken`` is not used. The mode is 0700; ``parent`` is created when it is missing.
    """
    make_private_directory(parent)
    for candidate in (name, *(f"{name}-{number}" for number in range(2, _MOST_NAMES))):
        if candidate not in taken:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent / candidate, 0o700)
                return parent / candidate
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(parent / name))


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, is_durable: bool = True) -> None:
    """Replace ``path`` by a new file that contains ``data``. After a crash ``path`` has all old bytes or all new bytes.

    Without ``is_durable`` this is true for a killed process, but not for a power cut: for files that have no meaning
    after a reboot.
    """
    make_private_directory(path.parent)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with with_path(path):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
            if is_durable:
                os.fsync(fd)
        try:
            os.replace(temporary, path)
        except OSError as error:
            error.filename = str(path)  # instead of the temporary file, which is removed below
            raise
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    if is_durable:
        fsync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove ``path`` if it exists, and flush its folder in either case."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fsync_directory(path.parent)


def remove_tree(path: Path, dir_fd: int | None = None, may_remove: MayRemove | None = None) -> list[str]:
    """Remove a file, a link, or a folder, even when its folders are read-only. A missing path is not an error.

    With ``dir_fd``, ``path`` is a name in that folder. ``may_remove`` is asked about each folder and the folder that it
    is in (None for ``path`` itself), with their results of fstat. Returns the paths below ``path`` that stay because
    it returned False. Raises OSError.
    """
    for attempt in reversed(range(_REMOVALS)):
        try:
            if not stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                os.unlink(path, dir_fd=dir_fd)
                return []
            kept = _remove_content(path, dir_fd, may_remove)
            if not kept:
                os.rmdir(path, dir_fd=dir_fd)
            return kept
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == 0:
                raise  # otherwise a process has added an entry meanwhile
    raise AssertionError("the last attempt returns or raises")


def _remove_content(path: Path, dir_fd: int | None, may_remove: MayRemove | None) -> list[str]:
    kept: list[str] = []
    around: list[os.stat_result] = []  # of the folders that the walk is in
    for entry in walk(path, dir_fd=dir_fd, force=True):
        if entry.is_end:
            around.pop()
            if any(below.startswith(f"{entry.path}/") for below in kept):
                continue
        elif stat.S_ISDIR(entry.info.st_mode):
            if may_remove is not None and not may_remove(entry.info, around[-1] if around else None):
                kept.append(entry.path)
                entry.is_skipped = True
                if not entry.path:
                    return kept
                continue
            around.append(entry.info)
        _remove(entry)
    return kept


def _remove(entry: Entry) -> None:
    if entry.is_end and entry.path:
        os.rmdir(entry.name, dir_fd=entry.folder)
    elif not entry.is_end and stat.S_ISDIR(entry.info.st_mode):
        if entry.info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(entry.fd, stat.S_IRWXU)
    elif not entry.is_end:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.name, dir_fd=entry.folder)


def exchange(first: Path, second: Path, first_fd: int | None = None, second_fd: int | None = None) -> None:
    """Swap two names in one step, so that both names always exist (``renameat2(RENAME_EXCHANGE)``).

    With a descriptor, the path is a name in that folder.

    Raises OSError: ENOSYS when the system has no such call (macOS, old kernels), EINVAL when the filesystem does not
    support it, EXDEV on an overlay's lower folder, EBUSY on a mount point.
    """
    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first), None, str(second))
    folders = (_AT_FDCWD if fd is None else fd for fd in (first_fd, second_fd))
    names = map(os.fsencode, (first, second))
    arguments = [argument for pair in zip(folders, names, strict=True) for argument in pair]
    result = renameat2(*arguments, ctypes.c_uint(_RENAME_EXCHANGE))
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
