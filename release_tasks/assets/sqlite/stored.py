"""Read a stored database so that the bytes which SQLite gets are the bytes of its digest.

Between the verification of a snapshot and the restore, another process can exchange the stored file, or write to it.
The times of a file do not show each write: through a mapping it changes them once only (mmap(2)). Therefore SQLite
reads the file through the class here, which reads each byte once, digests it and passes on the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from release_tasks.assets.sqlite.connection import connection
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.interrupt import deferring_signals
from release_tasks.core.regular import open_regular

__all__ = ["StoredDatabase", "stored_database"]

_BLOCK = 64 << 10  # a multiple of each page size
_CHUNK = 16 * _BLOCK
_ANY_NAME = Path("/stored.db")  # a VFS of Python gets UTF-8 only
_numbers = itertools.count(1)


class StoredDatabase:
    """The file of a stored database, opened as ``fd``. SQLite calls the methods that begin with x.

    Before ``read_in_order`` SQLite reads a few pages anywhere in the file, the schema for instance, and keeps them in
    its cache. Those blocks stay here, too, and are digested in their turn. Afterwards it reads each page once.
    """

    def __init__(self, fd: int, path: Path, sha256: str | None) -> None:
        self._fd = fd
        self._path = path
        self._expected = sha256
        self._size = os.fstat(fd).st_size
        self._digest = hashlib.sha256()
        self._early: dict[int, bytes] = {}
        self._is_in_order = False
        self._start = 0
        self._chunk = b""

    def read_in_order(self) -> None:
        """Expect each page once from now on, in the order of the file."""
        self._is_in_order = True

    def require_intact(self) -> None:
        """Read what is left; raise StageFailed unless SQLite gets the bytes of the recorded digest, OSError."""
        self._is_in_order = True
        while self._end < self._size:
            self._advance()
        if self._digest.hexdigest() != self._expected:
            raise StageFailed(f"{self._path} changed after it was verified.")

    @property
    def _end(self) -> int:
        return self._start + len(self._chunk)

    def _advance(self) -> None:
        """Read and digest the next chunk."""
        start = self._end
        chunk = bytearray(self._read(start, min(_CHUNK, self._size - start)))
        for offset in range(start, start + len(chunk), _BLOCK):
            if (early := self._early.get(offset)) is not None:
                chunk[offset - start : offset - start + len(early)] = early
        self._start, self._chunk = start, bytes(chunk)
        self._digest.update(self._chunk)

    def _read(self, offset: int, size: int) -> bytes:
        with with_path(self._path):
            data = os.pread(self._fd, size, offset)
            if len(data) < size:
                data += os.pread(self._fd, size - len(data), offset + len(data))
        if len(data) < size:
            raise StageFailed(f"{self._path} was cut while it was read.")
        return data

    @deferring_signals
    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Return bytes that are in the digest, or will be."""
        if not self._is_in_order:
            start = offset - offset % _BLOCK
            if start not in self._early:
                self._early[start] = self._read(start, max(min(_BLOCK, self._size - start), 0))
            return self._early[start][offset - start : offset - start + amount]
        while self._end < min(offset + amount, self._size):
            self._advance()
        if offset < self._start:
            raise StageFailed(f"SQLite read {self._path} in another order than expected.")
        return self._chunk[offset - self._start : offset - self._start + amount]

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size that the file had when it was opened."""
        return self._size

    def xClose(self) -> None:  # noqa: N802
        """Leave the descriptor to ``stored_database``."""

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


class _Files(apsw.VFS):
    """Gives SQLite one stored database, whatever name it opens."""

    def __init__(self, name: str, database: StoredDatabase) -> None:
        super().__init__(name, "")
        self._database = database

    def xOpen(self, *_: object) -> Any:  # noqa: N802
        return self._database


@contextlib.contextmanager
def stored_database(path: Path, sha256: str | None) -> Iterator[tuple[apsw.Connection, StoredDatabase]]:
    """Open a stored database for one copy of its pages, without locks and side files.

    After the copy, ``require_intact`` compares what SQLite got with the digest ``sha256``. Raises StageFailed when the
    file is no regular file, OSError.
    """
    fd = open_regular(path)
    try:
        stored, name = StoredDatabase(fd, path, sha256), f"release-tasks-stored-{next(_numbers)}"
        files = _Files(name, stored)
        try:
            flags = apsw.SQLITE_OPEN_READONLY
            with connection(_ANY_NAME, flags, is_immutable=True, vfs=name) as database:
                yield database, stored
        finally:
            files.unregister()
    finally:
        os.close(fd)
