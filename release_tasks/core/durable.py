"""Writes that are on disk when they return, and the few renames everything else is built from.

POSIX gives no atomic "write a file": a name must only ever point at bytes that were flushed before it,
and a rename is only durable once its folder was flushed too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from release_tasks.core.errors import with_path

__all__ = [
    "MANY_FILES",
    "exchange",
    "flush_filesystem",
    "fsync_directory",
    "fsync_file",
    "fsync_tree",
    "make_private_directory",
    "remove_durably",
    "remove_tree",
    "write_atomic",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
MANY_FILES = 200  # above this number of files one syncfs replaces the single flushes; tests lower it


def fsync_directory(path: Path) -> None:
    """Flush a folder's entries, so that a rename or an unlink in it survives a power cut."""
    with _opened(path, os.O_DIRECTORY) as fd:
        os.fsync(fd)


def fsync_file(path: Path) -> None:
    """Flush one regular file's bytes and metadata."""
    with _opened(path, os.O_NOFOLLOW) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        with with_path(path):
            yield fd
    finally:
        os.close(fd)


def fsync_tree(root: Path) -> None:
    """Flush every file and folder at and below ``root``; symlinks are flushed with their folder."""
    mode = os.lstat(root).st_mode
    if stat.S_ISREG(mode):
        fsync_file(root)
        return
    if not stat.S_ISDIR(mode):
        return
    files: list[Path] = []
    folders: list[Path] = []
    for folder, _, names in os.walk(root):
        folders.append(Path(folder))
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                files.append(path)
    if len(files) + len(folders) > MANY_FILES and flush_filesystem(root):
        return
    for path in files:
        fsync_file(path)
    for directory in reversed(folders):
        fsync_directory(directory)


def flush_filesystem(path: Path) -> bool:
    """Flush the whole filesystem that holds ``path``: ten times as fast as thousands of single flushes.

    Reports errors as fsync does since Linux 5.8 (syncfs(2)); False where the system has no such call.
    """
    syncfs = getattr(_libc(), "syncfs", None)
    if syncfs is None:
        return False
    with _opened(path, os.O_DIRECTORY) as fd:
        if syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    return True


def make_private_directory(path: Path) -> None:
    """Make ``path`` and its missing parents, 0700, durably; an existing folder is left as it is."""
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


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, is_durable: bool = True) -> None:
    """Replace ``path`` by ``data``: after a crash it holds the old bytes or the new ones, all of them.

    Without ``is_durable`` that holds for a killed process only: for notes that mean nothing after a power cut.
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
            error.filename = str(path)  # not the temporary name, which is gone by then
            raise
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    if is_durable:
        fsync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Unlink ``path`` if it is there, and flush its folder either way."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fsync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder, also one whose folders were made read-only; absence is fine."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        path.unlink()
        return
    os.chmod(path, 0o700)
    for entry in list(os.scandir(path)):
        remove_tree(Path(entry.path))
    path.rmdir()


def exchange(first: Path, second: Path) -> None:
    """Swap two names in one step, so that neither is ever missing (``renameat2(RENAME_EXCHANGE)``).

    Raises OSError: ENOSYS where the system has no such call (macOS, old kernels), EINVAL where the
    filesystem lacks it, EXDEV on an overlay's lower folder, EBUSY on a mount point.
    """
    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first), None, str(second))
    done = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(first), None, str(second))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
