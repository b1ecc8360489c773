"""Write content in place where names cannot be exchanged: mount points, the lower layer of an overlay.

It is not atomic for a reader, but it is repeatable, and it runs only under a journal.
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
    """Remove what must not exist; a mount point stays, empty. Raises StageFailed when it cannot be removed."""
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
    """Write the raw_paths of a damaged database, and of its side files, over what is there."""
    for raw_paths in sorted(stored.iterdir()):
        target = live.with_name(raw_paths.name)
        if not raw_paths.is_file() or target.is_dir():
            raise StageFailed(f"{raw_paths} cannot be put back in place of {target}.")
        if not os.path.lexists(target) or scan_file(target).sha256 != scan_file(raw_paths).sha256:
            overwrite_file(raw_paths, target)
        fsync_file(target)


def overwrite_file(stored: Path, live: Path) -> None:
    """Write the bytes of a stored file into ``live``, which keeps its inode; what is no file there is removed first."""
    if os.path.lexists(live) and not stat.S_ISREG(os.lstat(live).st_mode):
        remove_tree(live)
    with with_path(live), stored.open("rb") as source, live.open("r+b" if live.exists() else "xb") as target:
        shutil.copyfileobj(source, target)
        target.truncate()


def overwrite_tree(record: AssetRecord, stored: Path, live: Path) -> None:
    """Make a folder equal to a stored one, entry by entry, and flush it; what is no folder there is removed first."""
    if not os.path.lexists(live) or not stat.S_ISDIR(os.lstat(live).st_mode):
        remove_tree(live)
        os.mkdir(live, 0o700)
    entries = {entry.path: entry for entry in record.entries or []}

    def give_up(error: OSError) -> None:
        raise error  # os.walk would leave out what it cannot list

    for folder, subfolders, files in os.walk(live, topdown=False, onerror=give_up):
        for name in subfolders + files:
            if os.path.relpath(os.path.join(folder, name), live) not in entries:
                remove_tree(Path(folder, name))
    folders = [(live, record.mode)]
    for path, entry in sorted(entries.items()):
        goal = live / path
        if entry.kind == "directory":
            if not goal.is_dir() or goal.is_symlink():
                remove_tree(goal)
                os.mkdir(goal, 0o700)
            folders.append((goal, entry.mode))
        else:
            _renew(entry, stored / path, goal)
    for goal, mode in reversed(folders):
        assert mode is not None
        os.chmod(goal, mode)
        fsync_directory(goal)


def _renew(entry: AssetEntry, stored: Path, goal: Path) -> None:
    temporary = goal.with_name(f".{goal.name}{_MARK}")
    remove_tree(temporary)
    if entry.kind == "symlink":
        assert entry.target is not None
        place_link(entry.target, temporary)
    else:
        if place_file(stored, temporary, entry.mode) != entry.sha256:
            raise StageFailed(f"{stored} changed while it was being restored.")
        fsync_file(temporary)
    if os.path.lexists(goal) and stat.S_ISDIR(os.lstat(goal).st_mode):
        remove_tree(goal)
    os.rename(temporary, goal)
