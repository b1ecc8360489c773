"""The flags of ext4, XFS and btrfs that forbid a change to everyone, root included: immutable and append-only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from pathlib import Path

__all__ = ["protecting_flag"]

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h
_FLAGS = {0x10: "i", 0x20: "a"}  # FS_IMMUTABLE_FL and FS_APPEND_FL, as chattr names them


def protecting_flag(path: Path, dir_fd: int | None = None) -> str | None:
    """Return the letter of the flag that forbids to rename, replace or rewrite ``path`` (``i`` or ``a``), or None.

    With ``dir_fd``, ``path`` is a name in that folder. None also for what is neither a file nor a folder, and where the
    system has no such flags.
    """
    with contextlib.suppress(OSError):
        mode = os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))
        finally:
            os.close(fd)
        return next((letter for bit, letter in _FLAGS.items() if flags & bit), None)
    return None
