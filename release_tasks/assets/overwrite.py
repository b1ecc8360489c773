"""Overwrite state in place where names cannot be exchanged: mount points, the lower layer of an overlay.

This is not atomic for a reader, but it can be repeated, and it runs only while a journal exists.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from release_tasks.assets.files import keep_attributes, scan_file
from release_tasks.assets.trees import dfs_order, place_entry
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import fsync_file, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.holes import data_ranges, punch
from release_tasks.core.place import Place, trusted
from release_tasks.core.records import AssetEntry, AssetRecord
from release_tasks.core.tree import Tree

__all__ = ["overwrite_file", "overwrite_tree", "remove_live", "restore_raw_copy"]

_MARK = ".release-tasks-mirror-"
_STEP_BYTES = 1 << 20


def remove_live(live: Place) -> None:
    """Remove state that must not exist; a mount point stays as an empty folder.

    Raises StageFailed when ``live`` cannot be removed.
    """
    if not live.exists():
        return
    if live.is_folder():
        with live.tree(force=True) as tree:
            with with_path(tree.location):
                names = os.listdir(tree.fd)
            for name in names:
                with with_path(tree.shown(name)):
                    remove_tree(Path(name), tree.fd)
        with contextlib.suppress(OSError):
            live.remove()
        return
    try:
        live.unlink()
    except OSError as error:
        raise StageFailed(f"{live.path} should not exist and cannot be removed: {error.strerror}.") from error


def restore_raw_copy(stored: Path, live: Place) -> None:
    """Overwrite a database and its side files with the raw copy of a damaged database."""
    for path in sorted(stored.iterdir()):
        copy, target = trusted(path), live.sibling(path.name)
        if not stat.S_ISREG(copy.info().st_mode) or target.is_folder():
            raise StageFailed(f"{path} cannot be restored to {target.path}.")
        if not target.exists() or scan_file(target).sha256 != scan_file(copy).sha256:
            overwrite_file(path, target)
        target.flush_file()


def overwrite_file(stored: Path, live: Place) -> None:
    """Write the bytes of a stored file to ``live`` and keep its inode; holes stay holes where the disk can have them.

    If ``live`` is not a regular file, it is removed first. Raises StageFailed when the file may be that of another
    user, OSError.
    """
    info = live.look()
    if info is not None and not stat.S_ISREG(info.st_mode):
        live.remove()
        info = None
    fd = live.open(os.O_RDWR | (os.O_CREAT | os.O_EXCL if info is None else 0))
    with with_path(live.path), stored.open("rb") as source, os.fdopen(fd, "r+b") as target:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StageFailed(f"{live.path} is not a regular file.")
        live.require_writable(fd)
        size = end = 0
        for start, end in data_ranges(source.fileno(), os.fstat(source.fileno())):
            _write_zeros(target, size, start)
            source.seek(start)
            while (size := source.tell()) < end:
                target.write(source.read(min(_STEP_BYTES, end - size)))
            size = end
        _write_zeros(target, size, os.fstat(source.fileno()).st_size)
        target.truncate()


def _write_zeros(target: BinaryIO, start: int, end: int) -> None:
    """Fill a range with zeros, and leave the position at its end."""
    target.flush()
    if start < end and not punch(target.fileno(), start, end - start):
        for offset in range(start, end, _STEP_BYTES):
            target.write(bytes(min(_STEP_BYTES, end - offset)))
    target.seek(end)


def overwrite_tree(record: AssetRecord, stored: Path, live: Place) -> None:
    """Make ``live`` equal to a stored folder, entry by entry, and flush it.

    If ``live`` is not a folder, it is removed first.
    """
    assert record.mode is not None
    if not live.is_folder():
        live.remove()
        live.make_folder()
    entries = sorted(record.entries or [], key=dfs_order)
    _remove_others(live, {entry.path for entry in entries})
    folders = [("", record.mode)]
    with Tree(stored) as source, live.tree(force=True) as target:
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            source.go(folder)
            target.go(folder, force=True)
            if entry.kind == "directory":
                _make_folder(name, target)
                folders.append((entry.path, entry.mode))
            else:
                _replace_entry(entry, name, source, target)
        for path, mode in reversed(folders):
            source.go(path)
            target.go(path, force=True)
            keep_attributes(target.fd, os.fstat(source.fd), mode, target.location)
            with with_path(target.location):
                os.fsync(target.fd)


def _remove_others(live: Place, paths: set[str]) -> None:
    for entry in live.walk(force=True):
        if entry.path and entry.path not in paths and not entry.is_end:
            with with_path(f"{live.path}/{entry.path}"):
                remove_tree(Path(entry.name), entry.folder)
            entry.is_skipped = True


def _make_folder(name: str, target: Tree) -> None:
    with with_path(target.shown(name)):
        if not stat.S_ISDIR(_mode(name, target)):
            remove_tree(Path(name), target.fd)
            os.mkdir(name, 0o700, dir_fd=target.fd)


def _replace_entry(entry: AssetEntry, name: str, source: Tree, target: Tree) -> None:
    temporary = f"{_MARK}{sha256_bytes(os.fsencode(name))[:16]}"
    remove_tree(Path(temporary), target.fd)
    place_entry(entry, temporary, source, target)
    with with_path(target.shown(name)):
        if entry.kind == "file":
            fsync_file(Path(temporary), target.fd)
        if stat.S_ISDIR(_mode(name, target)):
            remove_tree(Path(name), target.fd)
        os.rename(temporary, name, src_dir_fd=target.fd, dst_dir_fd=target.fd)


def _mode(name: str, target: Tree) -> int:
    try:
        return os.stat(name, dir_fd=target.fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
