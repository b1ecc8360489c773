"""Capture a live database by page: whole, or as what differs from a base. Needs ``pages.engine``."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import evolve

from release_tasks.assets.base import Base
from release_tasks.assets.sqlite.checks import check_database
from release_tasks.assets.sqlite.database import Copied, Progress, completed_copy
from release_tasks.assets.sqlite.delta import SUFFIX, DamagedDelta, Delta
from release_tasks.assets.sqlite.pages.capture import LivePages, live_pages
from release_tasks.assets.sqlite.pages.copies import (
    DeltaCopy,
    OpenBase,
    TooDifferent,
    cloned_copy,
    delta_copy,
    open_base,
    plain_copy,
)
from release_tasks.assets.sqlite.pages.engine import Engine
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.place import Place
from release_tasks.core.records import StoredDelta
from release_tasks.core.threads import pool as thread_pool
from release_tasks.core.typed import typed

__all__ = ["capture_pages"]


class _DamagedBase(StageFailed):
    """The bytes of a base are not those of its digest."""


def capture_pages(
    engine: Engine,
    source: Place,
    destination: Path,
    wait: LockWait,
    *,
    base: Base | None = None,
    least: int = 0,
    progress: Progress | None = None,
    checked: Callable[[int], None] | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> Copied:
    """Copy the committed content of a database in use to the new file ``destination``, as ``capture_database`` does.

    With a ``base``, a database of at least ``least`` bytes is stored as what differs from it: as a clone with other
    pages where the filesystem can share blocks, else as a delta in a file with ``SUFFIX`` after the name, else whole.
    ``note`` gets a sentence for the operator when a delta is impossible. Raises the errors of ``capture_database``, and
    SharedMemoryCut.
    """
    try:
        return _captured(engine, source, destination, wait, base, least, progress, checked, note)
    except _DamagedBase as error:
        note(error.message)
        _delta_path(destination).unlink()
        return _captured(engine, source, destination, wait, None, least, progress, checked, note)


def _captured(
    engine: Engine,
    source: Place,
    destination: Path,
    wait: LockWait,
    base: Base | None,
    least: int,
    progress: Progress | None,
    checked: Callable[[int], None] | None,
    note: Callable[[str], object],
) -> Copied:
    written: tuple[StoredDelta, str] | None = None
    with live_pages(engine, source, wait) as live, _usable(base, live, least) as opened:
        sha256 = _clone(live, destination, opened, progress) if opened is not None else None
        if opened is not None and sha256 is None and _is_kept(opened.base, note):
            written = _write_delta(live, _delta_path(destination), opened, progress)
        if written is None and sha256 is None:
            with plain_copy(destination, live.page_size) as plain:
                sha256 = live.copy_to(plain, progress)
    copied = Copied(info=live.info, journal_mode=live.journal_mode, sha256=sha256 or "", unchecked=[], size=live.size)
    if written is None:
        return completed_copy(destination, source, copied, checked)
    assert base is not None
    delta, content = written
    return _verified(_delta_path(destination), source, evolve(copied, delta=delta), base, content, checked)


def _delta_path(destination: Path) -> Path:
    return destination.with_name(destination.name + SUFFIX)


@contextlib.contextmanager
def _usable(base: Base | None, live: LivePages, least: int) -> Iterator[OpenBase | None]:
    """Open the base while the block runs; yield None where a database cannot be stored as what differs from it."""
    with contextlib.ExitStack() as files:
        opened = None
        if base is not None and live.size >= least:
            with contextlib.suppress(StageFailed, OSError):
                opened = files.enter_context(open_base(base))
        yield opened if opened is not None and opened.page_size == live.page_size else None


def _clone(live: LivePages, destination: Path, base: OpenBase, progress: Progress | None) -> str | None:
    """Write a clone of the base with the pages that differ; return its digest, None where blocks cannot be shared."""
    with cloned_copy(destination, base, live.size) as clone:
        return live.copy_to(clone, progress) if clone is not None else None


def _is_kept(base: Base, note: Callable[[str], object]) -> bool:
    try:
        base.keep()
    except OSError as error:
        note(
            f"The copy in snapshot {base.snapshot_id} cannot become the base of a delta: {describe_error(error)} "
            "The database is stored whole."
        )
        return False
    return True


def _write_delta(
    live: LivePages, destination: Path, base: OpenBase, progress: Progress | None
) -> tuple[StoredDelta, str] | None:
    """Write a delta; return it, and the digest of its pages. None, and no file, when it would be too large."""
    delta: DeltaCopy
    try:
        with delta_copy(destination, base) as delta:
            sha256 = live.copy_to(delta, progress)
            written = delta.finish(live.pages, sha256)
    except TooDifferent:
        destination.unlink()
        return None
    stored = StoredDelta(
        base_sha256=base.base.sha256,
        base_snapshot_id=base.base.snapshot_id,
        sha256=written.sha256,
        size=written.size,
    )
    return stored, delta.content_sha256


def _verified(
    destination: Path, source: Place, copied: Copied, base: Base, content: str, checked: Callable[[int], None] | None
) -> Copied:
    """Check a delta as a reader does: its pages, the bytes of its base, and the content of both together."""
    with thread_pool(1) as pool:
        decoded = pool.submit(_verify, destination, base, content)
        unchecked = check_database(destination, reported_as=source.path)
        sha256 = decoded.result()
    if checked is not None:
        checked(copied.size)
    return evolve(copied, sha256=sha256, unchecked=unchecked)


def _verify(destination: Path, base: Base, content: str) -> str:
    """Decode a delta again, and return the digest of the database; raises StageFailed unless all is as it was."""
    if sha256_file(base.path) != base.sha256:
        raise _DamagedBase(
            f"{base.path} was altered since its capture in snapshot {base.snapshot_id}, so the database is stored "
            f"whole. To see what else is affected: {typed('release.verify')}"
        )
    digest = hashlib.sha256()
    with Delta.open(destination) as delta, open_base(base) as opened:
        for number in delta.numbers():
            other = opened.read((number - 1) * opened.page_size, opened.page_size)
            digest.update(delta.page(number, other or None))
        if digest.hexdigest() != content or delta.result_sha256 is None:
            raise DamagedDelta(f"{destination} cannot be decoded again. The disk or the memory may be failing.")
        return delta.result_sha256
