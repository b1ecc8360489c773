"""A restore of a live database by page, as the steps of a rollback see it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import evolve

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import keep_attributes
from release_tasks.assets.sqlite.checks import check_database
from release_tasks.assets.sqlite.connection import require_database
from release_tasks.assets.sqlite.image import stored_image
from release_tasks.assets.sqlite.journal import require_no_super_journal
from release_tasks.assets.sqlite.pages.engine import find_engine, why_missing
from release_tasks.assets.sqlite.pages.restore import OtherPageSize, PageRestore, page_restore
from release_tasks.assets.sqlite.pages.sinks import PlainSink
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.events import Emit, Meter
from release_tasks.core.place import Place
from release_tasks.core.records import AssetRecord, DatabaseRestore, JournalStep

__all__ = ["DatabaseScan", "scanned_database"]


@contextlib.contextmanager
def scanned_database(
    asset: AssetConfig, record: AssetRecord, stored: Path, emit: Emit
) -> Iterator[DatabaseScan | DatabaseRestore]:
    """Open a live database for a restore by page; yield the reason where only a restore as a whole is possible.

    Raises DamagedDatabase when the live database cannot be read, Busy, StageFailed, OSError.
    """
    engine = find_engine()
    if engine is None:
        yield DatabaseRestore(method="whole", exact=False, reason=why_missing())
        return
    wait = LockWait(asset.lock_wait, emit)
    with contextlib.ExitStack() as opened:
        live = opened.enter_context(asset.found())
        require_database(live)
        require_no_super_journal(live, wait)
        image = opened.enter_context(stored_image(stored, record))
        try:
            restore = opened.enter_context(page_restore(engine, live, image, wait))
        except OtherPageSize as error:
            yield DatabaseRestore(method="whole", exact=False, reason=error.message.rstrip("."))
            return
        yield DatabaseScan(asset, live, restore)


class DatabaseScan:
    """The scan of one database, see ``assets.base.Scan``."""

    def __init__(self, asset: AssetConfig, live: Place, restore: PageRestore) -> None:
        self._asset = asset
        self._live = live
        self._restore = restore
        self._sink: PlainSink | None = None
        self._copy: Path | None = None
        self._is_sealed = False

    def capture(self, record: AssetRecord, copy: Path | None, emit: Emit) -> AssetRecord:
        """Compare all pages, copy them to ``copy``, and check the copy."""
        info = self._live.info()
        meter = Meter(emit, "capture", record.key, 0)
        self._copy = copy
        self._sink = PlainSink(copy, self._restore.page_size) if copy is not None else None
        found = self._restore.scan(self._sink, meter.reach)
        unchecked: list[str] = []
        if copy is not None:
            unchecked = check_database(copy, reported_as=self._live.path)
            with copy.open("rb") as file:
                keep_attributes(file.fileno(), info, 0o600, str(copy))
        return evolve(
            record,
            exists=True,
            size=found.pages * self._restore.page_size,
            mode=stat.S_IMODE(info.st_mode),
            sha256=found.sha256,
            content_digest=found.sha256,
            journal_mode=found.journal_mode,
            unchecked=unchecked or None,
        )

    @contextlib.contextmanager
    def lock(self, seconds: float) -> Iterator[DatabaseHold]:
        """Hold the write lock on the database."""
        self._restore.lock(seconds)
        try:
            yield DatabaseHold(self._restore, self._look_again)
        finally:
            self._restore.unlock()

    def seal(self, record: AssetRecord) -> AssetRecord:
        """Look again at what may have changed since ``capture``, and bring the copy up to date."""
        if not self._look_again():
            return record
        if self._copy is None:
            return evolve(record, sha256=None, content_digest=None)
        digest = sha256_file(self._copy)
        return evolve(record, size=os.stat(self._copy).st_size, sha256=digest, content_digest=digest)

    def _look_again(self) -> bool:
        """Look at what may have changed since ``capture``, once; return whether something did."""
        if not self._is_sealed:
            self._restore.look_again(self._sink)
            self._is_sealed = True
        return self._restore.is_changed

    def release(self) -> None:
        """Close the database and the copy."""
        self._restore.release()
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def measured(self) -> DatabaseRestore:
        """Return what the restore cost."""
        restore = self._restore
        return DatabaseRestore(
            method="page",
            exact=True,
            pages_changed=restore.pages_changed,
            lock_ms=restore.lock_ms,
            scan_ms=restore.scan_ms,
        )


class DatabaseHold:
    """The lock on a database whose pages are compared, see ``assets.base.Hold``."""

    def __init__(self, restore: PageRestore, look_again: Callable[[], bool]) -> None:
        self._restore = restore
        self._look_again = look_again

    def write(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the pages that differ."""
        self._look_again()
        self._restore.write(progress)

    def commit(self) -> None:
        """Commit them."""
        self._restore.commit()

    def release(self) -> None:
        """Roll back what is not committed, and close the database."""
        self._restore.release()

    def noted(self, step: JournalStep) -> JournalStep:
        """Return the step with the schema cookies."""
        return evolve(step, cookie=self._restore.cookie, new_cookie=self._restore.new_cookie)
