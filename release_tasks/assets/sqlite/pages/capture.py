"""Copy a live database by page, in one read transaction: whole, or as the pages that differ from a base.

This thread reads the pages and compares them with the base; two others compute the digest and write. To compare bytes
with the base is faster than to compare digests of pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

from attrs import field, frozen

from release_tasks.assets.sqlite.connection import has_content, require_database, translated_errors
from release_tasks.assets.sqlite.database import Progress, canonical_page, require_sound_pages
from release_tasks.assets.sqlite.journal import require_no_super_journal
from release_tasks.assets.sqlite.pages.engine import Engine, PageConnection
from release_tasks.assets.sqlite.system_calls import one_thread
from release_tasks.assets.waiting import LockWait
from release_tasks.core.place import Place
from release_tasks.core.threads import pool as thread_pool

__all__ = ["LivePages", "PageCopy", "live_pages"]

_BLOCK_BYTES = 1 << 20
_MOST_WAITING = 4  # blocks that one of the other threads has still to take


class PageCopy(Protocol):
    """Where the pages of a capture go."""

    def add(self, first: int, content: bytes, pages: list[bytes]) -> None:
        """Take consecutive pages, from the number ``first`` on, as one text and one by one. Raises OSError."""


@frozen(kw_only=True)
class LivePages:
    """A live database in a read transaction. ``info`` is the result of fstat of its file, ``page_size`` in bytes."""

    info: os.stat_result
    journal_mode: str
    page_size: int
    pages: int
    _connection: PageConnection = field(alias="connection")
    _source: Place = field(alias="source")

    @property
    def size(self) -> int:
        """The bytes of the whole database."""
        return self.pages * self.page_size

    def copy_to(self, copy: PageCopy, progress: Progress | None = None) -> str:
        """Pass all pages to ``copy``, in order, and return the SHA-256 of the database with a canonical header.

        ``progress`` gets (copied bytes, total bytes). Raises StageFailed, OSError.
        """
        digest = hashlib.sha256()
        number = 1
        with thread_pool(1) as digesting, thread_pool(1) as writing, translated_errors(self._source):
            waiting: list[Future[None]] = []
            for pages in self._connection.blocks(max(_BLOCK_BYTES // self.page_size, 1)):
                if number == 1:
                    pages[0] = canonical_page(pages[0])
                content = b"".join(pages)
                waiting.append(digesting.submit(digest.update, content))
                waiting.append(writing.submit(copy.add, number, content, pages))
                while len(waiting) > 2 * _MOST_WAITING:
                    waiting.pop(0).result()
                number += len(pages)
                if progress is not None:
                    progress((number - 1) * self.page_size, self.size)
            for future in waiting:
                future.result()
        return digest.hexdigest()


@contextlib.contextmanager
def live_pages(engine: Engine, source: Place, wait: LockWait) -> Iterator[LivePages]:
    """Read a live database in one transaction, and leave the file and its WAL unchanged.

    Raises DamagedDatabase, Busy when it stays locked during ``wait``, SharedMemoryCut, StageFailed, OSError.
    """
    require_database(source)
    require_no_super_journal(source, wait)
    keeps_wal = has_content(source, "-wal")  # the end of the last connection would fold it in and remove it
    with one_thread(), translated_errors(source, wait=wait), engine.open(source, wait, keeps_wal=keeps_wal) as connect:
        info = source.info()
        connection = connect()
        connection.execute("PRAGMA query_only = 1")
        journal_mode = str(connection.value("PRAGMA journal_mode"))
        connection.begin()
        page_size, pages = (int(connection.value(f"PRAGMA {name}")) for name in ("page_size", "page_count"))
        require_sound_pages(page_size, pages, source)
        yield LivePages(
            info=info,
            journal_mode=journal_mode,
            page_size=page_size,
            pages=pages,
            connection=connection,
            source=source,
        )
