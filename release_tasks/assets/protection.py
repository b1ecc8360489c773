"""What forbids to replace the live state although it can be read: file flags, mounts, and paths that are too long."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from release_tasks.assets.placing import staged_path, suffixed
from release_tasks.core.errors import StageFailed
from release_tasks.core.flags import protecting_flag

__all__ = ["is_mount_point", "replace_blockers", "require_replaceable", "restore_blockers"]

_PATH_MAX = 4096  # bytes with the final zero (linux/limits.h)
_ROLLBACK_ID = "20260101000000-000000"
_WORDS = {"i": "immutable", "a": "append-only"}


def require_replaceable(path: Path, *, must_exchange: bool) -> None:
    """Raise StageFailed when the asset at ``path`` cannot be replaced; see ``replace_blockers``."""
    for reason in replace_blockers(path, must_exchange=must_exchange):
        raise StageFailed(f"Nothing live was changed: {reason}")


def replace_blockers(path: Path, *, must_exchange: bool) -> list[str]:
    """Return the reasons why the asset at ``path`` cannot be replaced now, one sentence each.

    ``must_exchange``: its name must be exchanged with that of its new state, so it must be no mount point either.
    """
    places = (path, path.parent)
    reasons = [_sentence(place, flag) for place in places if (flag := protecting_flag(place)) is not None]
    if must_exchange and is_mount_point(path):
        reasons.append(
            f"{path} is a mount point, so a rollback can only overwrite its content, and no safety copy has all of it. "
            f"Stop the service and remove what cannot be copied, or type: umount {shlex.quote(str(path))}"
        )
    return reasons + _mount_blockers(path)


def restore_blockers(path: Path) -> list[str]:
    """Return the reasons why a rollback could not replace the asset at ``path``, one sentence each."""
    staged = suffixed(staged_path(path, _ROLLBACK_ID), "-journal")
    if len(os.fsencode(staged)) >= _PATH_MAX:
        size = len(os.fsencode(path))
        return [f"its path has {size} bytes, too many to place a copy next to it. Move it to a shorter path."]
    reasons = [
        _sentence(place, flag)
        for place in (path, path.parent)
        if (flag := protecting_flag(place)) is not None and not _cannot_change(path, place, flag)
    ]
    return reasons + _mount_blockers(path)


def _mount_blockers(path: Path) -> list[str]:
    """Refuse mounts inside a folder that is exchanged: they would go with the old folder, whose content is removed."""
    below = _mounts_below(path)
    if not below or is_mount_point(path):  # the content of a mount point is overwritten, not exchanged
        return []
    return [
        f"{below[0]} is mounted inside {path}, so a rollback would remove what is mounted there. "
        f"Type: umount {shlex.quote(below[0])}"
    ]


def _cannot_change(path: Path, place: Path, flag: str) -> bool:
    """Return whether the flag keeps the asset as it is now: then a rollback has nothing to replace."""
    return place == path and flag == "i" and stat.S_ISREG(os.lstat(path).st_mode)


def _sentence(place: Path, flag: str) -> str:
    return f"{place} is {_WORDS[flag]}, so a rollback cannot replace it. Type: chattr -{flag} {shlex.quote(str(place))}"


def is_mount_point(path: Path) -> bool:
    """Return whether something is mounted at ``path``; its name can then not be exchanged with another one."""
    try:
        return _escaped(path) in _mount_points()
    except OSError:
        return os.path.ismount(path)


def _mounts_below(path: Path) -> list[str]:
    inside = _escaped(path) + b"/"
    try:
        return [os.fsdecode(_unescaped(point)) for point in _mount_points() if point.startswith(inside)]
    except OSError:  # a system without /proc
        return []


def _mount_points() -> list[bytes]:
    """Return the mount points with octal escapes for space, tab, newline and backslash: the fifth field of proc(5)."""
    return [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]


_ESCAPES = {b"\\": rb"\134", b" ": rb"\040", b"\t": rb"\011", b"\n": rb"\012"}  # the backslash first


def _escaped(path: Path) -> bytes:
    real = os.fsencode(os.path.realpath(path.parent) + "/" + path.name)
    for plain, escape in _ESCAPES.items():
        real = real.replace(plain, escape)
    return real


def _unescaped(point: bytes) -> bytes:
    for plain, escape in reversed(_ESCAPES.items()):
        point = point.replace(escape, plain)
    return point
