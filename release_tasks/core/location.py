"""Where a path leads: names that differ only by a link, a mount or the case of a letter are the same place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_within", "lstat_or_none", "overlap", "without_links"]

# The deepest folder that exists, by device and inode, and the names below it. The inode of a folder is the same under
# every name: through a link, a bind mount, or in other letters on a disk that ignores case.
_Location = tuple[tuple[int, int], tuple[str, ...]]


# Errors of a path that names nothing: it, or a folder above it, is missing, is a file, or is a loop of links.
_NAMES_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def lstat_or_none(path: Path) -> os.stat_result | None:
    """Return the result of lstat, or None when ``path`` names nothing. Raises OSError, for instance for EACCES."""
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno in _NAMES_NOTHING:
            return None
        raise


def is_within(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is ``folder`` or is below it. Neither needs to exist. Links in both are followed."""
    return _location(without_links(folder)) in _trail(without_links(path))


def overlap(path: Path, other: Path) -> bool:
    """Return whether one of two paths is the other, or is below it; no part of either may be a link to follow."""
    return _location(path) in _trail(other) or _location(other) in _trail(path)


def without_links(path: Path, *, follows_last: bool = True) -> Path:
    """Return the absolute path without links, ``..`` and /proc/self; the last name is kept unless ``follows_last``."""
    return Path(os.path.realpath(path)) if follows_last else Path(os.path.realpath(path.parent)) / path.name


def _trail(path: Path) -> Iterator[_Location]:
    return map(_location, (path, *path.parents))


def _location(path: Path) -> _Location:
    rest: list[str] = []
    for folder in (path, *path.parents):
        try:
            info = os.lstat(folder)
        except OSError:
            info = None
        if info is not None and stat.S_ISDIR(info.st_mode):
            return (info.st_dev, info.st_ino), tuple(reversed(rest))
        rest.append(folder.name)
    raise AssertionError("the root folder exists")
