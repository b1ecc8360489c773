"""Staged copies next to their targets, and the renames that put them in place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from attrs import evolve

from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import exchange, fsync_directory, remove_tree
from release_tasks.core.location import lstat_or_none
from release_tasks.core.records import Inode, JournalStep

__all__ = [
    "discard_staged",
    "displaced_path",
    "inode_of",
    "leftovers",
    "name_limit",
    "rename_into_place",
    "staged_path",
    "suffixed",
    "with_current_devices",
]

_MARK = ".release-tasks-"
_NAME_MAX = 255  # bytes, on most filesystems
_DIGEST_DIGITS = 16
# Errors of renameat2. No exchange possible: the system or the filesystem does not support it.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# No rename possible: an overlay's lower folder, another filesystem, or a mount point.
_NO_RENAME = (errno.EXDEV, errno.EBUSY)
# The service has removed or made the live name between the look at it and the rename.
_CHANGED = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)
_ATTEMPTS = 20


def staged_path(target: Path, rollback_id: str) -> Path:
    """Return the path of the staged copy for ``target``: in the same folder, and so on the same filesystem.

    Where the disk has no such long names, a digest stands for the name of the target.
    """
    long = target.with_name(f".{target.name}{_MARK}{rollback_id}")
    return long if _fits(long) else target.with_name(f"{_MARK}{_short(target.name)}-{rollback_id}")


def displaced_path(staged: Path) -> Path:
    """Return the path for the old state when an exchange is not possible and the old state must be renamed first."""
    return suffixed(staged, ".before")


def suffixed(path: Path, suffix: str) -> Path:
    """Return the path with ``suffix`` added to its name, or to a digest of its name where the disk has no long names.

    For files of this package only: other programs do not know the digest.
    """
    long = path.with_name(path.name + suffix)
    if _fits(long):
        return long
    # The digest follows the name's mark, so that ``leftovers`` finds this file, too.
    mark, _, _ = path.name.partition(_MARK)
    prefix = f"{_MARK}{_short(mark.removeprefix('.'))}-" if mark else path.name
    return path.with_name(f"{prefix}{_short(path.name)}{suffix}")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path.name)) <= name_limit(path.parent)


def name_limit(folder: Path) -> int:
    """Return the bytes that a name in ``folder`` may have, at most 255; 255 for a folder that does not exist."""
    with contextlib.suppress(OSError):
        return min(os.pathconf(folder, "PC_NAME_MAX"), _NAME_MAX)
    return _NAME_MAX


def _short(name: str) -> str:
    return sha256_bytes(os.fsencode(name))[:_DIGEST_DIGITS]


def inode_of(path: Path) -> Inode | None:
    """Return the inode at ``path`` without following links, or None when ``path`` does not exist."""
    info = lstat_or_none(path)
    return None if info is None else Inode(device=info.st_dev, number=info.st_ino)


def with_current_devices(step: JournalStep) -> JournalStep:
    """Return the step with the current device numbers: a reboot can change device numbers, but not inode numbers.

    An inode on another device than ``folder`` (a mount point, a layer of an overlay) stays the same.
    """
    before, now = step.folder, inode_of(Path(step.path).parent)
    if before is None or now is None or now.number != before.number:
        return step

    def current(inode: Inode | None) -> Inode | None:
        return evolve(inode, device=now.device) if inode is not None and inode.device == before.device else inode

    return evolve(step, new=current(step.new), old=current(step.old), folder=now)


def rename_into_place(live: Path, staged: Path, target: Inode | None) -> bool:
    """Rename the file or folder with the inode ``target`` to ``live``; for None, rename ``live`` to another name.

    Returns False when no rename can do that. Compares inodes first, because two exchanges would undo each other. The
    old state stays at ``staged`` or at its ``displaced_path`` until the journal is removed.
    """
    if inode_of(live) == target:
        if live.parent.is_dir():
            fsync_directory(live.parent)  # a crash may have happened between the rename and its flush
        return True
    for attempt in reversed(range(_ATTEMPTS)):
        try:
            if not _rename(live, staged, target):
                return False
            break
        except OSError as error:
            if error.errno in _NO_RENAME:
                return False
            if error.errno not in _CHANGED or attempt == 0:
                raise
    fsync_directory(live.parent)
    return True


def _rename(live: Path, staged: Path, target: Inode | None) -> bool:
    displaced = displaced_path(staged)
    if target is None:
        os.rename(live, staged if inode_of(staged) is None else displaced)
        return True
    source = next((path for path in (staged, displaced) if inode_of(path) == target), None)
    if source is None:
        return False  # neither path has the target inode (replaced after a crash)
    if inode_of(live) is None:
        os.rename(source, live)
    else:
        _swap_names(live, source)
    return True


def _swap_names(live: Path, source: Path) -> None:
    try:
        exchange(live, source)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        # Two renames: the live name is missing between them. After a crash, recovery compares the inode numbers.
        os.rename(live, displaced_path(source))
        os.rename(source, live)


def leftovers(target: Path) -> list[Path]:
    """Return the files and folders that interrupted rollbacks left next to ``target``. Raises OSError."""
    prefixes = (f".{target.name}{_MARK}", f"{_MARK}{_short(target.name)}-")
    try:
        is_folder = stat.S_ISDIR(os.stat(target.parent).st_mode)
    except OSError:
        return []
    names = os.listdir(target.parent) if is_folder else []
    return [target.parent / name for name in sorted(names) if name.startswith(prefixes)]


def discard_staged(target: Path) -> list[Path]:
    """Remove every staged copy of ``target`` and return the removed paths.

    The caller must hold the lock, and no journal may exist. A copy that cannot be found or removed (missing folder,
    immutable file, read-only disk) stays for a later call; it does no harm.
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
