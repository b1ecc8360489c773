"""The page numbers in the write-ahead log of a live database."""

from __future__ import annotations

import contextlib
import os

from release_tasks.core.errors import with_path
from release_tasks.core.place import Place

__all__ = ["pages_in_wal"]

# https://sqlite.org/fileformat.html#the_write_ahead_log: the header of the file has the page size at 8 and the salt at
# 16; each frame begins with the page number, and repeats the salt at 8.
_HEADER = 32
_FRAME = 24
_READ_FRAMES = 256


def pages_in_wal(live: Place) -> set[int]:
    """Return the page numbers of all frames of the current generation; empty without a log. Raises OSError.

    Frames of a transaction that was rolled back are among them. The caller holds the write lock, or a read transaction
    that began before: the generation cannot change then. The log has no POSIX locks, so its descriptor may be closed.
    """
    log = live.sibling(f"{live.name}-wal")
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError), log.opened() as fd, with_path(log.path):
        header = os.pread(fd, _HEADER, 0)
        size = int.from_bytes(header[8:12], "big") + _FRAME
        salt = header[16:24]
        offset = len(header)
        while len(header) == _HEADER:
            chunk = os.pread(fd, size * _READ_FRAMES, offset) if size < _READ_FRAMES << 10 else b""
            for start in range(0, len(chunk) - _FRAME + 1, size):
                if chunk[start + 8 : start + 16] != salt:
                    return found
                found.add(int.from_bytes(chunk[start : start + 4], "big"))
            if len(chunk) < size:
                return found
            offset += len(chunk) - len(chunk) % size
    return found
