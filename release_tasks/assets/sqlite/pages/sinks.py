"""Where the pages of a live database go during the scan: the safety copy."""

from __future__ import annotations

import os
from pathlib import Path

from release_tasks.core.errors import with_path

__all__ = ["PlainSink"]


class PlainSink:
    """Writes a plain copy to the new file ``path``, which the caller closes. The methods raise OSError."""

    def __init__(self, path: Path, page_size: int) -> None:
        self._path = path
        self._size = page_size
        with with_path(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def scanned(self, first: int, content: bytes, differing: list[int]) -> None:
        """Write consecutive pages."""
        view, offset = memoryview(content), (first - 1) * self._size
        with with_path(self._path):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written

    def changed(self, number: int, content: bytes) -> None:
        """Write a page over its older content."""
        self.scanned(number, content, [])

    def flush(self) -> None:
        """Bring the content to the disk."""
        with with_path(self._path):
            os.fsync(self._fd)

    def cut(self, pages: int) -> None:
        """Give the copy its final number of pages."""
        with with_path(self._path):
            os.ftruncate(self._fd, pages * self._size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
