"""Write and read delta files: the pages of a database that differ from those of a base (format RTD1, docs/formats.md).

A reader trusts nothing in the file: it checks the digest of the whole, decodes no more than the declared size of a
frame, and compares each frame with its digest again when it reads it.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import os
import struct
import sys
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from attrs import frozen

from release_tasks.assets.stored import is_digest
from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object
from release_tasks.core.errors import StageFailed, with_path
from release_tasks.core.ids import is_valid_id
from release_tasks.core.regular import open_regular

__all__ = ["MAGIC", "PAGE_SIZES", "SUFFIX", "DamagedDelta", "Delta", "DeltaWriter", "WrittenDelta"]

MAGIC = b"RTD1"
SUFFIX = ".rtd1"  # of the name of a delta file
PAGE_SIZES = tuple(1 << power for power in range(9, 17))  # https://sqlite.org/fileformat.html, 1.3.2
_MOST_PAGES = 0xFFFFFFFE  # of SQLite, https://sqlite.org/limits.html

_HEAD = struct.Struct(">4sI")  # the magic, the length of the header
_FRAME = struct.Struct(">II32s")  # bytes in the file, records, SHA-256 of these bytes
_TAIL = struct.Struct(">QQQ32s")  # pages of the result, records, frames, SHA-256 of the result or zeros
_DIGEST_BYTES = 32
_MOST_HEADER = 4096
_MOST_RECORDS = 1024
_FRAME_BYTES = 128 << 10  # of pages: to read one page, its frame is decoded
_CACHED_BYTES = 16 << 20
_STEP_BYTES = 1 << 20
_SAMPLE_BYTES = 8 << 10
_RAW, _XOR = 0, 1


class DamagedDelta(StageFailed):
    """A delta file is not as it was written, or does not belong to its base."""


@frozen(kw_only=True)
class WrittenDelta:
    """A complete delta: its ``size`` in bytes, its SHA-256, and the number of records that it has."""

    size: int
    sha256: str
    pages_stored: int


class DeltaWriter:
    """Writes a delta to ``file`` page by page; memory does not grow with the database.

    ``base_sha256`` and ``base_snapshot_id`` are of the base, which has the same ``page_size`` in bytes. ``level`` is
    that of zlib. Raises ValueError for an argument that no delta can have, and the OSError of ``file``.
    """

    def __init__(
        self, file: BinaryIO, *, page_size: int, base_sha256: str, base_snapshot_id: str, level: int = 6
    ) -> None:
        if page_size not in PAGE_SIZES or not is_digest(base_sha256) or not is_valid_id(base_snapshot_id):
            raise ValueError("no delta has this page size, digest or snapshot id")
        self._file = file
        self._page_size = page_size
        self._level = level
        self._size = 0
        self._digest = hashlib.sha256()
        self._numbers = array("I")
        self._frames: list[bytes] = []
        self._flags = bytearray()
        self._contents: list[bytes] = []
        self._most_records = _records_of_frame(page_size)
        header = canonical_bytes({"baseSha256": base_sha256, "baseSnapshotId": base_snapshot_id, "pageSize": page_size})
        self._write(_HEAD.pack(MAGIC, len(header)) + header)

    @property
    def size(self) -> int:
        """The bytes that were written, without the frame that is being collected."""
        return self._size

    def add(self, number: int, content: bytes, base: bytes | None) -> None:
        """Add the page ``number``, from 1; ``base`` is that page of the base. A later record of a page wins."""
        if len(content) != self._page_size or not 0 < number <= _MOST_PAGES:
            raise ValueError(f"page {number} of {len(content)} bytes")
        flag = _RAW
        if base is not None:
            difference = int.from_bytes(content, "little") ^ int.from_bytes(base, "little")
            # A page with other content compresses better as it is. An eighth of the bits: a quarter of the bytes.
            if difference.bit_count() < self._page_size:
                flag, content = _XOR, difference.to_bytes(self._page_size, "little")
        self._numbers.append(number)
        self._flags.append(flag)
        self._contents.append(content)
        if len(self._flags) == self._most_records:
            self._end_frame()

    def finish(self, *, pages: int, sha256: str | None) -> WrittenDelta:
        """Write the index, and flush the buffer of ``file`` to the system, not to the disk.

        ``pages`` and ``sha256`` are of the result; the digest is None when it is not known yet.
        """
        if not 0 <= pages <= _MOST_PAGES or not (sha256 is None or is_digest(sha256)):
            raise ValueError("no database has this number of pages or digest")
        if self._flags:
            self._end_frame()
        self._write(_big_endian(self._numbers))
        self._write(b"".join(self._frames))
        result = bytes.fromhex(sha256) if sha256 is not None else bytes(_DIGEST_BYTES)
        self._write(_TAIL.pack(pages, len(self._numbers), len(self._frames), result))
        self._write(self._digest.digest())
        self._file.flush()
        return WrittenDelta(size=self._size, sha256=self._digest.hexdigest(), pages_stored=len(self._numbers))

    def _end_frame(self) -> None:
        pages = b"".join(self._contents)
        data = zlib.compress(self._flags + pages, self._level if _compresses(pages) else 0)
        self._write(data)
        self._frames.append(_FRAME.pack(len(data), len(self._flags), hashlib.sha256(data).digest()))
        self._flags.clear()
        self._contents.clear()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


class Delta:
    """A delta file that is open for reading; a context manager.

    ``page_size`` (bytes), ``base_sha256`` and ``base_snapshot_id`` are of the base. ``pages`` and ``result_sha256``
    (None when it was not known) are of the database that base and delta are together. ``size`` (bytes) and ``sha256``
    are of the delta file.
    """

    page_size: int
    pages: int
    base_sha256: str
    base_snapshot_id: str
    result_sha256: str | None

    def __init__(self, fd: int, path: Path) -> None:
        """Read and check the index of the delta that ``fd`` is open for. Raises DamagedDelta, OSError."""
        self._fd = fd
        self._path = path
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        with with_path(path):
            self.size = os.fstat(fd).st_size
        self._read_header()
        self._read_index()

    @classmethod
    def open(cls, path: Path, count: Callable[[int], None] | None = None) -> Delta:
        """Open the delta at ``path``; links are not followed. ``count`` is called with the bytes of each read.

        Raises DamagedDelta when the file is no delta, or not as it was written; StageFailed, OSError.
        """
        fd = open_regular(path)
        try:
            delta = cls(fd, path)
            delta._require_whole(count)
            return delta
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Delta:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __contains__(self, number: int) -> bool:
        return self._record_of(number) is not None

    def numbers(self, first: int = 1, last: int = _MOST_PAGES) -> Iterator[int]:
        """Yield the numbers of the pages that the delta has, each once, in order, from ``first`` to ``last``."""
        start, end = bisect.bisect_left(self._ordered, first), bisect.bisect_right(self._ordered, last)
        ordered = (self._ordered[position] for position in range(start, end))
        if not self._later:
            yield from ordered
            return
        before = 0
        for number in heapq.merge(ordered, (n for n in self._later_numbers if first <= n <= last)):
            if number != before:
                yield number
            before = number

    def page(self, number: int, base: bytes | None) -> bytes:
        """Return a page that the delta has; ``base`` is that page of the base, None behind its end.

        Raises DamagedDelta, OSError; KeyError for a page that the delta does not have.
        """
        record = self._record_of(number)
        if record is None:
            raise KeyError(number)
        frame = bisect.bisect_right(self._first_records, record) - 1
        payload, count = self._decoded(frame), self._counts[frame]
        place = record - self._first_records[frame]
        start = count + place * self.page_size
        content = payload[start : start + self.page_size]
        if payload[place] == _RAW:
            return content
        if base is None or len(base) != self.page_size:
            raise self._damaged(f"page {number} needs a page that its base does not have")
        mixed = int.from_bytes(content, "little") ^ int.from_bytes(base, "little")
        return mixed.to_bytes(self.page_size, "little")

    def check(self) -> None:
        """Decode every frame. Raises DamagedDelta, OSError."""
        for frame in range(len(self._counts)):
            self._decoded(frame)

    def _read_header(self) -> None:
        head = self._read(0, min(self.size, _HEAD.size))
        if len(head) < _HEAD.size or head[: len(MAGIC)] != MAGIC:
            raise self._damaged("it is no delta")
        length = _HEAD.unpack(head)[1]
        if length > _MOST_HEADER or _HEAD.size + length > self.size:
            raise self._damaged("its header is too long")
        self._body = _HEAD.size + length
        try:
            header = parse_object(self._read(_HEAD.size, length), "its header")
        except InvalidDocument as error:
            raise self._damaged(str(error)) from error
        page_size, base, snapshot = (header.get(name) for name in ("pageSize", "baseSha256", "baseSnapshotId"))
        if type(page_size) is not int or page_size not in PAGE_SIZES:
            raise self._damaged("its header has no valid page size")
        if not is_digest(base) or not isinstance(snapshot, str) or not is_valid_id(snapshot):
            raise self._damaged("its header names no base")
        self.page_size, self.base_sha256, self.base_snapshot_id = page_size, str(base), snapshot

    def _read_index(self) -> None:
        end = self.size - _DIGEST_BYTES - _TAIL.size
        if end < self._body:
            raise self._damaged("it was cut")
        self.pages, records, frames, result = _TAIL.unpack(self._read(end, _TAIL.size))
        start = end - 4 * records - _FRAME.size * frames
        if self.pages > _MOST_PAGES or start < self._body or records > frames * _MOST_RECORDS:
            raise self._damaged("its index has invalid numbers")
        self.result_sha256 = result.hex() if any(result) else None
        self._read_frames(end - _FRAME.size * frames, frames)
        if self._offsets[-1] != start or self._first_records[-1] != records:
            raise self._damaged("its index does not agree with its size")
        self._order(_from_big_endian(self._read(start, 4 * records)))

    def _read_frames(self, start: int, frames: int) -> None:
        most = _records_of_frame(self.page_size)
        self._offsets, self._first_records = array("Q", [self._body]), array("Q", [0])
        self._counts, self._digests = array("I"), self._read(start, _FRAME.size * frames)
        for size, count, _ in _FRAME.iter_unpack(self._digests):
            if not 0 < count <= most:
                raise self._damaged("its index has a frame of invalid size")
            self._counts.append(count)
            self._offsets.append(self._offsets[-1] + size)
            self._first_records.append(self._first_records[-1] + count)

    def _order(self, numbers: array[int]) -> None:
        """Split the records: those in ascending order, which are searched, and the later ones, which win."""
        before, length = 0, len(numbers)
        for position, number in enumerate(numbers):
            if number <= before:
                length = position
                break
            before = number
        self._ordered = numbers[:length]
        self._later = {number: position for position, number in enumerate(numbers[length:], length)}
        self._later_numbers = sorted(self._later)
        if self._later_numbers[:1] == [0]:
            raise self._damaged("its index has page 0")

    def _require_whole(self, count: Callable[[int], None] | None) -> None:
        digest, end = hashlib.sha256(), self.size - _DIGEST_BYTES
        for offset in range(0, end, _STEP_BYTES):
            data = self._read(offset, min(_STEP_BYTES, end - offset))
            digest.update(data)
            if count is not None:
                count(len(data))
        trailer = self._read(end, _DIGEST_BYTES)
        if count is not None:
            count(len(trailer))
        if digest.digest() != trailer:
            raise self._damaged("its bytes do not have the digest at its end")
        digest.update(trailer)
        self.sha256 = digest.hexdigest()

    def _record_of(self, number: int) -> int | None:
        later = self._later.get(number)
        if later is not None:
            return later
        position = bisect.bisect_left(self._ordered, number)
        return position if position < len(self._ordered) and self._ordered[position] == number else None

    def _decoded(self, frame: int) -> bytes:
        payload = self._frames.get(frame)
        if payload is not None:
            self._frames.move_to_end(frame)
            return payload
        size, count, digest = _FRAME.unpack_from(self._digests, frame * _FRAME.size)
        data = self._read(self._offsets[frame], size)
        if hashlib.sha256(data).digest() != digest:
            raise self._damaged(f"frame {frame} was altered")
        expected = count * (1 + self.page_size)
        decoder = zlib.decompressobj()
        try:
            payload = decoder.decompress(data, expected + 1)
        except zlib.error as error:
            raise self._damaged(f"frame {frame} cannot be decoded") from error
        if len(payload) != expected or not decoder.eof or decoder.unused_data:
            raise self._damaged(f"frame {frame} has another size than its index says")
        if payload[:count].strip(b"\x00\x01"):
            raise self._damaged(f"frame {frame} has an unknown kind of record")
        self._frames[frame] = payload
        if len(self._frames) * _FRAME_BYTES > _CACHED_BYTES:
            self._frames.popitem(last=False)
        return payload

    def _read(self, offset: int, size: int) -> bytes:
        with with_path(self._path):
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                part = os.pread(self._fd, size - len(data), offset + len(data))
                if not part:
                    raise self._damaged("it was cut")
                data += part
        return data

    def _damaged(self, reason: str) -> DamagedDelta:
        return DamagedDelta(f"{self._path} is damaged: {reason}.")


def _records_of_frame(page_size: int) -> int:
    return min(_MOST_RECORDS, _FRAME_BYTES // page_size)


def _compresses(pages: bytes) -> bool:
    """Return whether it is worth the time to compress ``pages``, by a sample of them: random bytes take much time."""
    start = max(len(pages) - _SAMPLE_BYTES, 0) // 2
    sample = pages[start : start + _SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < len(sample) * 15 // 16


def _big_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "little":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _from_big_endian(data: bytes) -> array[int]:
    numbers = array("I", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
