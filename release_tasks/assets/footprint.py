"""The space that a copy of state takes on a disk: bytes in allocated blocks, and names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import frozen

from release_tasks.core.place import Place

__all__ = ["Footprint", "footprint_of"]

_BLOCK = 4096  # the block of most filesystems
_STAT_BLOCK = 512  # the unit of st_blocks, stat(2)


@frozen(kw_only=True)
class Footprint:
    """The space that a copy takes. ``size`` is in bytes; each of the ``names`` takes an inode.

    ``longest_name`` is in bytes. ``sample`` is a file of the state that contains data, to test whether copies of it
    share its blocks.
    """

    size: int = 0
    names: int = 0
    longest_name: int = 0
    sample: Path | None = None

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            size=self.size + other.size,
            names=self.names + other.names,
            longest_name=max(self.longest_name, other.longest_name),
            sample=self.sample or other.sample,
        )


def footprint_of(place: Place) -> Footprint:
    """Return the space that a copy of what is at ``place`` takes. What is missing or cannot be read counts as nothing.

    It is a lower limit, so that a copy that would succeed is never refused: holes take no space.
    """
    try:
        info = place.info()
        if not stat.S_ISDIR(info.st_mode):
            sample = place.path if stat.S_ISREG(info.st_mode) and info.st_size else None
            return Footprint(size=_allocated(info), names=1, longest_name=_length(place.path.name), sample=sample)
        walked = place.walk(lambda path, error: None)
        size, names, longest, inner = _allocated(next(walked).info), 1, _length(place.path.name), None
    except OSError:
        return Footprint()
    for entry in walked:
        if not entry.is_end:
            names += 1
            size += _allocated(entry.info)
            longest = max(longest, _length(entry.name))
            if inner is None and stat.S_ISREG(entry.info.st_mode) and entry.info.st_size:
                inner = entry.path
    return Footprint(size=size, names=names, longest_name=longest, sample=place.path / inner if inner else None)


def _length(name: str) -> int:
    return len(os.fsencode(name))


def _allocated(info: os.stat_result) -> int:
    rounded = -(-info.st_size // _BLOCK) * _BLOCK
    if stat.S_ISREG(info.st_mode):
        # No blocks: one hole, or so few bytes that they are stored in the inode. More blocks than bytes: allocated in
        # advance, which a copy does not repeat.
        return min(rounded, info.st_blocks * _STAT_BLOCK)
    return info.st_blocks * _STAT_BLOCK if stat.S_ISDIR(info.st_mode) else 0
