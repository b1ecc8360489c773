"""A few bytes that name millions of pages: no command copies pages that do not exist."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.connection import DamagedDatabase
from release_tasks.assets.sqlite.database import capture_database, examine_database, is_usable
from release_tasks.assets.sqlite.private import private_copy
from release_tasks.assets.sqlite.restore import restore_database
from release_tasks.assets.waiting import LockWait
from release_tasks.core.digests import sha256_file
from release_tasks.core.place import trusted
from tests.support.hostile import make_sparse, name_pages_in_header, name_pages_in_journal, name_pages_in_wal

Bomb = Callable[[Path, int], None]
MANY = 1 << 29  # pages: 2 TiB
BOMBS: dict[str, tuple[Bomb, int]] = {
    "WAL": (name_pages_in_wal, 4294967290),
    "small WAL": (name_pages_in_wal, 20_000),
    "hot journal": (name_pages_in_journal, MANY),
    "sparse file": (make_sparse, MANY),
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "app.db"
    path.parent.mkdir()
    service = sqlite3.connect(path)
    service.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance)")
    service.executemany("INSERT INTO accounts(balance) VALUES (?)", [(100,)] * 50)
    service.commit()
    service.close()
    return path


def blocks_below(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("copy_database", [capture_database, examine_database])
def test_pages_that_do_not_exist_are_not_copied(
    database: Path, tmp_path: Path, name: str, copy_database: Callable[[object, Path], object]
) -> None:
    """Each is reported as damage, before the copy begins."""
    make, pages = BOMBS[name]
    make(database, pages)
    with pytest.raises(DamagedDatabase, match=f"should have {pages} pages"):
        copy_database(trusted(database), tmp_path / "copy.db")
    assert blocks_below(tmp_path) < 1 << 20


@pytest.mark.parametrize("name", ["WAL", "sparse file"])
def test_a_restore_over_such_a_database_copies_no_pages_either(database: Path, tmp_path: Path, name: str) -> None:
    """A rollback exchanges the file. A service may write such pages later: then SQLite restores without them."""
    shutil.copy(database, tmp_path / "good.db")
    make, pages = BOMBS[name]
    make(database, pages)
    assert not is_usable(trusted(database), LockWait(1.0))
    restore_database(tmp_path / "good.db", trusted(database), sha256_file(tmp_path / "good.db"))
    assert is_usable(trusted(database), LockWait(1.0))
    assert blocks_below(tmp_path) < 1 << 20


def test_a_wrong_number_in_the_header_ends_too(database: Path, tmp_path: Path) -> None:
    """Outside of WAL mode SQLite takes the size of the file."""
    name_pages_in_header(database, MANY)
    capture_database(trusted(database), tmp_path / "copy.db")
    assert blocks_below(tmp_path) < 1 << 20


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_pages_that_a_service_leaves_out_are_no_damage(database: Path, tmp_path: Path, mode: str) -> None:
    """One transaction allocates and frees pages: the file ends before them, or has a hole there."""
    service = sqlite3.connect(database, isolation_level=None)
    for statement in (
        f"PRAGMA journal_mode = {mode}",
        "PRAGMA secure_delete = 0",
        "PRAGMA cache_size = -200000",
        "PRAGMA wal_autocheckpoint = 0",
        "BEGIN",
        "CREATE TABLE filler(x)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO filler SELECT zeroblob(4000) FROM n",
        "DELETE FROM filler",
        "COMMIT",
    ):
        service.execute(statement)
    assert database.stat().st_blocks * 512 < 2 << 20
    capture_database(trusted(database), tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_size > 20_000_000
    examine_database(trusted(database), tmp_path / "other.db")
    assert is_usable(trusted(database), LockWait(1.0))
    service.close()


def test_a_private_copy_has_the_holes_of_the_file(database: Path, tmp_path: Path) -> None:
    """A copy takes the space of the data, not of the size."""
    data = database.read_bytes()
    os.truncate(database, 1 << 40)
    with private_copy(trusted(database), tmp_path / "private", lambda size: None) as copy:
        assert copy is not None
        assert copy.stat().st_size == 1 << 40
        assert blocks_below(copy.parent) < 1 << 20
        with copy.open("rb") as file:
            assert file.read(len(data)) == data
