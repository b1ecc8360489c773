"""The forms in which a capture stores the pages of a database: a plain file, a delta, a clone of the base."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from release_tasks.assets.base import Base
from release_tasks.assets.sqlite.delta import DeltaWriter, WrittenDelta
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.regular import open_regular, read_exactly

__all__ = [
    "ClonedCopy",
    "DeltaCopy",
    "OpenBase",
    "PlainCopy",
    "TooDifferent",
    "cloned_copy",
    "create",
    "delta_copy",
    "open_base",
    "plain_copy",
]

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the filesystem can
_MOST_OF_BASE = 4  # a delta takes at most this part of its base


class TooDifferent(StageFailed):
    """A delta would exceed a quarter of its base."""


class PlainCopy:
    """Writes a plain copy to the file that ``fd`` is open for."""

    def __init__(self, fd: int, path: Path, page_size: int) -> None:
        self._fd = fd
        self._path = path
        self._page_size = page_size

    def add(self, first: int, content: bytes, _: list[bytes]) -> None:
        """Write consecutive pages."""
        self.write(first, content)

    def write(self, first: int, content: bytes) -> None:
        """Write one page or several, from the number ``first`` on."""
        view, offset = memoryview(content), (first - 1) * self._page_size
        with with_path(self._path):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written


@contextlib.contextmanager
def plain_copy(path: Path, page_size: int) -> Iterator[PlainCopy]:
    """Write a plain copy to the new file ``path``, which is not flushed. Raises OSError."""
    fd = create(path)
    try:
        yield PlainCopy(fd, path, page_size)
    finally:
        os.close(fd)


class OpenBase:
    """The file of a base, open as ``fd``."""

    def __init__(self, fd: int, base: Base) -> None:
        self.base = base
        self.fd = fd
        with with_path(base.path):
            self.size = os.fstat(fd).st_size
        header = self.read(0, 100)
        size = int.from_bytes(header[16:18], "big")
        self.page_size = 65536 if size == 1 else size

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the base, fewer at its end. Raises OSError, StageFailed when it was cut."""
        return read_exactly(self.fd, self.base.path, offset, max(min(size, self.size - offset), 0))

    def differing(self, first: int, content: bytes, pages: list[bytes]) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Yield number, content and page of the base for each of some consecutive pages that differs from it.

        The page of the base is None behind its end.
        """
        size = self.page_size
        expected = self.read((first - 1) * size, len(content))
        if content == expected:
            return
        for index, page in enumerate(pages):
            other = expected[index * size : (index + 1) * size]
            if page != other:
                yield first + index, page, other if len(other) == size else None


@contextlib.contextmanager
def open_base(base: Base) -> Iterator[OpenBase]:
    """Open the file of a base while the block runs. Raises StageFailed, OSError."""
    fd = open_regular(base.path)
    try:
        yield OpenBase(fd, base)
    finally:
        os.close(fd)


class DeltaCopy:
    """Writes the pages that differ from a base as a delta; raises TooDifferent when there are too many.

    ``content_sha256`` is the digest of the pages that were written, in order: what a reader must decode.
    """

    def __init__(self, writer: DeltaWriter, base: OpenBase, path: Path) -> None:
        self._writer = writer
        self._base = base
        self._path = path
        self._content = hashlib.sha256()

    @property
    def content_sha256(self) -> str:
        """The digest of the written pages."""
        return self._content.hexdigest()

    def add(self, first: int, content: bytes, pages: list[bytes]) -> None:
        """Write those of some consecutive pages that differ."""
        for number, page, base in self._base.differing(first, content, pages):
            with with_path(self._path):
                self._writer.add(number, page, base)
            self._content.update(page)
        if self._writer.size > self._base.size // _MOST_OF_BASE:
            raise TooDifferent(f"{self._path} would exceed a quarter of its base.")

    def finish(self, pages: int, sha256: str) -> WrittenDelta:
        """Complete the delta of a database of this many pages and this digest. Raises TooDifferent, OSError."""
        with with_path(self._path):
            written = self._writer.finish(pages=pages, sha256=sha256)
        if written.size > self._base.size // _MOST_OF_BASE:
            raise TooDifferent(f"{self._path} would exceed a quarter of its base.")
        return written


@contextlib.contextmanager
def delta_copy(path: Path, base: OpenBase) -> Iterator[DeltaCopy]:
    """Write a delta against ``base`` to the new file ``path``, which is not flushed.

    Raises StageFailed, OSError.
    """
    with with_path(path), os.fdopen(create(path), "wb") as file:
        writer = DeltaWriter(
            file,
            page_size=base.page_size,
            base_sha256=base.base.sha256,
            base_snapshot_id=base.base.snapshot_id,
        )
        yield DeltaCopy(writer, base, path)


class ClonedCopy:
    """Writes the pages that differ from a base over a clone of it, which shares the blocks of all others."""

    def __init__(self, plain: PlainCopy, base: OpenBase) -> None:
        self._plain = plain
        self._base = base

    def add(self, first: int, content: bytes, pages: list[bytes]) -> None:
        """Write those of some consecutive pages that differ."""
        for number, page, _ in self._base.differing(first, content, pages):
            self._plain.write(number, page)


@contextlib.contextmanager
def cloned_copy(path: Path, base: OpenBase, size: int) -> Iterator[ClonedCopy | None]:
    """Make the new file ``path`` a clone of ``base`` for a copy of ``size`` bytes, which is not flushed.

    Yields None, and leaves no file, where the filesystem cannot share blocks. Raises OSError.
    """
    fd = create(path)
    try:
        try:
            fcntl.ioctl(fd, _FICLONE, base.fd)
        except OSError:
            path.unlink()
            yield None
            return
        yield ClonedCopy(PlainCopy(fd, path, base.page_size), base)
        with with_path(path):
            os.ftruncate(fd, size)
    finally:
        os.close(fd)


def create(path: Path) -> int:
    """Create the file ``path`` and return its descriptor, for writing. Raises OSError."""
    with with_path(path):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
