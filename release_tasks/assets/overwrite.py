"""Overwrite state in place where names cannot be exchanged: mount points, the lower layer of an overlay.

This is not atomic for a reader, but it can be repeated, and it runs only while a journal exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from release_tasks.assets.files import keep_attributes, scan_file
from release_tasks.assets.stored import recorded_rights
from release_tasks.assets.trees import dfs_order, place_entry
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import fsync_file, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.holes import data_ranges, punch
from release_tasks.core.place import HALF_MADE, Place, Rights, drop_list, may_give, may_remove, trusted
from release_tasks.core.records import AssetEntry, AssetRecord
from release_tasks.core.tree import Tree

__all__ = ["overwrite_file", "overwrite_tree", "remove_live", "restore_raw_copy"]

_MARK = ".release-tasks-mirror-"
_STEP_BYTES = 1 << 20
_RAW_MODE = 0o600


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
                _remove_entry(name, tree.fd, name, live)
        with contextlib.suppress(OSError):
            live.remove()
        return
    try:
        live.unlink()
    except OSError as error:
        raise StageFailed(f"{live.path} should not exist and cannot be removed: {error.strerror}.") from error


def restore_raw_copy(record: AssetRecord, stored: Path, live: Place) -> None:
    """Overwrite a database and its side files with the raw copy of a damaged database."""
    digests = {entry.path: entry.sha256 for entry in record.entries or []}
    for path in sorted(stored.iterdir()):
        copy, target = trusted(path), live.sibling(path.name)
        if not stat.S_ISREG(copy.info().st_mode) or target.is_folder():
            raise StageFailed(f"{path} cannot be restored to {target.path}.")
        digest = digests.get(path.name)
        if not target.exists() or scan_file(target).sha256 != digest:
            with overwrite_file(path, target, _RAW_MODE, digest):
                pass
        target.flush_file()


@contextlib.contextmanager
def overwrite_file(
    stored: Path, live: Place, mode: int, sha256: str | None, write: Callable[[BinaryIO], str] | None = None
) -> Iterator[int]:
    """Write the bytes of a stored file to ``live``, and yield its descriptor, to give it the ``mode`` of its record.

    The file keeps its inode, and holes stay holes where the disk can have them. What may not be overwritten so is
    removed first: another type, and a file that can be one of another user. Raises StageFailed, also when the bytes
    that were written have another digest than ``sha256``; OSError. ``write`` writes the bytes where they are not those
    of the stored file, and returns their SHA-256.
    """
    info, rights = live.look(), recorded_rights(stored, mode)
    if info is not None and not (stat.S_ISREG(info.st_mode) and live.is_own_file(info, rights)):
        live.remove()
        info = None
    fd = live.open(os.O_RDWR | (os.O_CREAT | os.O_EXCL if info is None else 0))
    with os.fdopen(fd, "r+b") as target:
        if info is None:
            live.drop_inherited_list(fd)
        with with_path(live.path):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StageFailed(f"{live.path} is not a regular file.")
            if info is not None and not live.is_own_file(os.fstat(fd), rights):
                raise StageFailed(f"{live.path} was exchanged by another process before it was written. Try again.")
            digest = _write_stored(stored, target) if write is None else write(target)
            target.truncate()
        if digest != sha256:
            raise StageFailed(f"{stored} changed after it was verified, and {live.path} was overwritten with it.")
        yield fd


def _write_stored(stored: Path, target: BinaryIO) -> str:
    """Write the bytes of a stored file, leave the position at their end, and return their SHA-256."""
    digest = hashlib.sha256()
    with stored.open("rb") as source:
        size = end = 0
        for start, end in data_ranges(source.fileno(), os.fstat(source.fileno())):
            _write_zeros(target, size, start, digest)
            source.seek(start)
            while (size := source.tell()) < end:
                chunk = source.read(min(_STEP_BYTES, end - size))
                if not chunk:
                    raise StageFailed(f"{stored} was cut while it was read.")
                target.write(chunk)
                digest.update(chunk)
            size = end
        _write_zeros(target, size, os.fstat(source.fileno()).st_size, digest)
    return digest.hexdigest()


def _write_zeros(target: BinaryIO, start: int, end: int, digest: hashlib._Hash) -> None:
    """Fill a range with zeros, and leave the position at its end."""
    target.flush()
    is_hole = start < end and punch(target.fileno(), start, end - start)
    for offset in range(start, end, _STEP_BYTES):
        zeros = bytes(min(_STEP_BYTES, end - offset))
        digest.update(zeros)
        if not is_hole:
            target.write(zeros)
    target.seek(end)


def overwrite_tree(record: AssetRecord, stored: Path, live: Place) -> None:
    """Make ``live`` equal to a stored folder, entry by entry, and flush it.

    If ``live`` is not a folder, it is removed first.
    """
    assert record.mode is not None
    if not live.is_folder():
        live.remove()
        live.new_tree(HALF_MADE).close()
    entries = sorted(record.entries or [], key=dfs_order)
    _remove_others(live, {entry.path for entry in entries})
    folders = [("", record.mode)]
    with Tree(stored) as source, live.tree(force=True) as target:
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            source.go(folder)
            target.go(folder, force=True)
            if entry.kind == "directory":
                _make_folder(entry, source, target, live)
                folders.append((entry.path, entry.mode))
            else:
                _replace_entry(entry, name, source, target, live)
        for path, mode in reversed(folders):
            source.go(path)
            target.go(path, force=True)
            own, info = os.fstat(target.fd), os.fstat(source.fd)
            if not _may_give(own, info, mode, target.fd, None if path else live):
                raise StageFailed(
                    f"{target.location} was exchanged by another process while it was restored. Try again."
                )
            keep_attributes(target.fd, info, mode, target.location)
            with with_path(target.location):
                os.fsync(target.fd)


def _may_give(own: os.stat_result, info: os.stat_result, mode: int, fd: int, live: Place | None) -> bool:
    """Return whether an existing folder may get the owner in ``info`` and ``mode``; ``live`` is set for the asset."""
    rights = Rights(info.st_uid, info.st_gid, mode)
    if live is None:
        return may_give(own, os.stat("..", dir_fd=fd), rights)
    # A folder that another disk is mounted on cannot be moved.
    return own.st_dev != live.folder_info().st_dev or live.is_own_folder(own, rights)


def _remove_others(live: Place, paths: set[str]) -> None:
    for entry in live.walk(force=True):
        if not entry.path or entry.is_end:
            continue
        if entry.path not in paths:
            _remove_entry(entry.name, entry.folder, entry.path, live)
            entry.is_skipped = True
        elif stat.S_ISDIR(entry.info.st_mode) and not may_remove(entry.info, os.fstat(entry.folder)):
            live.require_removed([""], entry.path)  # its files are not removed either


def _remove_entry(name: str, folder: int, path: str, live: Place) -> None:
    """Remove ``name`` in the open ``folder``; ``path`` is its path below ``live``. Raises StageFailed, OSError."""
    outer = os.fstat(folder)
    with with_path(live.path / path):
        kept = remove_tree(Path(name), folder, lambda inner, around: may_remove(inner, around or outer))
    live.require_removed(kept, path)


def _make_folder(entry: AssetEntry, source: Tree, target: Tree, live: Place) -> None:
    """Make a folder where there is none that may get the rights of ``entry``. Raises StageFailed, OSError."""
    name = entry.path.rpartition("/")[2]
    with with_path(target.shown(name)):
        with contextlib.suppress(FileNotFoundError):
            own = os.stat(name, dir_fd=target.fd, follow_symlinks=False)
            info = os.stat(name, dir_fd=source.fd, follow_symlinks=False)
            rights = Rights(info.st_uid, info.st_gid, entry.mode)
            if stat.S_ISDIR(own.st_mode) and may_give(own, os.fstat(target.fd), rights):
                return
        _remove_entry(name, target.fd, entry.path, live)
        os.mkdir(name, HALF_MADE, dir_fd=target.fd)
        if _is_foreign(target):
            with Tree(Path(name), target.fd) as made:
                drop_list(made.fd)


def _is_foreign(target: Tree) -> bool:
    """Return whether this is a run as root, and another user can exchange names in the folder."""
    if os.geteuid() != 0 or not hasattr(os, "O_PATH"):
        return False
    info = os.fstat(target.fd)
    return info.st_uid != 0 or bool(info.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _replace_entry(entry: AssetEntry, name: str, source: Tree, target: Tree, live: Place) -> None:
    temporary = f"{_MARK}{sha256_bytes(os.fsencode(name))[:16]}"
    _remove_entry(temporary, target.fd, target.below(temporary), live)
    place_entry(entry, temporary, source, target, is_foreign=_is_foreign(target))
    with with_path(target.shown(name)):
        if entry.kind == "file":
            fsync_file(Path(temporary), target.fd)
        if stat.S_ISDIR(_mode(name, target)):
            _remove_entry(name, target.fd, entry.path, live)
        os.rename(temporary, name, src_dir_fd=target.fd, dst_dir_fd=target.fd)


def _mode(name: str, target: Tree) -> int:
    try:
        return os.stat(name, dir_fd=target.fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
