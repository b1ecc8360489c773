"""Copies that wait beside their targets, complete and flushed, and the renames that give them the name."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from attrs import evolve

from release_tasks.core.durable import exchange, fsync_directory, remove_tree
from release_tasks.core.records import Inode, JournalStep

__all__ = [
    "discard_staged",
    "displaced_path",
    "inode_of",
    "leftovers",
    "rename_into_place",
    "staged_path",
    "with_current_devices",
]

_MARK = ".release-tasks-"
# What renameat2 answers where names cannot be exchanged: no such call, no such flag on this filesystem,
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# an overlay's lower folder or another filesystem, a mount point.
_NO_RENAME = (errno.EXDEV, errno.EBUSY)


def staged_path(target: Path, rollback_id: str) -> Path:
    """Return where the staged copy for ``target`` lies: in the same folder, so on the same filesystem."""
    return target.with_name(f".{target.name}{_MARK}{rollback_id}")


def displaced_path(staged: Path) -> Path:
    """Return the third name, for what has to leave the target before the staged copy takes it."""
    return staged.with_name(staged.name + ".before")


def inode_of(path: Path) -> Inode | None:
    """Return which file or folder the name stands for, links not followed, or None when there is none."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Inode(device=info.st_dev, number=info.st_ino)


def with_current_devices(step: JournalStep) -> JournalStep:
    """Return the step with the device numbers of today: a reboot may give a disk another one, and inodes stay.

    What lay on another device than its folder (a mount point, a layer of an overlay) keeps the number it had.
    """
    before, now = step.folder, inode_of(Path(step.path).parent)
    if before is None or now is None or now.number != before.number:
        return step

    def of_today(inode: Inode | None) -> Inode | None:
        return evolve(inode, device=now.device) if inode is not None and inode.device == before.device else inode

    return evolve(step, new=of_today(step.new), old=of_today(step.old), folder=now)


def rename_into_place(live: Path, staged: Path, wanted: Inode | None) -> bool:
    """Give the name ``live`` to the inode ``wanted``, or to none; False where no rename can do that.

    Reads inodes before it acts, because two exchanges would undo each other. Whatever held the name before lies
    at ``staged`` or beside it afterwards, until the journal is cleared.
    """
    spare = displaced_path(staged)
    if inode_of(live) == wanted:
        if live.parent.is_dir():
            fsync_directory(live.parent)  # a crash may have come between the rename and its flush
        return True
    try:
        if wanted is None:
            os.rename(live, staged if inode_of(staged) is None else spare)
        else:
            holder = next((place for place in (staged, spare) if inode_of(place) == wanted), None)
            if holder is None:
                return False  # the file was replaced since a crash: its content has to be written anew
            if inode_of(live) is None:
                os.rename(holder, live)
            else:
                _swap_names(live, holder)
    except OSError as error:
        if error.errno in _NO_RENAME:
            return False
        raise
    fsync_directory(live.parent)
    return True


def _swap_names(live: Path, holder: Path) -> None:
    try:
        exchange(live, holder)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        # Two renames: between them the name is missing, and the inode numbers tell recovery what is left to do.
        os.rename(live, displaced_path(holder))
        os.rename(holder, live)


def leftovers(target: Path) -> list[Path]:
    """Return what rollbacks that ended early left beside ``target``. Raises OSError."""
    prefix = f".{target.name}{_MARK}"
    try:
        is_folder = stat.S_ISDIR(os.stat(target.parent).st_mode)
    except OSError:
        return []
    names = os.listdir(target.parent) if is_folder else []
    return [target.parent / name for name in sorted(names) if name.startswith(prefix)]


def discard_staged(target: Path) -> list[Path]:
    """Remove every staged copy of ``target``; call it with the lock held and no journal present.

    Returns what was removed. What cannot be found or removed (a folder that vanished, an immutable file, a disk that
    went read-only) is left for another time: it harms nothing.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        for path in leftovers(target):
            with contextlib.suppress(OSError):
                remove_tree(path)
                removed.append(path)
    if removed:
        with contextlib.suppress(OSError):
            fsync_directory(target.parent)
    return removed
