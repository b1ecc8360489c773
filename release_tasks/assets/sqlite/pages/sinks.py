"""Where the pages of a live database go during the scan: the safety copy."""

from __future__ import annotations

import os
from pathlib import Path

from release_tasks.assets.sqlite.pages.copies import PlainCopy, create
from release_tasks.core.errors import with_path

__all__ = ["PlainSink"]


class PlainSink:
    """Writes a plain copy to the new file ``path``, which the caller closes. The methods raise OSError."""

    def __init__(self, path: Path, page_size: int) -> None:
        self._path = path
        self._size = page_size
        self._fd = create(path)
        self._copy = PlainCopy(self._fd, path, page_size)

    def scanned(self, first: int, content: bytes, differing: list[int]) -> None:
        """Write consecutive pages."""
        self._copy.write(first, content)

    def changed(self, number: int, content: bytes) -> None:
        """Write a page over its older content."""
        self._copy.write(number, content)

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
