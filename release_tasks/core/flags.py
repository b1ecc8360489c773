"""The flags of ext4, XFS and btrfs that forbid a change to everyone, root included: immutable and append-only."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from pathlib import Path
from typing import Any

__all__ = ["protecting_flag"]

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_SIZE = 256  # bytes of struct statx; its attributes are the second field of 8 bytes (statx(2))
_FLAGS = {0x10: "i", 0x20: "a"}  # STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND, as chattr names them


def protecting_flag(path: Path, dir_fd: int | None = None) -> str | None:
    """Return the letter of the flag that forbids to rename, replace or rewrite ``path`` (``i`` or ``a``), or None.

    With ``dir_fd``, ``path`` is a name in that folder. None also where the system has no such flags. Opens nothing: the
    end of a descriptor would drop the locks of this process on a database.
    """
    statx, result = _statx(), ctypes.create_string_buffer(_SIZE)
    folder = _AT_FDCWD if dir_fd is None else dir_fd
    if statx is None or statx(folder, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, 0, result):
        return None
    (attributes,) = struct.unpack_from("=Q", result, 8)
    return next((letter for bit, letter in _FLAGS.items() if attributes & bit), None)


@functools.cache
def _statx() -> Any:
    """Return the function of the C library; None on a system without it."""
    return getattr(ctypes.CDLL(None), "statx", None)
