"""SHA-256 of files, read in blocks of a fixed size so that memory use does not grow with the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from release_tasks.core.errors import with_path

__all__ = ["sha256_bytes", "sha256_file"]

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
