"""Capture of a database while other processes use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets.sqlite.checks import check_database
from release_tasks.assets.sqlite.connection import DamagedDatabase
from release_tasks.assets.sqlite.database import capture_database, content_digest, examine_database
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import Place, trusted
from tests.support.project import MakeProject, Project
from tests.support.scripts import locked_database
from tests.support.writer import StartWriter

TOTAL = 5000  # 50 accounts of 100


def count_transfers(database: Path) -> int:
    """Count the committed rows, and close the file before this process opens it by another SQLite library."""
    connection = sqlite3.connect(database, timeout=30)
    try:
        return int(connection.execute("SELECT count(*) FROM ledger").fetchone()[0])
    finally:
        connection.close()


def read_copy(copy: Path) -> tuple[int, bool, list[Any]]:
    """Return the number of transfers in a copy, whether the balances match them, and the result of integrity_check."""
    connection = sqlite3.connect(f"file:{copy}?immutable=1", uri=True)
    try:
        accounts = dict(connection.execute("SELECT id, balance FROM accounts"))
        expected = dict.fromkeys(accounts, 100)
        transfers = connection.execute("SELECT a, b, amount FROM ledger").fetchall()
        for payer, payee, amount in transfers:
            expected[payer] -= amount
            expected[payee] += amount
        is_balanced = expected == accounts and sum(accounts.values()) == TOTAL
        return len(transfers), is_balanced, connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.001)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_capture_under_a_writer_is_consistent(
    make_project: MakeProject, start_writer: StartWriter, journal_mode: str
) -> None:
    """Each of 20 copies has every row committed before, no partial transfer, and needs no side file."""
    project = make_project(journal_mode, journal_mode)
    # In rollback-journal mode a writer without pauses blocks every reader.
    start_writer(project.database, journal_mode, pause=0.001 if journal_mode == "wal" else 0.01)
    seen = 0
    for run in range(20):
        committed = count_transfers(project.database)
        project.capture(f"run{run}")
        stored = project.pipeline.catalogue.path(f"run{run}_snapshot") / "assets" / "database" / "app.db"
        assert os.listdir(stored.parent) == ["app.db"]
        captured, is_balanced, integrity = read_copy(stored)
        assert is_balanced, run
        assert captured >= committed, run
        assert integrity == [("ok",)], run
        assert captured >= seen
        seen = captured
    assert wait_until(lambda: count_transfers(project.database) > seen)


def test_writers_commit_during_the_capture(project: Project, start_writer: StartWriter) -> None:
    """In WAL mode the pinned reader blocks no writer, and later commits are not in the copy."""
    filler = sqlite3.connect(project.database)
    filler.execute("CREATE TABLE filler(x)")
    filler.executemany("INSERT INTO filler VALUES (randomblob(4000))", [()] * 5000)
    filler.commit()
    filler.close()
    start_writer(project.database)
    wal = Path(f"{project.database}-wal")
    commits: list[bool] = []
    steps: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        steps.append((done, total))
        before = wal.stat().st_mtime_ns
        commits.append(wait_until(lambda: wal.stat().st_mtime_ns != before))

    copy = project.folder / "copy.db"
    capture_database(trusted(project.database), copy, progress)
    assert len(steps) > 1 and steps[-1][0] == steps[-1][1]
    assert all(commits)
    captured, is_balanced, integrity = read_copy(copy)
    assert is_balanced and integrity == [("ok",)]
    assert count_transfers(project.database) > captured


def test_capture_leaves_the_side_files_of_a_running_service_alone(project: Project, start_writer: StartWriter) -> None:
    """The -wal and -shm keep their inodes."""
    start_writer(project.database)
    paths = [Path(f"{project.database}{suffix}") for suffix in ("", "-wal", "-shm")]
    before = [path.stat().st_ino for path in paths]
    names = sorted(os.listdir(project.state))
    project.capture()
    assert [path.stat().st_ino for path in paths] == before
    assert sorted(os.listdir(project.state)) == names


def test_capture_of_a_killed_service_includes_its_wal_and_leaves_it_unchanged(
    project: Project, start_writer: StartWriter
) -> None:
    """Committed rows that are only in the WAL are captured; database and WAL stay the same byte for byte."""
    writer = start_writer(project.database)
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    paths = [project.database, Path(f"{project.database}-wal")]
    names = sorted(os.listdir(project.state))
    before = [path.read_bytes() for path in paths]
    assert len(before[1]) > 0
    copy = project.folder / "copy.db"
    capture_database(trusted(project.database), copy)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(os.listdir(project.state)) == names
    captured, is_balanced, _ = read_copy(copy)
    assert is_balanced
    assert captured == count_transfers(project.database) > 0


def test_capture_of_a_closed_database_creates_no_side_file(project: Project) -> None:
    """A WAL database that was closed has no side files before and after; its bytes stay the same."""
    before, names = project.database.read_bytes(), sorted(os.listdir(project.state))
    project.capture()
    assert sorted(os.listdir(project.state)) == names
    assert project.database.read_bytes() == before


def test_wal_without_a_shm_is_left_unchanged(project: Project) -> None:
    """A copy of the state from another machine has a -wal and no -shm."""
    connection = sqlite3.connect(project.database)
    connection.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 0)")
    connection.commit()
    moved = project.folder / "moved"
    moved.mkdir()
    for name in ("app.db", "app.db-wal"):
        shutil.copy(project.state / name, moved / name)
    connection.close()
    shutil.copy(moved / "app.db-wal", project.folder / "wal-before")
    capture_database(trusted(moved / "app.db"), project.folder / "copy.db")
    # SQLite builds a -shm to read the WAL by; removing it could break another process that opened the database since.
    assert set(os.listdir(moved)) - {"app.db-shm"} == {"app.db", "app.db-wal"}
    assert (moved / "app.db-wal").read_bytes() == (project.folder / "wal-before").read_bytes()


def test_interrupted_transaction_is_not_in_the_copy(project: Project) -> None:
    """The rollback journal of a crash is played back, as the service itself would do."""
    crash = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = DELETE'); db.execute('PRAGMA cache_size = 2'); db.execute('BEGIN')\n"
        "db.execute('UPDATE accounts SET balance = 0')\n"
        "db.executemany('INSERT INTO ledger(a) VALUES (?)', [(1,)] * 20000)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", crash, str(project.database)], check=True)
    assert Path(f"{project.database}-journal").exists()
    copy = project.folder / "copy.db"
    capture_database(trusted(project.database), copy)
    assert read_copy(copy) == (0, True, [("ok",)])


def test_copy_is_a_rollback_journal_database(project: Project) -> None:
    """Header bytes 18 and 19 are 1; the record has the journal mode of the live database."""
    copy = project.folder / "copy.db"
    captured = capture_database(trusted(project.database), copy)
    assert captured.journal_mode == "wal"
    assert copy.read_bytes()[18:20] == b"\x01\x01"
    assert content_digest(trusted(copy)) == captured.sha256
    connection = sqlite3.connect(project.database)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    "statement", ["PRAGMA page_size = 65536", "PRAGMA encoding = 'UTF-16le'", "PRAGMA auto_vacuum = 1"]
)
def test_uncommon_databases_are_captured(project: Project, statement: str) -> None:
    """Large pages, another encoding, pointer maps."""
    source, copy = project.state / "other.db", project.folder / "copy.db"
    connection = sqlite3.connect(source)
    connection.execute(statement)
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES ('text \u00e4')")
    connection.execute("PRAGMA user_version = 7")
    connection.commit()
    connection.close()
    capture_database(trusted(source), copy)
    connection = sqlite3.connect(f"file:{copy}?immutable=1", uri=True)
    assert connection.execute("SELECT x FROM t").fetchone() == ("text \u00e4",)
    assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    connection.close()


def test_empty_file_is_an_empty_database(project: Project) -> None:
    """SQLite opens a file of no bytes as a database without tables."""
    (project.state / "empty.db").touch()
    copy = project.folder / "copy.db"
    capture_database(trusted(project.state / "empty.db"), copy)
    check_database(copy, thorough=True)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param("CREATE TABLE t(x TEXT COLLATE theirs); CREATE INDEX i ON t(x)", id="collation"),
        pytest.param("CREATE TABLE t(x); CREATE INDEX i ON t(theirs(x))", id="index-function"),
        pytest.param("CREATE TABLE t(x CHECK (theirs(x)))", id="check-function"),
        pytest.param("CREATE TABLE t(x TEXT COLLATE theirs PRIMARY KEY) WITHOUT ROWID", id="primary-key"),
        pytest.param("CREATE TABLE t(x, y AS (theirs(x)) NOT NULL)", id="generated-column"),
        pytest.param(
            'CREATE TABLE t(x TEXT COLLATE "de-DE"); CREATE INDEX i ON t(x)',
            id="quoted-name",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 of 3.10 refuses the collation's name"),
        ),
    ],
)
def test_schema_with_collations_and_functions_of_the_service_is_captured(project: Project, schema: str) -> None:
    """Only the service registers them; the database is sound all the same."""
    connection = sqlite3.connect(project.database)
    for name in ["theirs", *(["de-DE"] if "de-DE" in schema else [])]:
        connection.create_collation(name, lambda a, b: (a < b) - (a > b))
    connection.create_function("theirs", 1, lambda x: x, deterministic=True)
    connection.executescript(schema)
    connection.execute("INSERT INTO t(x) VALUES (1), (2), (3)")
    connection.commit()
    connection.close()
    project.capture()
    copy = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "database" / "app.db"
    check_database(copy, thorough=True)


def damage_page(path: Path) -> None:
    """Overwrite a b-tree page in the middle of the file; header and schema stay readable."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 2048)


