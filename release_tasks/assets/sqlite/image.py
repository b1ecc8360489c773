"""The plain content of a stored database: of a plain file, or of a delta and its base.

All reads are by ``pread``: a file that is cut while it is mapped ends the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from release_tasks.assets.sqlite.delta import MAGIC, PAGE_SIZES, DamagedDelta, Delta
from release_tasks.assets.stored import base_path
from release_tasks.core.errors import with_path
from release_tasks.core.records import AssetRecord
from release_tasks.core.regular import open_regular, read_exactly

__all__ = [
    "StoredImage",
    "image_digest",
    "is_delta",
    "opened_image",
    "require_same_delta",
    "stored_image",
    "write_image",
]

Progress = Callable[[int, int], None]

_STEP_BYTES = 1 << 20
_LOCK_BYTE = 0x40000000  # SQLite never writes the page with this byte (https://sqlite.org/fileformat.html, 1.3.1)
_DEFAULT_PAGE = 4096


class StoredImage:
    """The content of a stored database as one file of ``size`` bytes: ``pages`` pages of ``page_size`` bytes each.

    ``delta`` is None for a plain file, which is its own base. The methods raise DamagedDelta and StageFailed when a
    file is not as it was opened, OSError.
    """

    def __init__(self, fd: int, path: Path, delta: Delta | None = None) -> None:
        """``fd`` is open for the file at ``path``: the plain database, or the base of ``delta``."""
        self._fd = fd
        self.base = path
        self.delta = delta
        with with_path(path):
            self._base_size = os.fstat(fd).st_size
        self.page_size = delta.page_size if delta is not None else self._page_size_of_header()
        self._base_pages = self._base_size // self.page_size
        self.pages = delta.pages if delta is not None else self._base_pages
        self.size = delta.pages * delta.page_size if delta is not None else self._base_size
        if delta is not None and not self._has_all_pages(delta):
            raise DamagedDelta(f"{path} and its delta do not have all pages of the database.")

    @property
    def base_sha256(self) -> str | None:
        """The recorded digest of the base; None for a plain file."""
        return self.delta.base_sha256 if self.delta is not None else None

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer only at the end of the content."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        if self.delta is None:
            return self._read_base(offset, end - offset)
        first, last = offset // self.page_size, (end - 1) // self.page_size  # from 0
        numbers = list(self.delta.numbers(first + 1, last + 1))
        in_base = self._base_pages * self.page_size
        if not numbers and end <= in_base:
            return self._read_base(offset, end - offset)
        start, stop = first * self.page_size, (last + 1) * self.page_size
        data = bytearray(self._read_base(start, max(min(stop, in_base) - start, 0)))
        of_base = len(data)
        data.extend(bytes(stop - start - of_base))
        for number in numbers:
            at = (number - 1) * self.page_size - start
            base = bytes(data[at : at + self.page_size]) if at < of_base else None
            data[at : at + self.page_size] = self.delta.page(number, base)
        return bytes(memoryview(data)[offset - start : end - start])

    def page(self, number: int) -> bytes:
        """Return the page ``number``, from 1."""
        return self.read((number - 1) * self.page_size, self.page_size)

    def base_page(self, number: int) -> bytes | None:
        """Return that page of the base, and of the file itself when it is plain; None behind its end."""
        if number > self._base_pages:
            return None
        return self._read_base((number - 1) * self.page_size, self.page_size)

    def _page_size_of_header(self) -> int:
        """Return the page size of a plain database; a default when it has none, as an empty one."""
        size = int.from_bytes(self._read_base(16, 2), "big") if self._base_size >= 100 else 0
        size = 65536 if size == 1 else size
        return size if size in PAGE_SIZES else _DEFAULT_PAGE

    def _has_all_pages(self, delta: Delta) -> bool:
        """Return whether each page behind the end of the base is in the delta; it may leave out the lock page."""
        missing = delta.pages - self._base_pages
        if missing <= 0:
            return True
        missing -= sum(1 for _ in delta.numbers(self._base_pages + 1, delta.pages))
        lock_page = _LOCK_BYTE // delta.page_size + 1
        if self._base_pages < lock_page <= delta.pages and lock_page not in delta:
            missing -= 1
        return missing == 0

    def _read_base(self, offset: int, size: int) -> bytes:
        return read_exactly(self._fd, self.base, offset, size)


@contextlib.contextmanager
def stored_image(stored: Path, record: AssetRecord) -> Iterator[StoredImage]:
    """Open the database that is stored at ``stored`` as ``record`` says.

    Raises DamagedDelta when it is a delta of another record, or damaged; StageFailed, OSError.
    """
    with opened_image(stored) as image:
        require_same_delta(stored, record, image.delta)
        if image.size != record.size:
            raise DamagedDelta(f"{stored} stands for {image.size} bytes, and its record for {record.size}.")
        yield image


@contextlib.contextmanager
def opened_image(stored: Path) -> Iterator[StoredImage]:
    """Open the database that is stored at ``stored``: a file that begins like a delta is one.

    The base of a delta is found by its digest. Raises DamagedDelta, StageFailed, OSError.
    """
    with contextlib.ExitStack() as opened:
        if not is_delta(stored):
            yield StoredImage(_opened(stored, opened), stored)
            return
        delta = opened.enter_context(Delta.open(stored))
        base = base_path(stored, delta.base_sha256)
        yield StoredImage(_opened(base, opened), base, delta)


def is_delta(stored: Path) -> bool:
    """Return whether a stored file begins like a delta. Raises StageFailed when it is no regular file, OSError."""
    with contextlib.ExitStack() as opened:
        fd = _opened(stored, opened)
        with with_path(stored):
            return os.pread(fd, len(MAGIC), 0) == MAGIC


def require_same_delta(stored: Path, record: AssetRecord, delta: Delta | None) -> None:
    """Raise DamagedDelta unless ``delta``, of the file ``stored``, is the one of ``record``; None is a plain file."""
    if (record.delta is None) != (delta is None):
        recorded, found = ("a delta", "none") if delta is None else ("no delta", "one")
        raise DamagedDelta(f"{stored} is recorded as {recorded}, and is {found}.")
    if record.delta is None or delta is None:
        return
    of_delta = (delta.sha256, delta.size, delta.base_sha256, delta.base_snapshot_id)
    of_record = (record.delta.sha256, record.delta.size, record.delta.base_sha256, record.delta.base_snapshot_id)
    if of_delta != of_record:
        raise DamagedDelta(f"{stored} is another delta than the one of its record.")
    if delta.result_sha256 is not None and record.sha256 is not None and delta.result_sha256 != record.sha256:
        raise DamagedDelta(f"{stored} is the delta of a database with another digest than its record.")


def write_image(image: StoredImage, fd: int, progress: Progress | None = None) -> str:
    """Write the whole content to ``fd``, from its present position, and return its SHA-256.

    ``progress`` gets (written bytes, total bytes). Raises the errors of ``StoredImage.read``, OSError.
    """
    digest = hashlib.sha256()
    for offset in range(0, image.size, _STEP_BYTES):
        data = image.read(offset, _STEP_BYTES)
        digest.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if progress is not None:
            progress(offset + len(data), image.size)
    return digest.hexdigest()


def image_digest(image: StoredImage, progress: Progress | None = None) -> str:
    """Return the SHA-256 of the whole content; ``progress`` gets (read bytes, total bytes)."""
    digest = hashlib.sha256()
    for offset in range(0, image.size, _STEP_BYTES):
        digest.update(image.read(offset, _STEP_BYTES))
        if progress is not None:
            progress(min(offset + _STEP_BYTES, image.size), image.size)
    return digest.hexdigest()


def _opened(path: Path, opened: contextlib.ExitStack) -> int:
    fd = open_regular(path)
    opened.callback(os.close, fd)
    return fd
