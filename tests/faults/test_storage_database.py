"""Databases that are locked permanently, damaged, or next to side files of another database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import apsw
import pytest

from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, Manifest
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import crash_after_journal_writes
from tests.support.faults.marks import MOUNTS
from tests.support.faults.mounts import Mounts
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.files import contents, make_socket
from tests.support.project import MakeProject, Project

pytestmark = pytest.mark.slow

MODES = ["wal", "delete"]
ONE_FAST = [pytest.param("wal", marks=pytest.mark.slow), "delete"]
HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.execute(f"BEGIN {sys.argv[2]}")
database.execute("SELECT count(*) FROM ledger").fetchone()
if sys.argv[2] != "DEFERRED":
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
print("held", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
database.close()
"""


class Make(Protocol):
    """Make a project, its database in this journal mode."""

    def __call__(self, mode: str) -> Project: ...


class Hold(Protocol):
    """Let another process hold a transaction of this kind open; returns the function that ends it."""

    def __call__(self, database: Path, kind: str) -> Callable[[], None]: ...


def make_release(project: Project, release_id: str = "v2") -> Manifest:
    return prepare(project.settings, passed_preflight(), release_id)


def damaged_copy(project: Project, safety_snapshot_id: str | None) -> tuple[AssetRecord, Path]:
    """Return the record and the folder of the damaged database in a safety snapshot."""
    assert safety_snapshot_id is not None
    record = project.pipeline.catalogue.get(safety_snapshot_id).asset("database")
    assert record is not None
    return record, project.pipeline.catalogue.path(safety_snapshot_id) / record.relative_path


