"""The state that every program copies: a database in WAL mode, small files, configs, and how they change."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

__all__ = ["CONFIGS", "State"]

CONFIGS = 6
ROW = 900  # random bytes of a row, so that neither compression nor equal rows make a program faster
ROW_ON_DISK = 1000


class State:
    """The live state in ``folder``/live, about ``size`` bytes in its database, and the project that names it."""

    def __init__(self, folder: Path, size: int, files: int) -> None:
        self.folder = folder
        self.live = folder / "live"
        self.database = self.live / "app.db"
        self.first = folder / "first.db"  # a copy of the database to begin each round from
        self.other = folder / "other.db"  # a database of the same size in which every row differs
        self.rows = size // ROW_ON_DISK
        self.random = random.Random(16)
        (self.live / "identity").mkdir(parents=True)
        self._write_database(self.first)
        for number in range(files):
            parent = self.live / "identity" / f"{number % 40:02d}"
            parent.mkdir(exist_ok=True)
            (parent / f"{number}.json").write_bytes(self.random.randbytes(self.random.randint(200, 8000)))
        for number in range(CONFIGS):
            (self.live / f"config-{number}.json").write_text(json.dumps({"n": number}))
        self._write_project()
        self.reset()

    def reset(self) -> None:
        """Put the first database in place; no process may have it open."""
        self._replace(self.first)

    def change_all(self) -> None:
        """Put a database in place in which every row differs; no process may have it open."""
        if not self.other.exists():
            self._write_database(self.other)
        self._replace(self.other)

    def change_random(self, percent: float) -> None:
        """Change this share of the rows, anywhere in the database."""
        self._change(self.random.sample(range(1, self.rows + 1), round(self.rows * percent / 100)))

    def change_clustered(self, percent: float) -> None:
        """Change this share of the rows, one after the other."""
        count = round(self.rows * percent / 100)
        start = self.random.randint(1, self.rows - count)
        self._change(range(start, start + count))

    def _change(self, rows: Iterable[int]) -> None:
        with closing(sqlite3.connect(self.database)) as database:
            database.executemany("UPDATE t SET n = n + 1 WHERE id = ?", ((row,) for row in rows))
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _replace(self, source: Path) -> None:
        for suffix in ("-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(source, self.database)

    def _write_database(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL").fetchall()
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, body BLOB)")
            database.execute("CREATE TABLE commits(id INTEGER PRIMARY KEY, body BLOB)")
            for start in range(0, self.rows, 50_000):
                count = min(50_000, self.rows - start)
                database.execute("BEGIN")
                database.executemany("INSERT INTO t(n, body) VALUES (0, ?)", ((os.urandom(ROW),) for _ in range(count)))
                database.execute("COMMIT")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _write_project(self) -> None:
        assets = {"database": {"sqlite": "live/app.db"}, "identity": {"directory": "live/identity"}}
        assets |= {f"config-{number}": {"file": f"live/config-{number}.json"} for number in range(CONFIGS)}
        release = {
            "root": "pipeline",
            "app": {"name": "bench", "version": "1"},
            "gates": {"build": {"command": "true"}},
            "assets": assets,
            "retention": 5,
        }
        (self.folder / "invoke.yaml").write_text(json.dumps({"release": release}))
        (self.folder / "tasks.py").write_text("from release_tasks import ns\n")