@pytest.mark.parametrize(
    "how",
    [
        "text",
        "short",
        "folder",
        "link",
        "absent",
        "page",
    ],
)
def test_damaged_database_is_refused(project: Project, how: str) -> None:
    """The message names the live file and not the copy."""
    database = project.database
    data = database.read_bytes()
    if how == "page":
        damage_page(database)
    elif how == "text":
        database.write_text("this is no database, and longer than a header is " * 50)
    elif how == "short":
        database.write_bytes(data[:5000])
    else:
        database.unlink()
        if how == "folder":
            database.mkdir()
        elif how == "link":
            (project.state / "real.db").write_bytes(data)
            database.symlink_to("real.db")
    copy = project.folder / "copy.db"
    with pytest.raises(DamagedDatabase) as error:
        capture_database(trusted(database), copy)
    assert str(database) in error.value.message
    assert str(copy) not in error.value.message


@pytest.mark.parametrize("read", [capture_database, examine_database], ids=["capture", "look"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:5000], id="cut short"),
        pytest.param(lambda data: b"no database " * 1000, id="overwritten"),
        pytest.param(lambda data: bytes(100) + data[100:], id="header zeroed"),
        pytest.param(lambda data: b"", id="emptied"),
    ],
)
def test_reading_a_damaged_database_changes_no_byte(
    project: Project, start_writer: StartWriter, damage: Callable[[bytes], bytes], read: Callable[[Place, Path], object]
) -> None:
    """The rows in its WAL are the last good copy, so the WAL stays the same byte for byte."""
    writer = start_writer(project.database)
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    project.database.write_bytes(damage(project.database.read_bytes()))
    paths = [project.database, Path(f"{project.database}-wal")]
    before = [path.read_bytes() for path in paths]
    with contextlib.suppress(DamagedDatabase):
        read(trusted(project.database), project.folder / "copy.db")
    assert [path.read_bytes() if path.exists() else None for path in paths] == before


