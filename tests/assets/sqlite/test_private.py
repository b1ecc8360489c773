"""A look at a live database changes nothing, and sees what SQLite would read."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.capture import capture_asset
from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.database import capture_database, examine_database
from release_tasks.assets.sqlite.kind import SQLITE
from release_tasks.assets.waiting import LockWait
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord
from tests.support.hostile import CRASH, crash_in_a_transaction, name_super_journal
from tests.support.project import MakeProject, Project
from tests.support.writer import StartWriter

Prepare = Callable[[Path], None]


def run(code: str, *words: str) -> None:
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=60)


def crash_with_wal(database: Path) -> None:
    """Leave committed rows in the WAL, and no other process."""
    run(
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('PRAGMA journal_mode = wal');"
        "d.execute('UPDATE accounts SET balance = balance + 7'); d.commit(); os._exit(0)",
        str(database),
    )
    assert Path(f"{database}-wal").stat().st_size > 0


def lose_shm(database: Path) -> None:
    crash_with_wal(database)
    os.unlink(f"{database}-shm")


def keep_stale_shm(database: Path) -> None:
    """Leave the shared memory of an earlier WAL next to a new one."""
    crash_with_wal(database)
    shutil.copy2(f"{database}-shm", f"{database}.old")
    crash_with_wal(database)
    os.rename(f"{database}.old", f"{database}-shm")


def empty_wal(database: Path) -> None:
    Path(f"{database}-wal").write_bytes(b"")


def cold_journal(mode: str) -> Prepare:
    """Return a preparation that leaves the cold journal of a journal mode that keeps the file."""

    def prepare(database: Path) -> None:
        connection = sqlite3.connect(database)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("UPDATE accounts SET balance = balance + 3")
        connection.commit()
        connection.close()
        assert Path(f"{database}-journal").exists()

    return prepare


STATES: dict[str, tuple[str, Prepare]] = {
    "at rest, rollback mode": ("delete", lambda database: None),
    "at rest, WAL mode": ("wal", lambda database: None),
    "hot journal": ("delete", crash_in_a_transaction),
    "hot persistent journal": ("delete", lambda database: crash_in_a_transaction(database, "persist")),
    "WAL": ("wal", crash_with_wal),
    "WAL without -shm": ("wal", lose_shm),
    "WAL with a stale -shm": ("wal", keep_stale_shm),
    "empty WAL": ("wal", empty_wal),
    "cold persistent journal": ("delete", cold_journal("persist")),
    "cold truncated journal": ("delete", cold_journal("truncate")),
}


def picture(folder: Path) -> dict[str, Any]:
    """Return the names, bytes, inodes and modification times of a folder and its files."""
    paths = [folder, *sorted(folder.iterdir())]
    return {
        path.name: (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.stat().st_ctime_ns,
        )
        for path in paths
    }


def look(database: Path, scratch: Path) -> AssetRecord:
    (scratch / "assets").mkdir(parents=True)
    return capture_asset("database", SQLITE.asset(database), scratch, look_only=True)


def stored(scratch: Path, database: Path) -> list[Any]:
    """Return the accounts in the copy of a look."""
    copy = sqlite3.connect(f"file:{scratch}/assets/database/{database.name}?immutable=1", uri=True)
    try:
        return copy.execute("SELECT * FROM accounts ORDER BY id").fetchall()
    finally:
        copy.close()


@pytest.mark.parametrize("state", STATES)
def test_a_look_changes_nothing_and_sees_the_committed_rows(make_project: MakeProject, state: str) -> None:
    """Names, bytes, inodes and times of the live folder stay; the record equals the record of a capture."""
    journal_mode, prepare = STATES[state]
    project = make_project("p", journal_mode)
    prepare(project.database)
    before = picture(project.state)
    scratch = project.folder / "scratch"
    seen = look(project.database, scratch)
    assert picture(project.state) == before
    assert os.listdir(scratch / "assets" / "database") == ["app.db"]
    # SQLite recovers the database now.
    captured = capture_database(trusted(project.database), project.folder / "captured.db")
    assert (seen.journal_mode, seen.sha256) == (captured.journal_mode, captured.sha256)
    assert stored(scratch, project.database) == project.rows()[0]


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("state", ["hot journal", "WAL without -shm"])
def test_a_look_needs_no_write_permission(state: str) -> None:
    """A user who may only read the files sees the committed rows."""
    journal_mode, prepare = STATES[state]
    with tempfile.TemporaryDirectory() as top:  # a folder of pytest can only be entered by its owner
        os.chmod(top, 0o755)
        (Path(top) / "project").mkdir()
        project = Project(Path(top) / "project", journal_mode)
        prepare(project.database)
        for path in project.state.iterdir():
            path.chmod(0o555 if path.is_dir() else 0o444)
        project.state.chmod(0o555)
        before = picture(project.state)
        of_the_user = Path(top) / "of-the-user"
        of_the_user.mkdir()
        os.chown(of_the_user, 1000, 1000)
        with as_user(1000):
            seen = look(project.database, of_the_user / "scratch")
        assert picture(project.state) == before
        assert seen.sha256 == capture_database(trusted(project.database), project.folder / "captured.db").sha256


def test_a_look_sees_through_an_open_transaction(make_project: MakeProject) -> None:
    """A writer in mid-transaction, with changed pages in the file, locks out every reader, and no look."""
    project = make_project("p", "delete")
    code = CRASH.replace("os._exit(0)", 'print("held", flush=True); sys.stdin.read()')
    command = [sys.executable, "-c", code, "delete", str(project.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        before = picture(project.state)
        scratch = project.folder / "scratch"
        look(project.database, scratch)
        assert picture(project.state) == before
        writer.communicate(timeout=30)
    assert {balance for _, balance in stored(scratch, project.database)} == {100}


@pytest.mark.parametrize("is_committed", [False, True], ids=["super-journal", "no super-journal"])
def test_a_look_leaves_a_super_journal_alone(make_project: MakeProject, is_committed: bool) -> None:
    """A journal of a transaction over two databases is played only while its super-journal exists, which stays."""
    project = make_project("p", "delete")
    crash_in_a_transaction(project.database)
    journal = Path(f"{project.database}-journal")
    super_journal = project.state / "app.db-mj0123456789"
    name_super_journal(project.database, super_journal)
    if not is_committed:
        super_journal.write_bytes(os.fsencode(journal) + b"\0")
    before = picture(project.state)
    scratch = project.folder / "scratch"
    look(project.database, scratch)
    assert picture(project.state) == before
    balances = {balance for _, balance in stored(scratch, project.database)}
    assert balances == ({0} if is_committed else {100})


@pytest.mark.slow
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_look_under_a_writer_without_pauses_is_consistent(
    make_project: MakeProject, start_writer: StartWriter, journal_mode: str
) -> None:
    """The balances in the copy add up, and the writer goes on."""
    project = make_project("p", journal_mode)
    start_writer(project.database, journal_mode, pause=0.001 if journal_mode == "wal" else 0.01)
    for run_number in range(5):
        scratch = project.folder / f"scratch{run_number}"
        look(project.database, scratch)
        assert sum(balance for _, balance in stored(scratch, project.database)) == 5000


def test_a_look_at_a_broken_file_changes_nothing(project: Project) -> None:
    """Garbage with a WAL next to it is copied byte for byte: SQLite would delete the WAL."""
    crash_with_wal(project.database)
    project.database.write_bytes(b"garbage" * 1000)
    before = picture(project.state)
    assert look(project.database, project.folder / "scratch").damaged
    assert picture(project.state) == before


# Has a part of a transaction in the file, and its journal in memory.
_OPEN_TRANSACTION = """
import random, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = memory")
database.execute("PRAGMA cache_size = 5")
database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x, y)")
database.execute("CREATE INDEX i ON t(x)")
for first in (0, 1):
    database.execute("BEGIN IMMEDIATE")
    rows = [(first + 2 * number, random.random(), "z" * 300) for number in range(2000)]
    database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    if not first:
        database.execute("COMMIT")
print("open", flush=True)
sys.stdin.read()
database.execute("COMMIT")
"""


def test_a_part_of_an_open_transaction_is_no_damage(tmp_path: Path) -> None:
    """A service with its journal in memory wrote pages before its commit: the look waits, names it, and then reads."""
    live, copy = tmp_path / "app.db", tmp_path / "copy.db"
    command = [sys.executable, "-c", _OPEN_TRANSACTION, str(live)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None and service.stdin is not None
        assert service.stdout.readline() == "open\n"
        with pytest.raises(Busy, match=f"locked by process {service.pid}"):
            examine_database(trusted(live), copy, wait=LockWait(0.2))
        assert [path.name for path in tmp_path.iterdir()] == [live.name]
        service.stdin.close()
        examine_database(trusted(live), copy, wait=LockWait(60))
        assert sqlite3.connect(copy).execute("SELECT count(*) FROM t").fetchone() == (4000,)
