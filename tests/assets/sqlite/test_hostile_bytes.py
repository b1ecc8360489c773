"""Random bytes anywhere in a database, its WAL or its journal: every reader ends, with a result or a sentence.

A seeded sample; with EVERY_CALL in the environment many more cases.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.assets.sqlite import reader
from release_tasks.assets.sqlite.checks import check_database, count_rows
from release_tasks.assets.sqlite.comparison import compare_databases
from release_tasks.assets.sqlite.database import capture_database, examine_database, is_usable
from release_tasks.assets.sqlite.restore import restore_database
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from tests.support.hostile import crash_in_a_transaction

CASES = 150 if "EVERY_CALL" in os.environ else 4

_CRASH_WITH_WAL = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = wal")
database.execute("UPDATE accounts SET balance = balance + 7")
os._exit(0)
"""


def fill(database: Path) -> None:
    """Make a small database with the parts that SQLite reads in different ways."""
    service = sqlite3.connect(database)
    service.executescript(
        """
        PRAGMA page_size = 1024;
        CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance, name TEXT NOT NULL, twice AS (balance * 2));
        CREATE INDEX by_name ON accounts(name, balance);
        CREATE TABLE words(word TEXT PRIMARY KEY, size CHECK (size > 0)) WITHOUT ROWID;
        CREATE VIRTUAL TABLE notes USING fts5(body);
        CREATE VIEW rich AS SELECT name FROM accounts WHERE balance > 100;
        CREATE TRIGGER grow AFTER INSERT ON accounts BEGIN INSERT INTO notes VALUES (new.name); END;
        """
    )
    service.executemany("INSERT INTO accounts(balance, name) VALUES (?, ?)", [(n, f"name {n}" * 9) for n in range(90)])
    service.executemany("INSERT INTO words VALUES (?, ?)", [(f"word{n}", n + 1) for n in range(200)])
    service.execute("INSERT INTO accounts(balance, name) VALUES (1, ?)", ("long" * 2000,))
    service.commit()
    service.close()


def at_rest(database: Path) -> None:
    pass


def with_wal(database: Path) -> None:
    subprocess.run([sys.executable, "-c", _CRASH_WITH_WAL, str(database)], check=True, timeout=60)


STATES: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (at_rest, ""),
    "pages": (at_rest, ""),
    "WAL": (with_wal, "-wal"),
    "shared memory": (with_wal, "-shm"),
    "journal": (crash_in_a_transaction, "-journal"),
}


def changed(data: bytes, part: str, chooser: random.Random) -> bytes:
    """Return ``data`` with other bytes at a few places, or cut, or longer."""
    result = bytearray(data)
    for _ in range(chooser.choice([1, 1, 2, 8])):
        # Most of a page is text; the numbers that matter stand at its start.
        start = chooser.randrange(100) if part == "header" else chooser.randrange(len(data) // 1024) * 1024
        start += 0 if part == "header" else chooser.randrange(chooser.choice([12, 100, 1024]))
        value = chooser.choice([b"\xff", b"\0", b"\x7f\xff\xff\xff", b"\x05", b"\x80\x00", chooser.randbytes(4)])
        result[start : start + len(value)] = value
    if chooser.random() < 0.1:
        del result[chooser.randrange(1, len(result)) :]
    return bytes(result)


@pytest.mark.slow
@pytest.mark.parametrize("part", STATES)
def test_every_reader_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Capture, look, check, counts, comparison and restore give a result or an error of a stage, in bounded time."""
    monkeypatch.setattr(reader, "_BASE_SECONDS", 3)
    whole, act = tmp_path / "whole", STATES[part]
    whole.mkdir()
    fill(whole / "app.db")
    sound = tmp_path / "sound.db"
    capture_database(trusted(whole / "app.db"), sound)
    act[0](whole / "app.db")
    chooser = random.Random(f"20261129 {part}")
    results: Counter[str] = Counter()
    digest = sha256_file(sound)
    for number in range(CASES):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        live, copy = trusted(folder / "app.db"), folder / "copy.db"
        target = Path(f"{live.path}{act[1]}")
        target.write_bytes(changed(target.read_bytes(), part, chooser))
        actions: dict[str, Callable[[], object]] = {
            "look": lambda live=live, copy=copy: examine_database(live, copy.with_name("look.db")),  # type: ignore[misc]
            "capture": lambda live=live, copy=copy: capture_database(live, copy),  # type: ignore[misc]
            "check": lambda live=live: check_database(live.path, thorough=True),  # type: ignore[misc]
            "count": lambda live=live: count_rows(live.path),  # type: ignore[misc]
            "compare": lambda live=live: compare_databases(sound, live.path),  # type: ignore[misc]
            "usable": lambda live=live: is_usable(live, LockWait(1)),  # type: ignore[misc]
            "restore": lambda live=live: restore_database(sound, live, digest, wait=LockWait(1)),  # type: ignore[misc]
        }
        for name, action in actions.items():
            try:
                action()
                results[f"{name} done"] += 1
            except (StageFailed, OSError) as error:
                assert str(error)
                results[f"{name} refused"] += 1
        shutil.rmtree(folder)
    assert sum(results.values()) == 7 * CASES
    assert results["capture done"] > 0 or part == "header", results
    assert results["restore done"] > 0, results
