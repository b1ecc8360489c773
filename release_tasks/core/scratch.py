"""Private folders for temporary files, which the next run removes when their process was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from release_tasks.core.clock import compact
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import FolderLock
from release_tasks.core.owned import exposure_of
from release_tasks.core.units import show_mebibytes

__all__ = ["NoScratchSpace", "claimed_folder", "scratch_folder"]

_ATTEMPTS = 10
_PREFIX = "release-tasks"
_HEADROOM = 16 << 20  # bytes
_SYSTEM = ("/tmp", "/var/tmp")


class NoScratchSpace(StageFailed):
    """No folder has the space for temporary copies; nothing was copied."""


@contextlib.contextmanager
def claimed_folder(parent: Path, prefix: str, clear: Callable[[Path], object] = remove_tree) -> Iterator[Path]:
    """Make a folder (0700) below ``parent`` with a name that starts with ``prefix``, and remove it after the block.

    First removes the folders of killed runs with ``clear``; those that cannot be removed stay. A lock on the folder
    says that its process runs. Raises OSError, with ENOLCK when ``parent`` is on a filesystem without locks.
    """
    _clear_leftovers(parent, prefix, clear)
    folder, claim = None, None
    try:
        for _ in range(_ATTEMPTS):
            folder = parent / f"{prefix}-{compact()}-{secrets.token_hex(3)}"
            os.mkdir(folder, 0o700)
            claim = _claim(folder)
            if claim is not None:
                break
            with contextlib.suppress(OSError):  # another run may also remove it
                remove_tree(folder)
        if claim is None or folder is None:
            raise OSError(errno.ENOLCK, "no folder in it can be locked; choose one on a local disk", str(parent))
        yield folder
    finally:
        with uninterrupted():
            if folder is not None:
                with contextlib.suppress(OSError):  # the next run tries again
                    remove_tree(folder)
            if claim is not None:
                claim.release()


@contextlib.contextmanager
def scratch_folder(needed: int, outside: Iterable[Path], fallback: Path) -> Iterator[Path]:
    """Make a private folder for ``needed`` bytes of copies while nothing else may be changed.

    It is in a temporary folder of the system (TMPDIR, /tmp, /var/tmp), unless that is below a path of ``outside`` or
    its parent, has too little space, or can be changed by another user in a run as root, and else in ``fallback``.
    Raises NoScratchSpace, with all sizes, OSError.
    """
    parent = _parent(needed, [Path(os.path.realpath(path)) for path in outside], fallback)
    with claimed_folder(parent, _PREFIX) as folder:
        yield folder


def _parent(needed: int, outside: list[Path], fallback: Path) -> Path:
    tried: list[str] = []
    given = os.environ.get("TMPDIR")
    for folder in [*([Path(given)] if given else []), *map(Path, _SYSTEM), fallback]:
        real = Path(os.path.realpath(folder))
        # A new name in the folder of a live file changes the times of that folder.
        is_inside = any(real == path.parent or real.is_relative_to(path) for path in outside)
        if (is_inside and folder != fallback) or not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
            continue
        if (exposure := exposure_of(folder)) is not None:
            tried.append(f"root does not use {folder}: {exposure}")
            continue
        free = shutil.disk_usage(folder).free
        # A temporary folder may be in memory, and other programs need it: use at most a half of it.
        if needed + _HEADROOM <= (free if folder == fallback else free // 2):
            return folder
        tried.append(f"{folder} has {show_mebibytes(free)} free")
    raise NoScratchSpace(
        f"There is no space for a copy of {show_mebibytes(needed)} of the live state, which a comparison needs: "
        f"{', '.join(tried) or 'no temporary folder can be written'}. Set TMPDIR to a folder with more space."
    )


def _clear_leftovers(parent: Path, prefix: str, clear: Callable[[Path], object]) -> None:
    name = re.compile(rf"{re.escape(prefix)}-\d{{14}}-[0-9a-f]{{6}}")
    for path in sorted(parent.iterdir()):
        if name.fullmatch(path.name) is None or (claim := _claim(path)) is None:
            continue
        try:
            with contextlib.suppress(OSError):
                clear(path)
        finally:
            claim.release()


def _claim(folder: Path) -> FolderLock | None:
    """Return a lock that marks a folder as in use until it is released, also by a kill; else None.

    None if another run holds the lock, if another user owns the folder, or if the folder is gone: another run may have
    removed it as a leftover before it was locked here.
    """
    lock = FolderLock(folder)
    with contextlib.suppress(OSError):
        if lock.acquire() and os.lstat(folder).st_uid == os.geteuid():
            return lock
    lock.release()
    return None
