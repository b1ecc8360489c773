"""Let SQLite read the plain content of a stored database, through a VFS in Python.

Imports nothing that replaces system calls of SQLite: the child process that reads the content of databases uses it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Protocol

import apsw

__all__ = ["ANY_NAME", "Content", "ReadOnlyFile", "content_file", "sqlite_files"]

ANY_NAME = "/stored.db"  # a VFS of Python gets UTF-8 only
_BLOCK = 64 << 10  # a multiple of each page size
_MOST_BLOCKS = 64
_numbers = itertools.count(1)


class Content(Protocol):
    """Bytes that do not change."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer only at the end. Raises StageFailed, OSError."""


class ReadOnlyFile:
    """A file of a VFS that SQLite only reads, without locks. SQLite calls the methods that begin with x.

    Subclasses have ``xRead``.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size that the file had when it was opened."""
        return self._size

    def xClose(self) -> None:  # noqa: N802
        """Leave what is open to the caller."""

    def xFileControl(self, *_: object) -> bool:  # noqa: N802
        """Know no file control."""
        return False

    def xLock(self, _: int) -> None:  # noqa: N802
        """Take no lock."""

    xUnlock = xLock  # noqa: N815

    def xSectorSize(self) -> int:  # noqa: N802
        """Return SQLite's default."""
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        """Promise nothing about the disk."""
        return 0


class _ContentFile(ReadOnlyFile):
    """A file that reads blocks of a content, and keeps the last ones."""

    def __init__(self, content: Content) -> None:
        super().__init__(content.size)
        self._content = content
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Return ``amount`` bytes from ``offset``, which are in one block: SQLite reads pages, and the header."""
        start = offset - offset % _BLOCK
        block = self._blocks.get(start)
        if block is None:
            block = self._blocks[start] = self._content.read(start, _BLOCK)
            if len(self._blocks) > _MOST_BLOCKS:
                self._blocks.popitem(last=False)
        return block[offset - start : offset - start + amount]


class _Files(apsw.VFS):
    """Gives SQLite one file, whatever name it opens."""

    def __init__(self, name: str, file: ReadOnlyFile) -> None:
        super().__init__(name, "")
        self._file = file

    def xOpen(self, *_: object) -> Any:  # noqa: N802
        return self._file


@contextlib.contextmanager
def sqlite_files(file: ReadOnlyFile) -> Iterator[str]:
    """Yield the name of a VFS that opens ``file`` by any name, for instance ``ANY_NAME``."""
    name = f"release-tasks-stored-{next(_numbers)}"
    files = _Files(name, file)
    try:
        yield name
    finally:
        files.unregister()


def content_file(content: Content) -> ReadOnlyFile:
    """Return a file that has the bytes of ``content``, which SQLite may read in any order."""
    return _ContentFile(content)
