"""A private copy of a live database, for the tasks that must not change the live state.

SQLite itself cannot read without writing: it plays a hot journal into the file and removes it, and it creates a missing
``-shm`` next to a WAL. On a copy of the file, the WAL and the journal it does so without a trace in the live folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from release_tasks.assets.sqlite.journal import settle_super_journal
from release_tasks.assets.sqlite.owners import require_unowned
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import with_path
from release_tasks.core.holes import data_ranges
from release_tasks.core.place import Place

__all__ = ["private_copy"]

Count = Callable[[int], None]
Stamp = tuple[int, int, int, int, int]

_SUFFIXES = ("", "-wal", "-journal")  # SQLite rebuilds the ``-shm`` from the WAL
_ATTEMPTS = 3
# Older kernels count file times in ticks of up to 10 ms: a second write in one tick does not change the time.
_TICK_SECONDS = 0.02
_STEP_BYTES = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the filesystem can


@contextlib.contextmanager
def private_copy(live: Place, scratch: Path, count: Count) -> Iterator[Path | None]:
    """Copy a live database and its journals to the new folder ``scratch``; remove the folder after the block.

    Yields the path of the copy, which SQLite may recover and write: it has the content that SQLite would read at the
    live path. Yields None when a writer changed the database during each of several attempts. ``count`` is called with
    the number of bytes of each read. Reads the files directly, and closing a file drops the locks that this process has
    on it: no connection of this process may have the database open. Raises StageFailed, OSError.
    """
    try:
        attempts = (_copy_once(live, scratch, count) for _ in range(_ATTEMPTS))
        yield scratch / live.name if any(attempts) else None
    finally:
        remove_tree(scratch)


def _copy_once(live: Place, scratch: Path, count: Count) -> bool:
    """Copy the files and return whether they were unchanged: then the copies are of one moment."""
    before = _stamps(live)
    time.sleep(_TICK_SECONDS)
    remove_tree(scratch)
    os.mkdir(scratch, 0o700)
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            _copy_file(live.sibling(live.name + suffix), scratch / f"{live.name}{suffix}", count)
    settle_super_journal(live, scratch / f"{live.name}-journal")
    return _stamps(live) == before


def _stamps(live: Place) -> list[Stamp | None]:
    infos = (live.sibling(live.name + suffix).look() for suffix in _SUFFIXES)
    return [i and (i.st_dev, i.st_ino, i.st_size, i.st_mtime_ns, i.st_ctime_ns) for i in infos]


def _copy_file(source: Place, target: Path, count: Count) -> None:
    """Copy a regular file up to its present size, without its holes: a file that grows has no end."""
    require_unowned(source.info())
    with contextlib.ExitStack() as files:
        reading = files.enter_context(source.opened())
        info = os.fstat(reading)
        with with_path(target):
            writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        files.callback(os.close, writing)
        with contextlib.suppress(OSError):
            fcntl.ioctl(writing, _FICLONE, reading)
            count(info.st_size)
            return
        for start, end in data_ranges(reading, info):
            os.lseek(reading, start, os.SEEK_SET)
            done = start
            while done < end:
                with with_path(source.path):
                    chunk = os.read(reading, min(end - done, _STEP_BYTES))
                if not chunk:
                    return
                count(len(chunk))
                view = memoryview(chunk)
                with with_path(target):
                    while view:
                        written = os.pwrite(writing, view, done)
                        view, done = view[written:], done + written
        with with_path(target):
            os.ftruncate(writing, info.st_size)