@pytest.fixture
def make(make_project: MakeProject) -> Make:
    """Return a maker of projects."""

    def call(mode: str) -> Project:
        return make_project("p", mode, cache_settings=True)

    return call


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Return a starter of processes that hold a transaction open; all end with the test."""
    running: list[subprocess.Popen[str]] = []

    def end() -> None:
        while running:
            running.pop().communicate(timeout=30)

    def start(database: Path, kind: str) -> Callable[[], None]:
        command = [sys.executable, "-c", HOLDER, str(database), kind]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        out = running[-1].stdout
        assert out is not None and out.readline() == "held\n"
        return end

    yield start
    end()


# The results during a transaction that never ends: (journal mode, kind) -> (prepare, rollback).
LOCKS = {
    ("wal", "DEFERRED"): ("ready", "restored"),
    ("wal", "IMMEDIATE"): ("ready", "failed"),
    ("wal", "EXCLUSIVE"): ("ready", "failed"),
    ("delete", "DEFERRED"): ("ready", "failed"),
    ("delete", "IMMEDIATE"): ("ready", "failed"),
    ("delete", "EXCLUSIVE"): ("blocked", "failed"),
}


@pytest.mark.parametrize(("mode", "kind"), LOCKS)
def test_endless_transaction_blocks_only_what_it_must(
    make: Make, hold: Hold, monkeypatch: pytest.MonkeyPatch, mode: str, kind: str
) -> None:
    """A blocked command names the database and changes nothing; in WAL mode a capture is never blocked."""
    release, restore = LOCKS[mode, kind]
    project = make(mode)
    project.overrides["lock_wait"] = "300ms"
    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    files = project.content()["files"]
    end_transaction = hold(project.database, kind)
    manifest = make_release(project)
    assert manifest.status == release, manifest.diagnostics
    outcome = project.roll_back(snapshot_id="v1_snapshot")
    assert outcome.status == restore, outcome.diagnostics
    for messages in [manifest.diagnostics] * (release == "blocked") + [outcome.diagnostics] * (restore == "failed"):
        assert "stayed locked" in messages[0] and str(project.database) in messages[0]
    end_transaction()
    if restore == "failed":
        assert project.content()["files"] == files
        assert not project.pipeline.journal_path.exists()
    assert project.roll_back(snapshot_id="v1_snapshot").status in ("restored", "noop")
    assert project.content() == new
    assert project.leftovers() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("journal_writes", [1, 3])
def test_recovery_is_unfinished_until_a_blocking_transaction_ends(
    make: Make, hold: Hold, monkeypatch: pytest.MonkeyPatch, mode: str, journal_writes: int
) -> None:
    """A crash while the database is restored, or after it: recover never reports an unfinished restore as finished."""
    project = make(mode)
    project.overrides["lock_wait"] = "300ms"
    new = project.content()
    project.capture()
    project.damage()
    old = project.content()
    with crash_after_journal_writes(journal_writes):
        project.roll_back()
    end_transaction = hold(project.database, "EXCLUSIVE")
    if journal_writes == 1:
        with pytest.raises(StageFailed, match="stayed locked") as error:
            recover(project.settings)
        assert "inv release.recover" in error.value.message
        assert project.pipeline.journal_path.exists()
        end_transaction()
        assert recover(project.settings).status in ("finished", "undone")
    else:
        assert recover(project.settings).status == "finished"  # the database was done before
        end_transaction()
    assert project.content() in (old, new)
    assert project.roll_back().status in ("restored", "noop")
    assert project.content() == new
    assert project.leftovers() == []


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=MOUNTS) for mode in MODES])
def test_a_disk_full_in_the_second_database_leaves_the_first_unchanged(make: Make, mounts: Mounts, mode: str) -> None:
    """Three databases, and space for the pages of one: no database is committed, and no safety copy is restored."""
    project = make(mode)
    folder = project.folder / "databases"
    mounts.tmpfs(folder, "12m")
    paths = [folder / f"d{number}.db" for number in range(3)]
    for path in paths:
        project.overrides[f"assets.{path.stem}"] = {"sqlite": f"databases/{path.name}"}
        execute(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE t(x)")
        execute(path, *["INSERT INTO t VALUES (randomblob(20000))"] * 100)
    project.capture()
    for path in paths:
        execute(path, "DELETE FROM t", "VACUUM", "INSERT INTO t VALUES ('bad')")
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - (3 << 20)))
    before = [path.read_bytes() for path in paths]
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert "The disk is full" in outcome.diagnostics[0]
    assert "Nothing live was changed" in outcome.diagnostics[0]
    for path in paths:
        assert execute(path, "SELECT x FROM t") == [("bad",)]
    if mode == "delete":
        assert [path.read_bytes() for path in paths] == before
    assert not project.pipeline.journal_path.exists()
    (folder / "filler").unlink()
    assert project.roll_back().status == "restored"
    assert [execute(path, "SELECT count(*) FROM t") for path in paths] == [[(100,)]] * 3


def execute(path: Path, *statements: str) -> list[Any]:
    """Run statements and return the rows of the last one."""
    database = sqlite3.connect(path, isolation_level=None, timeout=30)
    rows: list[Any] = []
    for statement in statements:
        rows = database.execute(statement).fetchall()
    database.close()
    return rows


def zeroed(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(100))


def garbage(database: Path) -> None:
    database.write_bytes(bytes(range(256)) * 40)


def magic_alone(database: Path) -> None:
    database.write_bytes(b"SQLite format 3\0")


def page_of_zeroes(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def folder(database: Path) -> None:
    database.unlink()
    database.mkdir()
    (database / "inside").write_text("inside")


def pipe(database: Path) -> None:
    database.unlink()
    os.mkfifo(database)


def listening_socket(database: Path) -> None:
    database.unlink()
    make_socket(database)


def link(database: Path) -> None:
    shutil.move(database, database.with_name("moved.db"))
    database.symlink_to("moved.db")


def dangling_link(database: Path) -> None:
    database.unlink()
    database.symlink_to("nothing")


def emptied_under_its_wal(database: Path) -> None:
    """Commit, end the process with SIGKILL, and truncate the file to zero bytes."""
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(database)], check=False)
    os.truncate(database, 0)


def folder_as_side_file(suffix: str) -> Callable[[Path], None]:
    def damage(database: Path) -> None:
        Path(f"{database}{suffix}").mkdir()

    damage.__name__ = f"folder_as_{suffix[1:]}"
    return damage


DAMAGES = [
    *(zeroed, garbage, magic_alone, page_of_zeroes, folder, pipe, listening_socket, link, dangling_link),
    emptied_under_its_wal,
    *(folder_as_side_file(suffix) for suffix in ("-wal", "-journal")),
]


@pytest.mark.parametrize("mode", ONE_FAST)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_database_blocks_a_release_and_a_rollback_replaces_it(
    make: Make, mode: str, damage: Callable[[Path], None]
) -> None:
    """Prepare changes nothing; a rollback restores the database and keeps its remains; the next release is ready."""
    project = make(mode)
    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    damage(project.database)
    before = contents(project.state)
    manifest = make_release(project)
    assert manifest.status == "blocked", damage.__name__
    assert manifest.diagnostics[0].startswith("snapshot: ") and str(project.database) in manifest.diagnostics[0]
    assert contents(project.state) == before
    outcome = project.roll_back()
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == new
    record, remains = damaged_copy(project, outcome.safety_snapshot_id)
    assert record.damaged
    assert_remains_kept(before, remains)
    assert project.roll_back().status == "noop"
    assert make_release(project, "v3").status == "ready"
    assert project.leftovers() == []


def assert_remains_kept(before: dict[str, tuple[int, bytes | str | None]], remains: Path) -> None:
    """Fail unless the safety snapshot contains every file and link of the database and its side files."""
    for name in ("app.db", "app.db-wal", "app.db-journal", "app.db/inside"):
        mode, content = before.get(name, (0, None))
        if stat.S_ISREG(mode):
            assert (remains / name).read_bytes() == content, name
        elif stat.S_ISLNK(mode):
            assert os.readlink(remains / name) == content, name


UNALIGNED_SIZES = [1, 15, 16, 50, 99, 100, 101, 512, 1000, 4095, 4097, 8191, 8193, 12287]
PAGES = [4096, 8192]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [pytest.param(PAGES, id="pages"), pytest.param(UNALIGNED_SIZES, id="unaligned sizes",
                                                                                marks=pytest.mark.slow)])  # fmt: skip
def test_truncated_database_blocks_a_release_and_a_rollback_replaces_it(
    make: Make,
    report_points: Callable[[int], None],
    mode: str,
    sizes: list[int],
) -> None:
    """Truncated between pages and inside them; the remains are kept byte for byte."""
    project = make(mode)
    new = project.content()
    assert project.database.stat().st_size == 12288
    project.capture()
    for size in sizes:
        project.damage()
        project.mcp.write_text("{}")
        os.truncate(project.database, size)
        remains = project.database.read_bytes()
        manifest = make_release(project)
        assert manifest.status == "blocked", size
        assert project.database.read_bytes() == remains, size
        outcome = project.roll_back()
        assert outcome.status == "restored", (size, outcome.diagnostics)
        assert project.content() == new, size
        _, copy = damaged_copy(project, outcome.safety_snapshot_id)
        assert (copy / "app.db").read_bytes() == remains, size
        assert project.leftovers() == [], size
    report_points(len(sizes))


def test_empty_file_counts_as_a_database_without_tables(make: Make) -> None:
    """As in SQLite: a release of it is ready, and a rollback replaces its content."""
    project = make("wal")
    new = project.content()
    project.capture()
    os.truncate(project.database, 0)
    manifest = make_release(project)
    assert manifest.status == "ready", manifest.diagnostics
    assert project.roll_back(snapshot_id="v1_snapshot").status == "restored"
    assert project.content() == new


def test_database_that_the_system_cannot_open_is_not_reported_as_damaged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged database is replaced while the service has it open; here the rollback fails and changes nothing."""
    project.capture()
    project.damage()
    before = contents(project.state)

    class Unopened(apsw.Connection):
        def __init__(self, path: str, **options: Any) -> None:
            if "/proc/self/fd/" in path:  # a URI that leads through the folder of the live database
                raise apsw.CantOpenError("unable to open database file")
            super().__init__(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(apsw, "Connection", Unopened)
        outcome = project.roll_back()
        assert make_release(project).status == "blocked"
    assert outcome.status == "failed"
    assert "limit of open files" in outcome.diagnostics[0] and str(project.database) in outcome.diagnostics[0]
    assert contents(project.state) == before
    assert project.roll_back().status == "restored"


def side_of_another(folder: Path, suffix: str) -> bytes:
    """Return a WAL, a shared memory file or a hot journal of another database after a crash of its process."""
    other = folder / "other.db"
    journal_mode = "delete" if suffix == "-journal" else "wal"
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"db.execute('PRAGMA journal_mode = {journal_mode}')\n"
        "db.execute('CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)')\n"
        "db.execute('CREATE TABLE strange(x)')\n"
        "db.executemany('INSERT INTO accounts VALUES (?, 7)', [(i,) for i in range(50)])\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN')\n"
        "db.executemany('INSERT INTO strange VALUES (?)', [('x' * 3000,) for _ in range(200)])\n"
        "db.execute('UPDATE accounts SET balance = 8')\n"
        + ("db.execute('COMMIT')\n" if journal_mode == "wal" else "")
        + "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(other)], check=False)
    found = Path(f"{other}{suffix}").read_bytes()
    assert len(found) > 512
    return found


def accounts_as_sqlite_reads_them(database: Path, copy: Path) -> list[tuple[int, int]] | None:
    """Return the accounts as SQLite reads the file with its side files, or None when it cannot."""
    copy.mkdir()
    for path in database.parent.glob(f"{database.name}*"):
        shutil.copy(path, copy)
    connection = sqlite3.connect(copy / database.name)
    try:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return None
        return connection.execute("SELECT id, balance FROM accounts ORDER BY id").fetchall()
    except sqlite3.DatabaseError:
        return None
    finally:
        connection.close()


@pytest.mark.parametrize("mode", ONE_FAST)
@pytest.mark.parametrize("live", ["healthy", "damaged", "missing"])
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_side_file_of_another_database_never_survives_a_rollback(
    make: Make, tmp_path: Path, mode: str, live: str, suffix: str
) -> None:
    """A release contains what SQLite reads, or is blocked; after a rollback SQLite reads only the snapshot."""
    project = make(mode)
    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    if live == "missing":
        project.database.unlink()
    elif live == "damaged":
        zeroed(project.database)
    Path(f"{project.database}{suffix}").write_bytes(side_of_another(tmp_path, suffix))
    expected = accounts_as_sqlite_reads_them(project.database, tmp_path / "copy") if live == "healthy" else None
    manifest = make_release(project)
    if live == "healthy" and expected is not None:
        assert manifest.status == "ready", manifest.diagnostics
        assert manifest.snapshot is not None
        folder = project.pipeline.catalogue.path(manifest.snapshot.snapshot_id)
        captured = sqlite3.connect(f"file:{folder}/assets/database/app.db?immutable=1", uri=True)
        assert captured.execute("SELECT id, balance FROM accounts ORDER BY id").fetchall() == expected
        captured.close()
    else:
        assert manifest.status == "blocked", manifest
        assert project.pipeline.catalogue.latest().snapshot_id == "v1_snapshot"
    outcome = project.roll_back(snapshot_id="v1_snapshot")
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == new
    assert project.roll_back(snapshot_id="v1_snapshot").status in ("noop", "restored")
    assert project.content() == new
    assert project.leftovers() == []
    assert make_release(project, "v3").status == "ready"
