"""Threads that open and close databases at the same time never wait for each other for ever."""

from __future__ import annotations

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
