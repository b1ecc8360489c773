"""Which copy of SQLite has a live database open.

POSIX locks belong to a process: another copy of SQLite in it, or any descriptor of the file that is closed, drops them,
and other processes could write then (https://sqlite.org/howtocorrupt.html, 2.2). So one copy owns an open database.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from release_tasks.core.errors import StageFailed

__all__ = ["owned", "require_unowned"]

_owners: dict[tuple[int, int], tuple[str, int]] = {}  # the name of the copy, and the number of its connections
_lock = threading.Lock()


@contextlib.contextmanager
def owned(info: os.stat_result, name: str) -> Iterator[None]:
    """Let the copy of SQLite called ``name`` own the file of ``info`` while the block runs; connections are counted.

    Raises StageFailed when another copy owns it.
    """
    inode = info.st_dev, info.st_ino
    with _lock:
        owner, count = _owners.get(inode, (name, 0))
        if owner != name:
            raise StageFailed(f"A database is open through {owner}, and {name} would drop its locks.")
        _owners[inode] = name, count + 1
    try:
        yield
    finally:
        with _lock:
            owner, count = _owners[inode]
            if count > 1:
                _owners[inode] = owner, count - 1
            else:
                del _owners[inode]


def require_unowned(info: os.stat_result) -> None:
    """Raise StageFailed when a copy of SQLite has the file of ``info`` open: to close it would drop the locks."""
    with _lock:
        owner = _owners.get((info.st_dev, info.st_ino))
    if owner is not None:
        raise StageFailed(f"A database is open through {owner[0]}; its file must not be opened in another way.")
