"""Staged copies next to their targets, and the renames that put them in place."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Collection
from pathlib import Path

from attrs import evolve

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Noted, ignore
from release_tasks.core.place import Place, find, may_remove
from release_tasks.core.records import Inode, JournalStep

__all__ = [
    "discard_staged",
    "displaced",
    "fits",
    "inode_at",
    "inode_of",
    "leftovers",
    "rename_into_place",
    "staged",
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


def staged(live: Place, rollback_id: str) -> Place:
    """Return the place of the staged copy for ``live``: in the same folder, and so on the same filesystem.

    Where the disk has no such long names, a digest stands for the name of the live state.
    """
    name = f".{live.name}{_MARK}{rollback_id}"
    return live.sibling(name if fits(name, live) else f"{_MARK}{_short(live.name)}-{rollback_id}")


def displaced(copy: Place) -> Place:
    """Return the place for the old state when an exchange is not possible and the old state must be renamed first."""
    return suffixed(copy, ".before")


def suffixed(place: Place, suffix: str) -> Place:
    """Return the place with ``suffix`` added to its name, or to a digest of its name where the disk has no long names.

    For files of this package only: other programs do not know the digest.
    """
    if fits(place.name + suffix, place):
        return place.sibling(place.name + suffix)
    # The digest follows the name's mark, so that ``leftovers`` finds this file, too.
    mark, _, _ = place.name.partition(_MARK)
    prefix = f"{_MARK}{_short(mark.removeprefix('.'))}-" if mark else place.name
    return place.sibling(f"{prefix}{_short(place.name)}{suffix}")


def fits(name: str, place: Place) -> bool:
    """Return whether the folder of ``place`` can have a file of this name."""
    limit = _NAME_MAX
    with contextlib.suppress(OSError):
        limit = min(place.name_limit(), _NAME_MAX)
    return len(os.fsencode(name)) <= limit


def _short(name: str) -> str:
    return sha256_bytes(os.fsencode(name))[:_DIGEST_DIGITS]


def inode_of(place: Place) -> Inode | None:
    """Return the inode at ``place`` without following a link, or None when there is nothing."""
    info = place.look()
    return None if info is None else Inode(device=info.st_dev, number=info.st_ino)


def inode_at(path: Path) -> Inode | None:
    """Return the same for a path that is looked up now. Raises StageFailed, OSError."""
    with find(path) as place:
        return None if place is None else inode_of(place)


def with_current_devices(step: JournalStep) -> JournalStep:
    """Return the step with the current device numbers: a reboot can change device numbers, but not inode numbers.

    An inode on another device than ``folder`` (a mount point, a layer of an overlay) stays the same.
    """
    before, now = step.folder, inode_at(Path(step.path).parent)
    if before is None or now is None or now.number != before.number:
        return step

    def current(inode: Inode | None) -> Inode | None:
        return evolve(inode, device=now.device) if inode is not None and inode.device == before.device else inode

    return evolve(step, new=current(step.new), old=current(step.old), folder=now)


def rename_into_place(live: Place, rollback_id: str, target: Inode | None) -> bool:
    """Rename the file or folder with the inode ``target`` to ``live``; for None, rename ``live`` to another name.

    Returns False when no rename can do that. Compares inodes first, because two exchanges would undo each other. The
    old state stays at the ``staged`` or at the ``displaced`` place until the journal is removed.
    """
    if inode_of(live) == target:
        live.flush_folder()  # a crash may have happened between the rename and its flush
        return True
    for attempt in reversed(range(_ATTEMPTS)):
        try:
            if not _rename(live, staged(live, rollback_id), target):
                return False
            break
        except OSError as error:
            if error.errno in _NO_RENAME:
                return False
            if error.errno not in _CHANGED or attempt == 0:
                raise
    live.flush_folder()
    return True


def _rename(live: Place, copy: Place, target: Inode | None) -> bool:
    before = displaced(copy)
    if target is None:
        live.rename(copy if inode_of(copy) is None else before)
        return True
    source = next((place for place in (copy, before) if inode_of(place) == target), None)
    if source is None:
        return False  # neither place has the target inode (replaced after a crash)
    if inode_of(live) is None:
        source.rename(live)
    else:
        _swap(live, source)
    return True


def _swap(live: Place, source: Place) -> None:
    try:
        live.exchange(source)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        # Two renames: the live name is missing between them. After a crash, recovery compares the inode numbers.
        live.rename(displaced(source))
        source.rename(live)


def leftovers(target: Path, rollback_ids: Collection[str]) -> list[Path]:
    """Return the files and folders that these rollbacks left next to ``target``. Raises StageFailed, OSError.

    Files with other ids are not ours: who may write the folder can make any name. For the same reason, a folder that
    ``discard_staged`` would not remove is left out.
    """
    with find(target) as live:
        if live is None:
            return []
        left = [(place, place.look()) for place in _left(live, rollback_ids)]
        return [place.path for place, info in left if info is not None and _is_ours(live, info, ())]


def _left(live: Place, rollback_ids: Collection[str]) -> list[Place]:
    starts = tuple(start for rollback_id in rollback_ids for start in _starts(live.name, rollback_id))
    return [live.sibling(name) for name in (live.names() if starts else []) if name.startswith(starts)]


def _starts(name: str, rollback_id: str) -> tuple[str, ...]:
    """Return how the names begin of a staged copy and of what ``suffixed`` makes of it."""
    long = f".{name}{_MARK}{rollback_id}"
    digest = f"{_MARK}{_short(name)}-"
    return long, f"{digest}{rollback_id}", f"{digest}{_short(long)}"


def discard_staged(
    target: Path, rollback_ids: Collection[str], own: Collection[Inode | None] = (), emit: Emit = ignore
) -> list[Path]:
    """Remove every staged copy of ``target`` by these rollbacks and return the removed paths.

    The caller must hold the lock, and no journal may exist. A copy that cannot be found or removed (missing folder,
    immutable file, read-only disk) stays for a later call; it does no harm. ``own`` has the inodes of the old and new
    states. As root, a folder that another user may have moved here stays, and is named.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError, StageFailed), find(target) as live:
        if live is None:
            return removed
        for place in _left(live, rollback_ids):
            with contextlib.suppress(OSError):
                kept = place.remove_movable(functools.partial(_may_remove, live, own))
                if not kept:
                    removed.append(place.path)
                for path in kept[:1]:
                    shown = excerpt_line(os.path.normpath(place.path / path))
                    emit(Noted(f"{shown} was not removed: another user may have moved this folder there."))
        if removed:
            live.flush_folder()
    return removed


def _may_remove(
    live: Place, own: Collection[Inode | None], inner: os.stat_result, around: os.stat_result | None
) -> bool:
    return may_remove(inner, around) if around is not None else _is_ours(live, inner, own)


def _is_ours(live: Place, info: os.stat_result, own: Collection[Inode | None]) -> bool:
    """Return whether a rollback left the file or folder ``info`` next to ``live``: its name proves nothing.

    A folder is a half-made copy of root, or a state of ``own`` with the owner of the state that is live now, or one
    that each user who can move it can remove too.
    """
    if live.stranger is None or not stat.S_ISDIR(info.st_mode):
        return True
    if Inode(device=info.st_dev, number=info.st_ino) in own:
        now = live.look()
        if now is None or now.st_uid == info.st_uid:
            return True
    return may_remove(info, live.folder_info(), is_renamed=True)
