"""Can the gateway write? A check of the folders that leaves nothing behind."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_folders"]

_MIN_FREE_BYTES = 1024 * 1024
_PROBE = bytes(64 * 1024)


def check_folders(folders: Iterable[Path]) -> None:
    """Write and remove a small file in each folder; raises OSError with the folder and the reason.

    A folder that does not exist yet is checked by its nearest existing parent folder. A disk with less than 1 MiB left
    counts as full, so that the check itself never takes the last free bytes.
    """
    for folder in dict.fromkeys(map(_existing, folders)):
        try:
            if _free_bytes(folder) < _MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:  # has no name, where the system can do it
                rest = memoryview(_PROBE)
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    if not status.f_blocks:  # some filesystems have no fixed size
        return _MIN_FREE_BYTES
    return status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail)
