"""The way round names that cannot be exchanged (mount points, overlay lower folders): write the content in place.

It is not atomic for a reader, but it is repeatable, and it runs only under a journal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from release_tasks.assets.files import entries_digest, place_file, place_link, scan_file, scan_tree
from release_tasks.assets.sqlite.database import set_journal_mode
from release_tasks.core.durable import fsync_directory, fsync_file, fsync_tree, remove_tree
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.records import AssetEntry, AssetRecord

__all__ = ["mirror"]

_MARK = ".release-tasks-mirror"


def mirror(record: AssetRecord, stored: Path, live: Path) -> None:
    """Make ``live`` equal to the stored asset without renaming ``live`` itself, and flush it.

    What is equal already is not written: it may lie on a disk that takes no writes, and be undone for another's sake.
    Raises StageFailed when ``live`` must not exist but cannot be removed, OSError when it cannot be written.
    """
    if _is_equal(record, live):
        fsync_tree(live)
    elif not record.exists:
        _empty(live)
    elif record.damaged:
        _put_remains_back(stored, live)
    elif record.kind == "directory":
        _mirror_folder(record, stored, live)
    else:
        _overwrite(stored, live, record)
    if live.parent.is_dir():
        fsync_directory(live.parent)


def _is_equal(record: AssetRecord, live: Path) -> bool:
    """Say whether a file or folder is as recorded; a database is not read raw, since somebody may have it open."""
    if not record.exists or record.kind == "sqlite" or record.damaged:
        return False
    try:
        if stat.S_IMODE(os.lstat(live).st_mode) != record.mode:
            return False
        digest = entries_digest(scan_tree(live)) if record.kind == "directory" else scan_file(live).sha256
        return digest == record.sha256
    except (OSError, StageFailed):
        return False


def _empty(live: Path) -> None:
    if not os.path.lexists(live):
        return
    if live.is_dir() and not live.is_symlink():
        for name in os.listdir(live):
            remove_tree(live / name)
        with contextlib.suppress(OSError):  # a mount point stays, empty
            live.rmdir()
        return
    try:
        live.unlink()
    except OSError as error:
        raise StageFailed(f"{live} should not exist and cannot be removed: {error.strerror}.") from error


def _overwrite(stored: Path, live: Path, record: AssetRecord) -> None:
    assert record.mode is not None
    _write_over(stored, live)
    os.chmod(live, record.mode)
    if record.kind == "sqlite":
        set_journal_mode(live, record.journal_mode)
    elif scan_file(live).sha256 != record.sha256:
        raise StageFailed(f"{live} does not hold what was written to it.")
    fsync_file(live)


def _put_remains_back(stored: Path, live: Path) -> None:
    """Write the remains of a damaged database, and of its side files, over what is there."""
    for remains in sorted(stored.iterdir()):
        target = live.with_name(remains.name)
        if not remains.is_file() or target.is_dir():
            raise StageFailed(f"{remains} cannot be put back in place of {target}.")
        if not os.path.lexists(target) or scan_file(target).sha256 != scan_file(remains).sha256:
            _write_over(remains, target)
        fsync_file(target)


def _write_over(stored: Path, live: Path) -> None:
    with with_path(live), stored.open("rb") as source, live.open("r+b" if live.exists() else "xb") as target:
        shutil.copyfileobj(source, target)
        target.truncate()


def _mirror_folder(record: AssetRecord, stored: Path, live: Path) -> None:
    entries = {entry.path: entry for entry in record.entries or []}
    _remove_others(live, entries)
    folders = [live]
    for path, entry in sorted(entries.items()):
        goal = live / path
        if entry.kind == "directory":
            if not goal.is_dir() or goal.is_symlink():
                remove_tree(goal)
                os.mkdir(goal, 0o700)
            folders.append(goal)
        else:
            _renew(entry, stored / path, goal)
    for folder in reversed(folders):
        inside = os.path.relpath(folder, live)
        mode = record.mode if inside == "." else entries[inside].mode
        assert mode is not None
        os.chmod(folder, mode)
        fsync_directory(folder)


def _remove_others(live: Path, wanted: dict[str, AssetEntry]) -> None:
    def give_up(error: OSError) -> None:
        raise error  # os.walk would leave out what it cannot list

    for folder, subfolders, files in os.walk(live, topdown=False, onerror=give_up):
        for name in subfolders + files:
            path = Path(folder, name)
            if os.path.relpath(path, live) not in wanted:
                remove_tree(path)


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
