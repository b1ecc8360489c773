"""What forbids to replace the live state although it can be read: file flags, and paths that are too long."""

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
    return reasons


def restore_blockers(path: Path) -> list[str]:
    """Return the reasons why a rollback could not replace the asset at ``path``, one sentence each."""
    staged = suffixed(staged_path(path, _ROLLBACK_ID), "-journal")
    if len(os.fsencode(staged)) >= _PATH_MAX:
        size = len(os.fsencode(path))
        return [f"its path has {size} bytes, too many to place a copy next to it. Move it to a shorter path."]
    return [
        _sentence(place, flag)
        for place in (path, path.parent)
        if (flag := protecting_flag(place)) is not None and not _cannot_change(path, place, flag)
    ]


def _cannot_change(path: Path, place: Path, flag: str) -> bool:
    """Return whether the flag keeps the asset as it is now: then a rollback has nothing to replace."""
    return place == path and flag == "i" and stat.S_ISREG(os.lstat(path).st_mode)


def _sentence(place: Path, flag: str) -> str:
    return f"{place} is {_WORDS[flag]}, so a rollback cannot replace it. Type: chattr -{flag} {shlex.quote(str(place))}"


def is_mount_point(path: Path) -> bool:
    """Return whether something is mounted at ``path``; its name can then not be exchanged with another one."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return os.path.ismount(path)
    # proc(5): the fifth field, with octal escapes for space, tab, newline and backslash
    real = os.fsencode(os.path.realpath(path.parent) + "/" + path.name)
    escaped = real.replace(b"\\", rb"\134").replace(b" ", rb"\040").replace(b"\t", rb"\011").replace(b"\n", rb"\012")
    return any(line.split(b" ")[4] == escaped for line in lines)
