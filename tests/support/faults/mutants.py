"""Safeguards taken out on purpose, one at a time, in the process of one stage: what the proofs must find.

A flush is named by where it is asked for, innermost first: ``write_atomic < write_journal < _write``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from release_tasks.assets import base
from release_tasks.assets.sqlite import database as sqlite
from release_tasks.assets.sqlite import kind
from release_tasks.core import durable
from release_tasks.stages.rollback import engine, swap
from tests.support.faults.tracing import MARK

__all__ = ["SAFEGUARDS", "Flushes", "apply_mutant"]

_FLUSH = "flush: "


class Flushes:
    """Stands in for ``os.fsync`` and ``syncfs``; notes who flushes, and leaves one out."""

    def __init__(self, left_out: str | None = None) -> None:
        self.seen: list[str] = []
        self.left_out = left_out
        self._fsync, self._syncfs = os.fsync, durable._flush_filesystem

    def install(self) -> None:
        """Take the place of both in this process."""
        os.fsync = self.fsync  # type: ignore[assignment]
        durable._flush_filesystem = self.flush_filesystem

    def fsync(self, descriptor: int) -> None:
        """Flush a file or folder, unless this is the place where it is left out."""
        if not self._is_left_out():
            self._fsync(descriptor)

    def flush_filesystem(self, path: Path) -> bool:
        """Flush a whole filesystem, unless this is the place where it is left out."""
        return self._is_left_out() or self._syncfs(path)

    def _is_left_out(self) -> bool:
        site = _site(sys._getframe(2))
        self.seen.append(site)
        if site != self.left_out:
            return False
        os.access(MARK, os.F_OK)  # shows in a trace where it would have been
        return True


def apply_mutant(name: str | None) -> Flushes:
    """Take the safeguard ``name`` out of this process (None: none); returns the record of its flushes."""
    flushes = Flushes(name.removeprefix(_FLUSH) if name and name.startswith(_FLUSH) else None)
    flushes.install()
    if name is not None and flushes.left_out is None:
        SAFEGUARDS[name]()
    return flushes


def _site(frame: Any) -> str:
    """Name the functions of the package that led here, up to the second one outside the durable writes."""
    names: list[str] = []
    outside = 0
    while frame is not None and outside < 2:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("release_tasks."):
            names.append(frame.f_code.co_name)
            outside += module != durable.__name__
        elif names and module == "harness.stages":
            break
        frame = frame.f_back
    return " < ".join(names)


def _without_journal() -> None:
    def pretend(_: Any, journal: Any) -> Any:
        return journal

    engine.write_journal = pretend  # type: ignore[assignment]
    swap.write_journal = pretend  # type: ignore[assignment]


def _without_inode_check() -> None:
    def exchange_blindly(live: Path, staged: Path, wanted: Any) -> bool:
        if wanted is None:
            os.rename(live, staged)
        elif not os.path.lexists(live):
            os.rename(staged, live)
        else:
            durable.exchange(live, staged)
        durable.fsync_directory(live.parent)
        return True

    base.rename_into_place = exchange_blindly


def _without_setting_side_files_aside() -> None:
    kind._set_side_files_aside = lambda live, staged: None


def _without_begun_note() -> None:
    note = swap.Swap._note

    def forget(self: Any, step: Any) -> Any:
        return step if step.begun and not step.done else note(self, step)

    swap.Swap._note = forget  # type: ignore[method-assign]


def _without_flushes_of_sqlite() -> None:
    class Careless(apsw.Connection):
        def execute(self, statement: str, *arguments: Any, **named: Any) -> Any:
            if statement.startswith("PRAGMA synchronous = "):
                statement = "PRAGMA synchronous = OFF"
            return super().execute(statement, *arguments, **named)

    apsw.Connection = Careless


def _without_wal_in_the_copy() -> None:
    def copy_the_file_alone(source: Path, destination: Path, *_: Any) -> tuple[str, str]:
        destination.write_bytes(source.read_bytes())
        sqlite._write_canonical_header(destination)
        return "wal", sqlite.sha256_file(destination)

    kind.capture_database = copy_the_file_alone  # type: ignore[assignment]


def _without_undo() -> None:
    swap.Swap.back = lambda self: None  # type: ignore[method-assign]


SAFEGUARDS: dict[str, Callable[[], None]] = {
    "the journal": _without_journal,
    "the look at inodes": _without_inode_check,
    "the note that a database is begun": _without_begun_note,
    "setting a stale WAL aside": _without_setting_side_files_aside,
    "the flushes of SQLite": _without_flushes_of_sqlite,
    "the WAL in a captured copy": _without_wal_in_the_copy,
    "undoing what failed": _without_undo,
}
