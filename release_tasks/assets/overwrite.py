"""Overwrite state in place where names cannot be exchanged: mount points, the lower layer of an overlay.

This is not atomic for a reader, but it can be repeated, and it runs only while a journal exists.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from release_tasks.assets.files import place_file, place_link, scan_file
from release_tasks.core.durable import fsync_directory, fsync_file, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.records import AssetEntry, AssetRecord

__all__ = ["overwrite_file", "overwrite_tree", "remove_live", "restore_raw_copy"]

_MARK = ".release-tasks-mirror"


def remove_live(live: Path) -> None:
    """Remove state that must not exist; a mount point stays as an empty folder.

    Raises StageFailed when ``live`` cannot be removed.
    """
    if not os.path.lexists(live):
        return
    if live.is_dir() and not live.is_symlink():
        for name in os.listdir(live):
            remove_tree(live / name)
        with contextlib.suppress(OSError):
            live.rmdir()
        return
    try:
        live.unlink()
    except OSError as error:
        raise StageFailed(f"{live} should not exist and cannot be removed: {error.strerror}.") from error


def restore_raw_copy(stored: Path, live: Path) -> None:
    """Overwrite a database and its side files with the raw copy of a damaged database."""
    for copy in sorted(stored.iterdir()):
        target = live.with_name(copy.name)
        if not copy.is_file() or target.is_dir():
            raise StageFailed(f"{copy} cannot be restored to {target}.")
        if not os.path.lexists(target) or scan_file(target).sha256 != scan_file(copy).sha256:
            overwrite_file(copy, target)
        fsync_file(target)


def overwrite_file(stored: Path, live: Path) -> None:
    """Write the bytes of a stored file to ``live`` and keep its inode.

    If ``live`` is not a regular file, it is removed first.
    """
    if os.path.lexists(live) and not stat.S_ISREG(os.lstat(live).st_mode):
        remove_tree(live)
    with with_path(live), stored.open("rb") as source, live.open("r+b" if live.exists() else "xb") as target:
        shutil.copyfileobj(source, target)
        target.truncate()


def overwrite_tree(record: AssetRecord, stored: Path, live: Path) -> None:
    """Make ``live`` equal to a stored folder, entry by entry, and flush it.

    If ``live`` is not a folder, it is removed first.
    """
    if not os.path.lexists(live) or not stat.S_ISDIR(os.lstat(live).st_mode):
        remove_tree(live)
        os.mkdir(live, 0o700)
    entries = {entry.path: entry for entry in record.entries or []}

    def raise_error(error: OSError) -> None:
        raise error  # by default, os.walk ignores a folder that it cannot list

    for folder, subfolders, files in os.walk(live, topdown=False, onerror=raise_error):
        for name in subfolders + files:
            if os.path.relpath(os.path.join(folder, name), live) not in entries:
                remove_tree(Path(folder, name))
    folders = [(live, record.mode)]
    for path, entry in sorted(entries.items()):
        target = live / path
        if entry.kind == "directory":
            if not target.is_dir() or target.is_symlink():
                remove_tree(target)
                os.mkdir(target, 0o700)
            folders.append((target, entry.mode))
        else:
            _replace_entry(entry, stored / path, target)
    for target, mode in reversed(folders):
        assert mode is not None
        os.chmod(target, mode)
        fsync_directory(target)


def _replace_entry(entry: AssetEntry, stored: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}{_MARK}")
    remove_tree(temporary)
    if entry.kind == "symlink":
        assert entry.target is not None
        place_link(entry.target, temporary)
    else:
        if place_file(stored, temporary, entry.mode) != entry.sha256:
            raise StageFailed(f"{stored} changed while it was restored.")
        fsync_file(temporary)
    if os.path.lexists(target) and stat.S_ISDIR(os.lstat(target).st_mode):
        remove_tree(target)
    os.rename(temporary, target)
