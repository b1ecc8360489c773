"""Where a path leads: names that differ only by a link, a mount or the case of a letter are the same place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

__all__ = ["is_within", "lstat_or_none", "overlaps", "without_links"]

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
    return _steps(without_links(folder))[-1] in _steps(without_links(path))


def overlaps(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Return each pair of paths of which one is the other, or is below it, as indices; the larger index is first.

    No part of a path may be a link to follow.
    """
    ways = [_steps(path) for path in paths]
    return [
        (index, earlier)
        for index, steps in enumerate(ways)
        for earlier, other in enumerate(ways[:index])
        if steps[-1] in other or other[-1] in steps
    ]


def without_links(path: Path, *, follows_last: bool = True) -> Path:
    """Return the absolute path without links, ``..`` and /proc/self; the last name is kept unless ``follows_last``."""
    return Path(os.path.realpath(path)) if follows_last else Path(os.path.realpath(path.parent)) / path.name


def _steps(path: Path) -> list[_Location]:
    """Return the locations of the root folder, of each folder above ``path``, and of ``path``."""
    steps: list[_Location] = []
    for place in (*reversed(path.parents), path):
        if not steps or not steps[-1][1]:
            with contextlib.suppress(OSError):
                info = os.lstat(place)
                if stat.S_ISDIR(info.st_mode):
                    steps.append(((info.st_dev, info.st_ino), ()))
                    continue
        folder, names = steps[-1]
        steps.append((folder, (*names, place.name)))
    return steps
