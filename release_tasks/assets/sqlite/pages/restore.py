"""Restore a live database by page: write only the pages that differ, in one write transaction.

In WAL mode the comparison runs in a read transaction, before the lock is held. That transaction pins the log, so the
frames of the log name every page that was written since: only those are looked at again under the lock. In
rollback-journal mode the comparison runs under the RESERVED lock, so no page changes after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import apsw
from attrs import frozen

from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.connection import SharedMemoryCut, translated_errors
from release_tasks.assets.sqlite.database import PAGES_A_STEP, Progress, canonical_page, require_sound_pages
from release_tasks.assets.sqlite.pages.engine import Engine, PageConnection
from release_tasks.assets.sqlite.pages.wal import pages_in_wal
from release_tasks.assets.waiting import LockWait
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import Place
from release_tasks.core.threads import pool

__all__ = ["Image", "OtherPageSize", "PageRestore", "PageSink", "page_restore"]

_LOCK_BYTE = 0x40000000  # os.h, PENDING_BYTE: the page with this byte is never used
_SCAN_BYTES = 1 << 20
_CHECKPOINT_MS = 50
_COOKIE_GAP = 1 << 16  # more changes of the schema than a service makes between a crash and the recovery
_CHANGE_COUNTER = slice(24, 28)  # of page 1
_TAG = 8  # bytes of the digest of a page of the image


class Image(Protocol):
    """The content to restore, see ``image.StoredImage``."""

    page_size: int
    pages: int

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the database."""


class PageSink(Protocol):
    """Where the pages of the live database go that the safety copy needs."""

    def scanned(self, first: int, content: bytes, differing: list[int]) -> None:
        """Take consecutive pages from the number ``first`` on; ``differing`` are those that the restore changes."""

    def changed(self, number: int, content: bytes) -> None:
        """Take the newer content of a page that was scanned, or of a page behind the scanned ones."""

    def cut(self, pages: int) -> None:
        """Take the final number of pages of the database."""

    def flush(self) -> None:
        """Bring what was taken to the disk."""


class OtherPageSize(StageFailed):
    """The live database has another page size than the image, or reserves another number of bytes in each page."""


@frozen(kw_only=True)
class Scanned:
    """The live database as one read transaction saw it: pages, and the SHA-256 of its bytes with a canonical header."""

    pages: int
    sha256: str
    journal_mode: str


@contextlib.contextmanager
def page_restore(engine: Engine, live: Place, image: Image, wait: LockWait) -> Iterator[PageRestore]:
    """Open a live database for a restore from ``image``; what the block has not committed is rolled back.

    Raises OtherPageSize when only a restore as a whole is possible, DamagedDatabase when the database cannot be read,
    Busy when it stays locked during ``wait``, StageFailed, OSError.
    """
    with contextlib.ExitStack() as resources:
        with translated_errors(live, wait=wait):
            connect = resources.enter_context(engine.open(live, wait))
            restore = PageRestore(live, image, connect, wait, resources)
        yield restore