def test_emptied_database_with_a_wal_is_damaged(project: Project, start_writer: StartWriter) -> None:
    """A database truncated under its WAL is no new database, and no release is ready on it."""
    writer = start_writer(project.database)
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    os.truncate(project.database, 0)
    with pytest.raises(DamagedDatabase):
        capture_database(trusted(project.database), project.folder / "copy.db")


def test_locked_database_ends_with_a_message(project: Project) -> None:
    """The capture does not wait for ever, and the message says what to do."""
    project.overrides["lock_wait"] = "200ms"
    with locked_database(project.database, "PRAGMA journal_mode = DELETE"):
        with pytest.raises(StageFailed, match=r"app\.db stayed locked by process \d+ \(.*\) for 0\.2 s") as error:
            project.capture()
        assert not isinstance(error.value, DamagedDatabase)
    assert project.pipeline.catalogue.published() == ([], [])
    assert project.leftovers() == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_database(project: Project) -> None:
    """A database of 64 MiB is captured with far less memory."""
    connection = sqlite3.connect(project.database)
    connection.execute("CREATE TABLE filler(x)")
    connection.executemany("INSERT INTO filler VALUES (zeroblob(1000000))", [()] * 64)
    connection.commit()
    connection.close()
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from release_tasks.assets.sqlite.database import capture_database\n"
        "from release_tasks.core.place import trusted\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "capture_database(trusted(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", script, str(project.database), str(project.folder / "copy.db")]
    grown_kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kib < 40 << 10
