"""The space that a copy of state takes on a disk: bytes in allocated blocks, and names."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from attrs import frozen

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


def footprint_of(path: Path) -> Footprint:
    """Return the space that a copy of ``path`` takes. What is missing or cannot be read counts as nothing.

    It is a lower limit, so that a copy that would succeed is never refused: holes take no space.
    """
    size, names, longest, sample = 0, 0, 0, None
    pending = [os.fspath(path)]
    while pending:
        found = pending.pop()
        try:
            info = os.lstat(found)
        except OSError:
            continue
        names += 1
        size += _allocated(info)
        longest = max(longest, len(os.fsencode(os.path.basename(found))))
        if stat.S_ISDIR(info.st_mode):
            with contextlib.suppress(OSError):
                pending += [os.path.join(found, name) for name in os.listdir(found)]
        elif sample is None and stat.S_ISREG(info.st_mode) and info.st_size:
            sample = Path(found)
    return Footprint(size=size, names=names, longest_name=longest, sample=sample)


def _allocated(info: os.stat_result) -> int:
    rounded = -(-info.st_size // _BLOCK) * _BLOCK
    if stat.S_ISREG(info.st_mode):
        # No blocks: one hole, or so few bytes that they are stored in the inode. More blocks than bytes: allocated in
        # advance, which a copy does not repeat.
        return min(rounded, info.st_blocks * _STAT_BLOCK)
    return info.st_blocks * _STAT_BLOCK if stat.S_ISDIR(info.st_mode) else 0
