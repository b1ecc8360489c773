"""Safeguards that are removed on purpose, one at a time, in the process of one stage; the fault tests must find each.

A flush is named by its call site, innermost function first: ``write_atomic < write_journal < _write``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import apsw

from release_tasks.assets import base
from release_tasks.assets.base import Move
from release_tasks.assets.placing import staged
from release_tasks.assets.sqlite import kind
from release_tasks.assets.sqlite.database import Copied, write_canonical_header
from release_tasks.core import durable, place
from release_tasks.core.digests import sha256_file
from release_tasks.core.place import Place
from release_tasks.core.records import Inode, JournalStep, RollbackJournal
from release_tasks.stages.rollback import commit, swap
from tests.support.faults import stages
from tests.support.faults.replace import replace
from tests.support.faults.tracing import MARK

__all__ = ["SAFEGUARDS", "Flushes", "apply_mutant"]

_FLUSH = "flush: "


class Flushes:
    """Replaces ``os.fsync`` and ``durable.flush_filesystem``; records the call sites and skips one of them."""

    def __init__(self, skipped: str | None = None) -> None:
        self.seen: list[str] = []
        self.skipped = skipped
        self._fsync, self._syncfs = os.fsync, durable.flush_filesystem

    def install(self) -> None:
        """Replace both functions in this process."""
        replace(os, "fsync", self.fsync)
        replace(durable, "flush_filesystem", self.flush_filesystem)

    def fsync(self, descriptor: int) -> None:
        """Flush a file or folder, unless this call site is skipped."""
        if not self._is_skipped():
            self._fsync(descriptor)

    def flush_filesystem(self, path: Path, dir_fd: int | None = None) -> bool:
        """Flush a whole filesystem, unless this call site is skipped."""
        return self._is_skipped() or self._syncfs(path, dir_fd)

    def _is_skipped(self) -> bool:
        site = _call_site(sys._getframe(2))
        self.seen.append(site)
        if site != self.skipped:
            return False
        os.access(MARK, os.F_OK)  # marks the place in a trace
        return True


def apply_mutant(name: str | None) -> Flushes:
    """Remove the safeguard ``name`` in this process (None: keep all); returns the record of its flushes."""
    flushes = Flushes(name.removeprefix(_FLUSH) if name and name.startswith(_FLUSH) else None)
    flushes.install()
    if name is not None and flushes.skipped is None:
        SAFEGUARDS[name]()
    return flushes


def _call_site(frame: FrameType | None) -> str:
    """Return the functions of the package that led here, up to the second one outside ``core.durable``.

    ``core.place`` only passes the calls on.
    """
    names: list[str] = []
    outside = 0
    while frame is not None and outside < 2:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("release_tasks.") and module != place.__name__:
            names.append(frame.f_code.co_name)
            outside += module != durable.__name__
        elif names and module == stages.__name__:
            break  # an inline executor ran the function; with threads the stack starts here
        frame = frame.f_back
    return " < ".join(names)


def _without_journal() -> None:
    def pretend(_: object, journal: RollbackJournal) -> RollbackJournal:
        return journal

    replace(commit, "write_journal", pretend)
    replace(swap, "write_journal", pretend)


def _without_inode_check() -> None:
    def exchange_blindly(live: Place, rollback_id: str, inode: Inode | None) -> bool:
        copy = staged(live, rollback_id)
        if inode is None:
            live.rename(copy)
        elif not live.exists():
            copy.rename(live)
        else:
            live.exchange(copy)
        live.flush_folder()
        return True

    replace(base, "rename_into_place", exchange_blindly)


def _without_setting_side_files_aside() -> None:
    replace(kind, "set_side_files_aside", lambda live, staged: None)


def _without_begun_note() -> None:
    def move(**fields: Any) -> Move:
        note: Callable[[JournalStep], JournalStep] = fields.pop("note")

        def forget(step: JournalStep) -> JournalStep:
            return step if step.begun and not step.done else note(step)

        return Move(**fields, note=forget)

    replace(swap, "Move", move)


def _without_flushes_of_sqlite() -> None:
    class Unflushed(apsw.Connection):
        def execute(self, statement: str, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]  # any call
            if statement.startswith("PRAGMA synchronous = "):
                statement = "PRAGMA synchronous = OFF"
            return super().execute(statement, *arguments, **named)

    replace(apsw, "Connection", Unflushed)


def _without_wal_in_the_copy() -> None:
    def copy_the_file_alone(source: Place, destination: Path, *_: object) -> Copied:
        destination.write_bytes(source.path.read_bytes())
        write_canonical_header(destination)
        return Copied(
            info=source.info(),
            journal_mode="wal",
            sha256=sha256_file(destination),
            unchecked=[],
            size=destination.stat().st_size,
        )

    replace(kind, "capture_database", copy_the_file_alone)


def _without_undo() -> None:
    replace(swap.Swap, "back", lambda self: None)


SAFEGUARDS: dict[str, Callable[[], None]] = {
    "the journal": _without_journal,
    "the check of inodes": _without_inode_check,
    "the note that a database is begun": _without_begun_note,
    "setting a stale WAL aside": _without_setting_side_files_aside,
    "the flushes of SQLite": _without_flushes_of_sqlite,
    "the WAL in a captured copy": _without_wal_in_the_copy,
    "undoing what failed": _without_undo,
}