class PageRestore:
    """The steps of a restore by page: ``scan``, ``lock``, ``look_again``, ``write``, ``commit``.

    ``pages_changed`` is the number of pages that the restore writes or cuts off, ``lock_ms`` the time in which other
    processes could not write. ``cookie`` is the schema cookie before the restore, and ``new_cookie`` after it: a value
    that the database cannot reach in another way, so that a recovery can tell whether the restore was committed.
    """

    def __init__(
        self,
        live: Place,
        image: Image,
        connect: Callable[[], PageConnection],
        wait: LockWait,
        resources: contextlib.ExitStack,
    ) -> None:
        self._live = live
        self._image = image
        self._wait = wait
        self._resources = resources
        self._writer = writer = connect()
        size = int(writer.value("PRAGMA page_size"))
        self.journal_mode = str(writer.value("PRAGMA journal_mode"))
        self._is_wal = self.journal_mode == "wal"
        self._reader = connect() if self._is_wal else writer
        header = image.read(0, 100)
        if size != image.page_size or len(header) < 100 or not image.pages:
            raise OtherPageSize(f"{live.path} has another page size than its copy in the snapshot.")
        self.page_size = self._size = size
        self._lock_page = _LOCK_BYTE // size + 1
        self._key = secrets.token_bytes(16)
        self._tags: dict[int, bytes] = {}  # the pages of the image that differ from the live ones
        self._scanned_pages = self.live_pages = 0
        self.is_changed = False  # since the scan
        self.cookie = self.new_cookie = 0
        self._counter = b""
        self._locked_at = 0.0
        self._was_unlocked = self._is_closed = False
        self.lock_ms = self.scan_ms = 0

    @property
    def pages_changed(self) -> int:
        """The number of pages that differ: those to write, and those to cut off."""
        return len(self._tags) + max(self.live_pages - self._image.pages, 0)

    @property
    def differing(self) -> list[int]:
        """The numbers of the pages that differ and that the image has."""
        return sorted(self._tags)

    def scan(self, sink: PageSink | None, progress: Progress | None = None) -> Scanned:
        """Compare all pages with the image, and pass them to ``sink``. Raises StageFailed, OSError."""
        started = time.perf_counter()
        with translated_errors(self._live, wait=self._wait), pool(1) as digests:
            self._begin_reading()
            digest, digested = hashlib.sha256(), None
            number, total = 1, int(self._reader.value("PRAGMA page_count"))
            require_sound_pages(self._size, total, self._live)
            for pages in self._reader.blocks(max(_SCAN_BYTES // self._size, 1)):
                content = self._taken(number, pages, sink)
                if digested is not None:
                    digested.result()
                digested = digests.submit(digest.update, content)
                number += len(pages)
                if progress is not None:
                    progress((number - 1) * self._size, total * self._size)
            if digested is not None:
                digested.result()
        self._scanned_pages = self.live_pages = number - 1
        self._tags |= {
            number: self._tag(content)
            for number, content in self._image_pages(range(self._scanned_pages + 1, self._image.pages + 1))
        }
        self.scan_ms = _milliseconds(started)
        return Scanned(pages=self._scanned_pages, sha256=digest.hexdigest(), journal_mode=self.journal_mode)

    def _begin_reading(self) -> None:
        # EXTRA: with FULL the removal of a rollback journal, which is the commit, may not survive a power cut.
        self._writer.execute("PRAGMA synchronous = EXTRA")
        if self._is_wal:
            self._writer.execute("PRAGMA wal_autocheckpoint = 0")
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._reader.begin()
            self._reader.page(1)
        else:
            self._writer.begin("IMMEDIATE")
            # Then the end of the transaction keeps the lock, and ``lock`` raises it to EXCLUSIVE. Not before: a try
            # that finds the database locked would keep SHARED, and the writer would wait for that.
            self._writer.execute("PRAGMA locking_mode = EXCLUSIVE")

    def _taken(self, first: int, pages: list[bytes], sink: PageSink | None) -> bytes:
        """Compare consecutive pages with the image, and return their content."""
        if first == 1:
            self._require_same_reserve(pages[0])
            self._counter = pages[0][_CHANGE_COUNTER]
            pages[0] = canonical_page(pages[0])
        content = b"".join(pages)
        expected = self._image.read((first - 1) * self._size, len(content))
        differing = []
        if content != expected:
            for index, page in enumerate(pages):
                other = expected[index * self._size : (index + 1) * self._size]
                number = first + index
                if page != other and number != self._lock_page:
                    differing.append(number)
                    if other:
                        self._tags[number] = self._tag(other)
        if sink is not None:
            sink.scanned(first, content, differing)
        return content

    def _require_same_reserve(self, page: bytes) -> None:
        if page[20] != self._image.read(20, 1)[0]:
            raise OtherPageSize(f"{self._live.path} reserves other bytes in its pages than its copy in the snapshot.")

    def lock(self, seconds: float) -> None:
        """Take the write lock, in rollback-journal mode against readers too; raises Busy after ``seconds``."""
        usual, self._wait.seconds = self._wait.seconds, seconds
        try:
            with translated_errors(self._live, wait=self._wait):
                if not self._is_wal and not self._was_unlocked:
                    self._writer.execute("ROLLBACK")  # keeps RESERVED
                self._locked_at = time.perf_counter()
                self._writer.begin("IMMEDIATE" if self._is_wal else "EXCLUSIVE")
        except Busy:
            self.unlock()
            raise
        finally:
            self._wait.seconds = usual

    def unlock(self) -> None:
        """Give the lock back, for another try; without a lock it does nothing."""
        if not self._locked_at or self._is_closed:
            return
        self._locked_at, self._was_unlocked = 0.0, True
        with contextlib.suppress(apsw.Error):
            self._writer.execute("ROLLBACK")
        with translated_errors(self._live, wait=self._wait):
            if not self._is_wal:  # the next statement gives the lock back
                self._writer.execute("PRAGMA locking_mode = NORMAL")
                self._writer.page(1)

    def look_again(self, sink: PageSink | None) -> bool:
        """Look at the pages that may have changed since the scan; return whether the database changed.

        The lock is held. Raises StageFailed, OSError.
        """
        with translated_errors(self._live):
            self.live_pages = int(self._writer.value("PRAGMA page_count"))
            numbers = self._possibly_changed()
            numbers |= set(range(self._scanned_pages + 1, self.live_pages + 1))
            for number in sorted(numbers):
                if number != self._lock_page and number <= self.live_pages:
                    self._look_again_at(number, sink)
            self.is_changed |= self.live_pages != self._scanned_pages
            if self._is_wal:
                self._reader.execute("ROLLBACK")
        for number in range(self.live_pages + 1, min(self._scanned_pages, self._image.pages) + 1):
            self._tags[number] = self._tag(self._image_page(number))
        if sink is not None and self.is_changed:
            sink.cut(self.live_pages)
            sink.flush()
        return self.is_changed

    def _possibly_changed(self) -> set[int]:
        if self._is_wal:
            return pages_in_wal(self._live)
        # Without the RESERVED lock, another process may have committed: the counter in the header says so.
        is_same = self._writer.page(1)[_CHANGE_COUNTER] == self._counter
        return set() if is_same else set(range(1, self.live_pages + 1))

    def _look_again_at(self, number: int, sink: PageSink | None) -> None:
        content = self._writer.page(number)
        if self._is_wal and number <= self._scanned_pages and content == self._reader.page(number):
            return
        self.is_changed = True
        content = canonical_page(content) if number == 1 else content
        if sink is not None:
            sink.changed(number, content)
        expected = self._image_page(number) if number <= self._image.pages else None
        if expected is None or content == expected:
            self._tags.pop(number, None)
        else:
            self._tags[number] = self._tag(expected)

    def write(self, progress: Progress | None = None) -> None:
        """Write the pages without a commit; a full disk shows here. Raises StageFailed, OSError."""
        with translated_errors(self._live):
            first = self._writer.page(1)
            self.cookie = int.from_bytes(first[40:44], "big")
            self.new_cookie = (self.cookie + _COOKIE_GAP + secrets.randbits(31)) % (1 << 32)
            self._writer.write(self._new_pages(first, progress))
            signed = self.new_cookie - (1 << 32) * (self.new_cookie >> 31)
            self._writer.execute(f"PRAGMA schema_version = {signed}")
            self._writer.flush_cache()

    def _new_pages(self, first: bytes, progress: Progress | None) -> Iterator[tuple[int, bytes | None]]:
        numbers = sorted(self._tags.keys() - {1, self._lock_page})
        for done, (number, content) in enumerate(self._image_pages(numbers)):
            if self._tag(content) != self._tags[number]:
                raise StageFailed(f"The copy of {self._live.path} in the snapshot changed after it was compared.")
            yield number, content
            if progress is not None and done % PAGES_A_STEP == 0:
                progress(done * self._size, len(numbers) * self._size)
        yield 1, self._first_page(first)
        if self.live_pages > self._image.pages:
            yield self._image.pages + 1, None

    def _first_page(self, live: bytes) -> bytes:
        """Return page 1 of the image with the fields of the live file that SQLite itself keeps."""
        content = self._image_page(1)
        if 1 in self._tags and self._tag(content) != self._tags[1]:
            raise StageFailed(f"The copy of {self._live.path} in the snapshot changed after it was compared.")
        page = bytearray(content)
        for start, end in ((18, 20), (24, 28), (40, 44), (92, 100)):
            page[start:end] = live[start:end]
        page[28:32] = self._image.pages.to_bytes(4, "big")
        return bytes(page)

    def commit(self) -> None:
        """Commit the new content, let the log be folded in, and close the database. Raises StageFailed, OSError."""
        with translated_errors(self._live), self._resources:
            self._is_closed = True
            self._writer.execute("COMMIT")
            self.lock_ms = _milliseconds(self._locked_at)
            # The content is committed: what follows only frees the disk space of the log. TRUNCATE alone would keep
            # writers waiting while it copies the log.
            with contextlib.suppress(apsw.Error):
                if self._is_wal:
                    self._writer.skip_schema()
                    self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    self._writer.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_MS}")
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def release(self) -> None:
        """Roll back what is not committed, and close the database; may be repeated."""
        self._is_closed = True
        with contextlib.suppress(SharedMemoryCut):
            self._resources.close()

    def _tag(self, content: bytes) -> bytes:
        """Return a digest that shows whether the image changes between the comparison and the restore."""
        return hashlib.sha256(self._key + content).digest()[:_TAG]

    def _image_page(self, number: int) -> bytes:
        return self._image.read((number - 1) * self._size, self._size)

    def _image_pages(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        return ((number, self._image_page(number)) for number in numbers if number != self._lock_page)


def _milliseconds(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
