"""A restore by page: content and size, the locks, the safety copy, and what another process sees."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.database import capture_database, content_digest
from release_tasks.assets.sqlite.image import opened_image
from release_tasks.assets.sqlite.pages.engine import find_engine, why_missing
from release_tasks.assets.sqlite.pages.restore import OtherPageSize, PageRestore, page_restore
from release_tasks.assets.sqlite.pages.sinks import PlainSink
from release_tasks.assets.sqlite.pages.wal import pages_in_wal
from release_tasks.assets.waiting import LockWait
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import found, trusted

ENGINE = find_engine()
SEED = 20261
CASES = 400 if "EVERY_CALL" in os.environ else 60
LOCK_BYTE = 0x40000000

# Writes numbered rows until its stdin is closed, and prints each number after its commit.
WRITER = """
import sqlite3, sys, threading
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("PRAGMA synchronous = NORMAL")
number = 0
while not stop.is_set():
    number += 1
    database.execute("INSERT INTO confirmed VALUES (?)", (number,))
    database.execute("UPDATE t SET b = randomblob(900) WHERE id = ?", (number * 7919 % 500 + 1,))
    print(number, flush=True)
"""


def test_the_engine_is_there() -> None:
    """The tests install the extra; without it every restore would silently be one as a whole."""
    assert ENGINE is not None, why_missing()


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10, isolation_level=None)


def make(path: Path, mode: str, seed: int, *, page_size: int = 4096, vacuum: int = 0, rows: int = 300) -> None:
    """Create a database with random rows."""
    generator = random.Random(seed)
    with contextlib.closing(connect(path)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute(f"PRAGMA auto_vacuum = {vacuum}")
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB); CREATE INDEX tb ON t(b)")
        database.execute("CREATE TABLE confirmed(number INTEGER PRIMARY KEY)")
        database.execute("BEGIN")
        content = ((generator.randbytes(generator.randrange(1, 2000)),) for _ in range(rows))
        database.executemany("INSERT INTO t(b) VALUES (?)", content)
        database.execute("COMMIT")


def change(database: sqlite3.Connection, generator: random.Random, kind: str) -> None:
    """Change rows, and with some kinds the schema or the size."""
    database.execute("BEGIN")
    for _ in range(generator.randrange(1, 60)):
        what = generator.random()
        if what < 0.4:
            database.execute("INSERT INTO t(b) VALUES (?)", (generator.randbytes(generator.randrange(1, 5000)),))
        elif what < 0.6:
            database.execute("DELETE FROM t WHERE id % ? = 0", (generator.randrange(3, 60),))
        else:
            new = generator.randbytes(generator.randrange(1, 2000))
            database.execute("UPDATE t SET b = ? WHERE id = ?", (new, generator.randrange(1, 300)))
    database.execute("COMMIT")
    if kind == "schema":
        database.execute(f"CREATE TABLE n{generator.randrange(10**9)}(a, b)")
        database.execute(f"ALTER TABLE t ADD COLUMN z{generator.randrange(10**9)}")
    elif kind == "shrink":
        database.execute("DELETE FROM t WHERE id > 20")
        database.execute("VACUUM")
    elif kind == "empty":
        database.executescript("DROP TABLE t; DROP TABLE confirmed; VACUUM")


def capture(live: Path, copy: Path) -> Path:
    with found(live) as place:
        capture_database(place, copy)
    return copy


@contextlib.contextmanager
def opened(live: Path, copy: Path, seconds: float = 10) -> Iterator[PageRestore]:
    assert ENGINE is not None
    with (
        found(live) as place,
        opened_image(copy) as image,
        page_restore(ENGINE, place, image, LockWait(seconds)) as restore,
    ):
        yield restore


def restore_pages(live: Path, copy: Path, safety: Path | None = None) -> PageRestore:
    """Restore ``live`` from ``copy``, with an exact safety copy."""
    with opened(live, copy) as restore:
        sink = PlainSink(safety, restore.page_size) if safety is not None else None
        restore.scan(sink)
        restore.lock(10)
        restore.look_again(sink)
        restore.write()
        restore.commit()
        if sink is not None:
            sink.close()
    return restore


def _rows(database: sqlite3.Connection) -> list[object]:
    """Return all rows of the tables that the copy has."""
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]


def cases() -> list[tuple[int, str, int, int, str]]:
    generator = random.Random(SEED)
    return [
        (
            generator.randrange(10**9),
            generator.choice(["wal", "wal", "delete", "truncate", "persist"]),
            generator.choice([512, 1024, 4096, 4096, 8192, 65536]),
            generator.choice([0, 1, 2]),
            generator.choice(["rows", "rows", "schema", "shrink", "grow", "empty"]),
        )
        for _ in range(CASES)
    ]


@pytest.mark.parametrize(("seed", "mode", "page_size", "vacuum", "kind"), cases())
def test_content_and_size_are_those_of_the_copy(
    tmp_path: Path, seed: int, mode: str, page_size: int, vacuum: int, kind: str
) -> None:
    """An open reader of another process sees the new content; the safety copy has the old content, byte for byte."""
    generator = random.Random(seed)
    live, copy = tmp_path / "live.db", tmp_path / "copy.db"
    make(live, mode, seed, page_size=page_size, vacuum=vacuum, rows=generator.randrange(10, 300))
    capture(live, copy)
    reader = connect(live)
    reader.execute("SELECT count(*) FROM t").fetchone()
    with contextlib.closing(connect(live)) as database:
        for _ in range(generator.randrange(1, 4)):
            change(database, generator, kind)
            if kind == "empty":
                break
    before = content_digest(trusted(capture(live, tmp_path / "before.db")))
    reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    pages = _rows(reader)  # which stay in the cache of the reader
    restore = restore_pages(live, copy, tmp_path / "safety.db")
    with contextlib.closing(connect(copy)) as stored:
        assert _rows(reader) == _rows(stored) != pages
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert reader.execute("PRAGMA journal_mode").fetchone()[0] == ("wal" if mode == "wal" else "delete")
    reader.execute("INSERT INTO t(b) VALUES (x'00')")
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    reader.execute("DELETE FROM t WHERE b = x'00'")
    reader.close()
    assert restore.pages_changed > 0
    assert content_digest(trusted(tmp_path / "safety.db")) == before
    again = restore_pages(live, copy)  # the insert and the delete moved pages
    assert again.pages_changed < 20
    assert content_digest(trusted(capture(live, tmp_path / "after.db"))) == content_digest(trusted(copy))
    with contextlib.closing(connect(live)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert live.stat().st_size == copy.stat().st_size


def test_an_equal_database_has_no_page_to_change(tmp_path: Path) -> None:
    """The header fields that SQLite itself changes are no difference."""
    live = tmp_path / "live.db"
    make(live, "wal", 1)
    copy = capture(live, tmp_path / "copy.db")
    with opened(live, copy) as restore:
        assert restore.scan(None).sha256 == content_digest(trusted(copy))
        assert restore.pages_changed == 0


@pytest.mark.parametrize("size", [(4096, 8192), (8192, 4096)])
def test_another_page_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """Such a database is restored as a whole."""
    make(tmp_path / "other.db", "wal", 1, page_size=size[0])
    make(tmp_path / "live.db", "wal", 1, page_size=size[1])
    copy = capture(tmp_path / "other.db", tmp_path / "copy.db")
    with pytest.raises(OtherPageSize, match="another page size"), opened(tmp_path / "live.db", copy):
        pass


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_row_that_is_committed_after_the_scan_is_in_the_safety_copy_and_not_live(tmp_path: Path, mode: str) -> None:
    """In rollback-journal mode the scan bars writers, so the lock is given back once here."""
    live = tmp_path / "live.db"
    make(live, mode, 1)
    copy = capture(live, tmp_path / "copy.db")
    with opened(live, copy) as restore:
        sink = PlainSink(tmp_path / "safety.db", restore.page_size)
        restore.scan(sink)
        restore.lock(1)
        restore.unlock()
        command = "INSERT INTO confirmed VALUES (7); CREATE TABLE later(a); INSERT INTO t(b) VALUES (randomblob(90000))"
        subprocess.run(
            [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(live)!r}).executescript({command!r})"],
            check=True,
        )
        restore.lock(1)
        assert restore.look_again(sink)
        restore.write()
        restore.commit()
        sink.close()
    for path, rows in ((tmp_path / "safety.db", [(7,)]), (live, [])):
        with contextlib.closing(connect(path)) as database:
            assert database.execute("SELECT number FROM confirmed").fetchall() == rows
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert content_digest(trusted(capture(live, tmp_path / "after.db"))) == content_digest(trusted(copy))


ROUNDS = 50 if "EVERY_CALL" in os.environ else 6


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_no_confirmed_commit_is_in_neither_the_safety_copy_nor_the_live_state(tmp_path: Path, mode: str) -> None:
    """G14, under a writer of another process that commits as fast as it can."""
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        live = folder / "live.db"
        make(live, mode, number, rows=2000)
        copy = capture(live, folder / "copy.db")
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(live)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdin is not None and writer.stdout is not None
        confirmed = [int(writer.stdout.readline()) for _ in range(20)]
        restore_pages(live, copy, folder / "safety.db")
        confirmed += [int(writer.stdout.readline()) for _ in range(5)]
        rest, _ = writer.communicate()
        confirmed += [int(line) for line in rest.split()]
        assert writer.returncode == 0
        kept: set[int] = set()
        for path in (folder / "safety.db", live):
            with contextlib.closing(connect(path)) as database:
                kept |= {row[0] for row in database.execute("SELECT number FROM confirmed")}
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert set(confirmed) <= kept, (mode, number)


def test_the_pages_in_the_log_cover_all_that_changed(tmp_path: Path) -> None:
    """C of the design: what differs between two states of the pages is among the frames of the log."""
    live = tmp_path / "live.db"
    make(live, "wal", 3)
    generator = random.Random(3)
    database = connect(live)
    database.execute("PRAGMA wal_autocheckpoint = 0")
    for kind in ("rows", "schema", "rows", "grow"):
        database.execute("PRAGMA wal_checkpoint(RESTART)")
        before = capture(live, tmp_path / "before.db").read_bytes()
        change(database, generator, kind)
        after = capture(live, tmp_path / "after.db").read_bytes()
        pages = range(1, max(len(before), len(after)) // 4096 + 1)
        changed = {n for n in pages if before[(n - 1) * 4096 : n * 4096] != after[(n - 1) * 4096 : n * 4096]}
        with found(live) as place:
            assert changed - {1} <= pages_in_wal(place)
        for name in ("before.db", "after.db"):
            (tmp_path / name).unlink()
    database.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_lock_of_another_process_ends_the_wait_and_changes_nothing(tmp_path: Path, mode: str) -> None:
    """The lock is given back, so the service can end its transaction."""
    live = tmp_path / "live.db"
    make(live, mode, 1)
    copy = capture(live, tmp_path / "copy.db")
    hold = "BEGIN IMMEDIATE" if mode == "wal" else "BEGIN; SELECT count(*) FROM t"
    code = (
        f"import sqlite3, sys\nd = sqlite3.connect({str(live)!r}, isolation_level=None)\n"
        f"for s in {hold!r}.split(';'): d.execute(s).fetchall()\nprint(1, flush=True)\nsys.stdin.read()"
    )
    with opened(live, copy) as restore:
        restore.scan(None)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(Busy, match=f"process {process.pid}"):
            restore.lock(0.2)
        process.communicate()
        restore.lock(5)
        restore.look_again(None)
        restore.release()
    assert content_digest(trusted(capture(live, tmp_path / "after.db"))) == content_digest(trusted(copy))


def test_a_page_of_the_copy_that_changes_after_the_comparison_is_refused(tmp_path: Path) -> None:
    """Nothing is committed."""
    live = tmp_path / "live.db"
    make(live, "wal", 1)
    copy = capture(live, tmp_path / "copy.db")
    with contextlib.closing(connect(live)) as database:
        database.execute("UPDATE t SET b = zeroblob(1500) WHERE id % 3 = 0")
    before = content_digest(trusted(capture(live, tmp_path / "before.db")))
    with opened(live, copy) as restore:
        restore.scan(None)
        with copy.open("r+b") as file:
            for number in restore.differing:
                file.seek((number - 1) * 4096 + 50)
                file.write(b"other")
        restore.lock(1)
        restore.look_again(None)
        with pytest.raises(StageFailed, match="changed after it was compared"):
            restore.write()
        restore.release()
    assert content_digest(trusted(capture(live, tmp_path / "after.db"))) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_lock_page_is_skipped(tmp_path: Path) -> None:
    """A database over 1 GiB has a page that SQLite never uses."""
    live = tmp_path / "live.db"
    with contextlib.closing(connect(live)) as database:
        database.execute("PRAGMA page_size = 65536")
        database.execute("PRAGMA journal_mode = wal")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)")
        for _ in range(22):
            database.execute("INSERT INTO t(b) VALUES (zeroblob(52000000))")
    copy = capture(live, tmp_path / "copy.db")
    assert copy.stat().st_size > LOCK_BYTE
    with contextlib.closing(connect(live)) as database:
        database.execute("UPDATE t SET b = randomblob(100) WHERE id = 3")
        database.execute("INSERT INTO t(b) VALUES (randomblob(300000))")
        database.execute("UPDATE t SET b = randomblob(52000000) WHERE id = 21")
    restore_pages(live, copy, tmp_path / "safety.db")
    after = capture(live, tmp_path / "after.db")
    assert content_digest(trusted(after)) == content_digest(trusted(copy))
    with contextlib.closing(connect(tmp_path / "safety.db")) as database:
        assert database.execute("SELECT length(b) FROM t WHERE id = 3").fetchone() == (100,)
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def test_another_library_does_not_open_a_database_that_is_open_here(tmp_path: Path) -> None:
    """It would drop the locks of this process."""
    live = tmp_path / "live.db"
    make(live, "wal", 1)
    copy = capture(live, tmp_path / "copy.db")
    with opened(live, copy) as restore:
        restore.scan(None)
        with pytest.raises(StageFailed, match="is open through sqlean"):
            capture(live, tmp_path / "second.db")
        restore.release()
    capture(live, tmp_path / "second.db")


def test_the_schema_of_the_service_is_never_parsed(tmp_path: Path) -> None:
    """A service can write a schema whose parsing takes hours; a change of it makes SQLite read it anew."""
    live = tmp_path / "live.db"
    make(live, "wal", 1)
    copy = capture(live, tmp_path / "copy.db")
    with contextlib.closing(connect(live)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("CREATE TABLE broken(a)")
        database.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE broken(' WHERE name = 'broken'")
    with opened(live, copy) as restore:
        restore.scan(None)
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sqlite3; d = sqlite3.connect({str(live)!r}); d.execute('PRAGMA writable_schema = ON');"
                "d.execute('PRAGMA schema_version = 4711')",
            ],
            check=True,
        )
        restore.lock(1)
        restore.look_again(None)
        restore.write()
        restore.commit()
    assert content_digest(trusted(capture(live, tmp_path / "after.db"))) == content_digest(trusted(copy))
