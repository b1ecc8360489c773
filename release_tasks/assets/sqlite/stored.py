"""Read a stored database so that the bytes which SQLite gets are the bytes of its digest.

Between the verification of a snapshot and the restore, another process can exchange the stored file, or write to it.
The times of a file do not show each write: through a mapping it changes them once only (mmap(2)). Therefore SQLite
reads the content through the class here, which reads each byte once, digests it and passes on the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from release_tasks.assets.sqlite.connection import connection
from release_tasks.assets.sqlite.image import StoredImage, opened_image
from release_tasks.assets.sqlite.image_file import ANY_NAME, ReadOnlyFile, sqlite_files
from release_tasks.core.errors import StageFailed
from release_tasks.core.interrupt import deferring_signals

__all__ = ["StoredDatabase", "stored_database"]

_BLOCK = 64 << 10  # a multiple of each page size
_CHUNK = 16 * _BLOCK


class StoredDatabase(ReadOnlyFile):
    """The content of a stored database. SQLite calls the methods that begin with x.

    Before ``read_in_order`` SQLite reads a few pages anywhere in the file, the schema for instance, and keeps them in
    its cache. Those blocks stay here, too, and are digested in their turn. Afterwards it reads each page once.
    """

    def __init__(self, image: StoredImage, path: Path, sha256: str | None) -> None:
        super().__init__(image.size)
        self._image = image
        self._path = path
        self._expected = sha256
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
        chunk = bytearray(self._image.read(start, _CHUNK))
        for offset in range(start, start + len(chunk), _BLOCK):
            if (early := self._early.get(offset)) is not None:
                chunk[offset - start : offset - start + len(early)] = early
        self._start, self._chunk = start, bytes(chunk)
        self._digest.update(self._chunk)

    @deferring_signals
    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Return bytes that are in the digest, or will be."""
        if not self._is_in_order:
            start = offset - offset % _BLOCK
            if start not in self._early:
                self._early[start] = self._image.read(start, _BLOCK)
            return self._early[start][offset - start : offset - start + amount]
        while self._end < min(offset + amount, self._size):
            self._advance()
        if offset < self._start:
            raise StageFailed(f"SQLite read {self._path} in another order than expected.")
        return self._chunk[offset - self._start : offset - self._start + amount]


@contextlib.contextmanager
def stored_database(path: Path, sha256: str | None) -> Iterator[tuple[apsw.Connection, StoredDatabase]]:
    """Open a stored database for one copy of its pages, without locks and side files.

    It may be a delta and its base. After the copy, ``require_intact`` compares what SQLite got with the digest
    ``sha256``. Raises StageFailed when a file is no regular file or a delta is damaged, OSError.
    """
    with opened_image(path) as image:
        stored = StoredDatabase(image, path, sha256)
        with (
            sqlite_files(stored) as name,
            connection(Path(ANY_NAME), apsw.SQLITE_OPEN_READONLY, is_immutable=True, vfs=name) as database,
        ):
            yield database, stored
