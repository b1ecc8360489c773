"""Read a file whose name other users may exchange for a pipe, a device or a file without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from release_tasks.core.errors import StageFailed, with_path

__all__ = ["open_regular", "read_exactly", "read_regular"]


def read_regular(path: Path, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a regular file; symbolic links are followed.

    Raises OSError, also for anything else than a regular file: ``open`` of a pipe would wait for its writer.
    """
    with with_path(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "It is not a regular file")
            return file.read(limit)


def open_regular(path: Path) -> int:
    """Return a descriptor of a regular file for reading; symbolic links are not followed.

    Raises StageFailed for anything else than a regular file, OSError.
    """
    with with_path(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StageFailed(f"{path} is not a regular file.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_exactly(fd: int, path: Path, offset: int, size: int) -> bytes:
    """Return ``size`` bytes from ``offset`` of the file at ``path``, which is open as ``fd``.

    Raises StageFailed when the file ends before, OSError.
    """
    with with_path(path):
        data = os.pread(fd, size, offset)
        while len(data) < size:
            part = os.pread(fd, size - len(data), offset + len(data))
            if not part:
                raise StageFailed(f"{path} was cut while it was read.")
            data += part
    return data
