"""What SQLite reads from a stored database has the recorded digest, or nothing is committed."""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from release_tasks.assets.sqlite.restore import locked_database, restore_database
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted

ROWS = 900  # of 3000 bytes: more than two chunks of the reader


def make_database(path: Path, page_size: int, rows: int, *, tables: int = 1) -> Path:
    """Make a database whose rows are random."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute("BEGIN")
        for number in range(tables):
            database.execute(f"CREATE TABLE t{number}(x, {', '.join(f'c{n}' for n in range(50))})")
        database.executemany("INSERT INTO t0(x) VALUES (randomblob(3000))", [()] * rows)
        database.commit()
    return path


def rows_of(path: Path) -> list[bytes]:
    """Return the rows."""
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("SELECT x FROM t0 ORDER BY rowid")]


@pytest.mark.parametrize(("page_size", "rows"), [(512, ROWS), (65536, ROWS), (4096, 0)])
def test_intact_copy_is_restored(tmp_path: Path, page_size: int, rows: int) -> None:
    """Of any page size, and with a schema of many pages, which SQLite reads first."""
    stored = make_database(tmp_path / "stored.db", page_size, rows, tables=200)
    live = make_database(tmp_path / "live.db", 4096, 5)
    restore_database(stored, trusted(live), sha256_file(stored))
    assert rows_of(live) == rows_of(stored)


def test_empty_copy_is_restored(tmp_path: Path) -> None:
    """A file without a page is a database without tables."""
    stored, live = tmp_path / "stored.db", make_database(tmp_path / "live.db", 4096, 5)
    stored.touch()
    restore_database(stored, trusted(live), sha256_file(stored))
    with closing(sqlite3.connect(live)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def exchange(stored: Path, evil: Path) -> None:
    """Exchange the file."""
    os.replace(evil, stored)


def overwrite(stored: Path, evil: Path) -> None:
    """Write into the file, and set its times back."""
    before = stored.stat()
    with stored.open("r+b") as file:
        file.write(evil.read_bytes())
    os.utime(stored, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_last_byte(stored: Path, _: Path) -> None:
    """Change the last byte, which is in the page that is read last."""
    with stored.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def write_through_a_mapping(stored: Path, _: Path) -> None:
    """Change a byte in the middle without a system call for it."""
    with stored.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[len(mapped) // 2] ^= 1


def cut(stored: Path, _: Path) -> None:
    """Cut the file."""
    os.truncate(stored, stored.stat().st_size // 2)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("act", [exchange, overwrite, write_last_byte, write_through_a_mapping, cut])
def test_changed_copy_is_never_committed(tmp_path: Path, act: Callable[[Path, Path], None], is_open: bool) -> None:
    """Before it is opened, and after that: an open file that was exchanged is still the right one."""
    stored, evil = (make_database(tmp_path / name, 4096, ROWS) for name in ("stored.db", "evil.db"))
    live, good = make_database(tmp_path / "live.db", 4096, 5), tmp_path / "good.db"
    shutil.copy(stored, good)
    before = rows_of(live)
    if not is_open:
        act(stored, evil)
    with locked_database(trusted(live), stored, sha256_file(good), None) as database:
        if is_open:
            act(stored, evil)
        if is_open and act is exchange:
            database.write()
            database.commit()
        else:
            with pytest.raises(StageFailed, match=r"changed after it was verified\.|was cut while"):
                database.write()
    assert rows_of(live) == (rows_of(good) if is_open and act is exchange else before)
