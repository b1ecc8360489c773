"""What forbids to replace the live state although it can be read: file flags, mounts, and paths that are too long."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from release_tasks.assets.footprint import footprint_of
from release_tasks.assets.mounts import is_mount_point, mounts_below
from release_tasks.assets.placing import staged, suffixed
from release_tasks.core.errors import StageFailed
from release_tasks.core.flags import protecting_flag
from release_tasks.core.place import Place, find, trusted
from release_tasks.core.records import AssetRecord
from release_tasks.core.typed import quoted
from release_tasks.core.units import show_size

__all__ = ["replace_blockers", "require_replaceable", "restore_blockers"]

_PATH_MAX = 4096  # bytes with the final zero (linux/limits.h)
_ROLLBACK_ID = "20260101000000-000000"
_WORDS = {"i": "immutable", "a": "append-only"}


def require_replaceable(path: Path, record: AssetRecord, stored: Path, *, must_exchange: bool) -> None:
    """Raise StageFailed when the asset at ``path`` cannot be replaced; see ``replace_blockers``."""
    for reason in replace_blockers(path, record, stored, must_exchange=must_exchange):
        raise StageFailed(f"Nothing live was changed: {reason}")


def replace_blockers(path: Path, record: AssetRecord, stored: Path, *, must_exchange: bool) -> list[str]:
    """Return the reasons why the asset at ``path`` cannot be replaced by ``stored`` now, one sentence each.

    ``must_exchange``: its name must be exchanged with that of its new state, so it must be no mount point either.
    """
    with find(path) as live:
        if live is None:
            return []
        reasons = [_sentence(place, flag) for place, flag in _flags(live)]
        if not is_mount_point(path):
            return reasons + _mount_blockers(path)
        if must_exchange:
            return [
                *reasons,
                f"{path} is a mount point, so a rollback can only overwrite its content, and no safety copy has all of "
                f"it. Stop the service and remove what cannot be copied, or type: umount {quoted(str(path))}",
            ]
        return reasons + _overwrite_blockers(live, record, stored)


def restore_blockers(path: Path) -> list[str]:
    """Return the reasons why a rollback could not replace the asset at ``path``, one sentence each.

    Raises StageFailed when root must not follow the path, OSError.
    """
    with find(path) as live:
        longest = suffixed(staged(live or trusted(path), _ROLLBACK_ID), "-journal")
        if len(os.fsencode(longest.path)) >= _PATH_MAX:
            size = len(os.fsencode(path))
            return [f"its path has {size} bytes, too many to place a copy next to it. Move it to a shorter path."]
        if live is None:
            return []
        reasons = [_sentence(place, flag) for place, flag in _flags(live) if not _cannot_change(live, place, flag)]
        return reasons + (_inner_flag_blockers(live) if is_mount_point(path) else _mount_blockers(path))


def _mount_blockers(path: Path) -> list[str]:
    """Refuse mounts inside a folder that is exchanged: they would go with the old folder, whose content is removed."""
    return [
        f"{below} is mounted inside {path}, so a rollback would remove what is mounted there. {_unmount(below)}"
        for below in mounts_below(path)[:1]
    ]


def _overwrite_blockers(live: Place, record: AssetRecord, stored: Path) -> list[str]:
    """Return why the content of the mount point ``live`` cannot be overwritten: the swap would fail in its middle."""
    path, was_folder = live.path, record.kind == "directory"
    if (live.is_folder() != was_folder) if record.exists else not live.is_folder():
        was = f"a {'folder' if was_folder else 'file'}" if record.exists else "absent"
        return [f"{path} is a mount point, and was {was} at the time of the snapshot. {_unmount(path)}"]
    folders = {entry.path for entry in record.entries or [] if entry.kind == "directory"} if record.exists else set()
    inner = {mount: os.path.relpath(mount, os.path.realpath(path)) for mount in mounts_below(path)}
    for mount, relative in inner.items():
        if relative not in folders or not os.path.isdir(mount):
            return [f"{mount} is mounted inside {path}, and the snapshot has no such folder. {_unmount(mount)}"]
    for mount in (str(path), *inner):
        if os.statvfs(mount).f_flag & os.ST_RDONLY:
            return [f"{mount} is mounted read-only, so a rollback cannot overwrite it. {_unmount(mount)}"]
    return _inner_flag_blockers(live) or ([] if inner or not record.exists else _space_blockers(live, stored))


def _inner_flag_blockers(live: Place) -> list[str]:
    """Name the first entry in the mount point ``live`` that has a flag: an exchange of names would not touch it."""
    if live.is_folder():
        for entry in live.walk(lambda path, error: None):
            if entry.path and not entry.is_end:
                flag = protecting_flag(Path(entry.name), entry.folder)
                if flag is not None:
                    return [_sentence(live.path / entry.path, flag)]
    return []


def _space_blockers(live: Place, stored: Path) -> list[str]:
    """Compare what the disk mounted at ``live`` has, with all of the asset's content removed, with what is needed."""
    path = live.path
    info, used, needed = os.statvfs(path), footprint_of(live), footprint_of(trusted(stored))
    is_full = info.f_blocks and needed.size > used.size + info.f_bfree * info.f_frsize
    if not is_full and not (info.f_files and needed.names > used.names + info.f_ffree):
        return []
    return [
        f"The disk mounted at {path} is too small for the restored state: {show_size(needed.size)} and {needed.names} "
        f"inodes needed. {_unmount(path)}"
    ]


def _flags(live: Place) -> list[tuple[Path, str]]:
    """Return the live asset and its folder, each with its flag, as far as they have one."""
    flags = (live.path, live.flag()), (live.path.parent, protecting_flag(Path("."), live.folder))
    return [(place, flag) for place, flag in flags if flag is not None]


def _unmount(place: Path | str) -> str:
    return f"Type: umount {quoted(str(place))}"


def _cannot_change(live: Place, place: Path, flag: str) -> bool:
    """Return whether the flag keeps the asset as it is now: then a rollback has nothing to replace."""
    return place == live.path and flag == "i" and stat.S_ISREG(live.info().st_mode)


def _sentence(place: Path, flag: str) -> str:
    return f"{place} is {_WORDS[flag]}, so a rollback cannot replace it. Type: chattr -{flag} {quoted(str(place))}"
