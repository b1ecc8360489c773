"""SHA-256 of files, read in blocks of a fixed size so that memory use does not grow with the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from release_tasks.core.errors import with_path

__all__ = ["FileDigests", "sha256_bytes", "sha256_file"]

_STEP_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, count: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a regular file, as ``sha256sum`` prints it; links are not followed.

    ``count`` is called with the number of bytes of each read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_STEP_BYTES)
    view = memoryview(buffer)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with with_path(path), os.fdopen(fd, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(view[:size])
            if count is not None:
                count(size)
    return digest.hexdigest()


class FileDigests:
    """The SHA-256 of files that no process of this user changes meanwhile: each inode is read once.

    A plain copy in a snapshot and the base of later deltas are one inode with two names.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def of(self, path: Path, count: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256 of a regular file; see ``sha256_file``. Raises OSError."""
        info = os.lstat(path)
        key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if key not in self._known:
            self._known[key] = sha256_file(path, count)
        return self._known[key]
