"""The holes of sparse files: ranges of zeros that occupy no disk space (lseek(2), SEEK_DATA and SEEK_HOLE)."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

__all__ = ["data_ranges", "most_data", "punch"]

_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the filesystem's block size is (stat(2))
_MOST_COMPRESSION = 64  # of a filesystem that compresses: a low estimate would refuse sound files
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


def most_data(info: os.stat_result) -> int:
    """Return the most bytes that a file can have outside of its holes; closes no descriptor of the file."""
    return min(info.st_size, _MOST_COMPRESSION * info.st_blocks * _BLOCK_BYTES)


def data_ranges(fd: int, info: os.stat_result) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each range that is not a hole, in order; one range where holes are not known."""
    size = info.st_size
    if info.st_blocks * _BLOCK_BYTES >= size:
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole follows
                yield end, size
            return
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def punch(fd: int, start: int, size: int) -> bool:
    """Make a range of a file a hole; return False where the filesystem cannot."""
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return False
    result = fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_longlong(start), ctypes.c_longlong(size))
    return bool(result == 0)
