"""Threads that open and close databases at the same time never wait for each other for ever."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.database import capture_database
from release_tasks.core.place import found

ROUNDS = 60


@pytest.mark.timeout(60)
def test_threads_capture_databases_at_the_same_time(tmp_path: Path) -> None:
    """SQLite opens side files while it holds a lock of its own, and a close holds the lock of Python."""
    for name in ("a", "b"):
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE t(x)")
        database.close()

    def capture(name: str) -> int:
        for number in range(ROUNDS):
            with found(tmp_path / f"{name}.db") as live:
                capture_database(live, tmp_path / f"{name}{number}.copy")
        return ROUNDS

    work: Callable[[str], int] = capture
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, ("a", "b"))) == [ROUNDS, ROUNDS]


@pytest.mark.parametrize("failing", range(6))
def test_a_failing_look_at_proc_during_a_capture_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The path through the descriptor depends on /proc, and the disk error of one look is gone at the next."""
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE t(x)")
    database.close()
    real, looks = os.path.isdir, iter(range(1000))

    def isdir(path: str) -> bool:
        return real(path) and (path != "/proc/self/fd" or next(looks) != failing)

    monkeypatch.setattr(os.path, "isdir", isdir)
    with found(tmp_path / "a.db") as live:
        capture_database(live, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").exists()
