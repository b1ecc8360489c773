"""Databases that are locked for good, damaged in every way, or lie beside another's files: the documented result."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets.sqlite import database as store
from release_tasks.core.errors import StageFailed
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project

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


class PowerCut(BaseException):
    """Ends a rollback as a crash does."""


def roll(project: Project, **flags: Any) -> Any:
    return rollback(project.settings, RollbackRequest(**flags))


def make_release(project: Project, release_id: str = "v2") -> Any:
    return prepare(project.settings, passed_preflight(), release_id)


@pytest.fixture
def make(make_project: Callable[..., Any], steady: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Return a maker of projects in a journal mode."""
    return lambda mode: steady(make_project("p", mode))


@pytest.fixture
def hold() -> Iterator[Callable[[Path, str], Callable[[], None]]]:
    """Return a function that lets another process hold a transaction open; what it returns ends that."""
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


# What a transaction that never ends leaves possible: (journal mode, kind) -> (a release, a rollback).
LOCKS = {
    ("wal", "DEFERRED"): ("ready", "restored"),
    ("wal", "IMMEDIATE"): ("ready", "failed"),
    ("wal", "EXCLUSIVE"): ("ready", "failed"),
    ("delete", "DEFERRED"): ("ready", "failed"),
    ("delete", "IMMEDIATE"): ("ready", "failed"),
    ("delete", "EXCLUSIVE"): ("blocked", "failed"),
}


@pytest.mark.parametrize(("mode", "kind"), LOCKS)
def test_a_transaction_that_never_ends_bars_what_it_must_and_no_more(
    make: Callable[[str], Any], hold: Any, monkeypatch: pytest.MonkeyPatch, mode: str, kind: str
) -> None:
    """A reader bars no capture, a writer bars no capture in WAL mode; what is barred says so, and changes nothing."""
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.3)
    release, restore = LOCKS[mode, kind]
    project = make(mode)
    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    files = project.content()["files"]
    let_go = hold(project.database, kind)
    manifest = make_release(project)
    assert manifest.status == release, manifest.diagnostics
    outcome = roll(project, snapshot_id="v1_snapshot")
    assert outcome.status == restore, outcome.diagnostics
    for told in [manifest.diagnostics] * (release == "blocked") + [outcome.diagnostics] * (restore == "failed"):
        assert "stayed locked" in told[0] and str(project.database) in told[0]
    let_go()
    if restore == "failed":
        assert project.content()["files"] == files
        assert not project.pipeline.journal_path.exists()
    assert roll(project, snapshot_id="v1_snapshot").status in ("restored", "noop")
    assert project.content() == new
    assert project.strays() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("notes", [1, 3])
def test_a_transaction_that_never_ends_keeps_a_recovery_open_until_it_does(
    make: Callable[[str], Any], hold: Any, monkeypatch: pytest.MonkeyPatch, mode: str, notes: int
) -> None:
    """Begun, or done and to be undone: never called finished while it is not, and finished by the next."""
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.3)
    project = make(mode)
    new = project.content()
    project.capture()
    project.damage()
    old = project.content()
    note, count = swap.Swap._note, 0

    def noted(self: Any, step: Any) -> Any:
        nonlocal count
        count += 1
        if count > notes:
            raise PowerCut
        return note(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(swap.Swap, "_note", noted)
        with pytest.raises(PowerCut):
            roll(project)
    let_go = hold(project.database, "EXCLUSIVE")
    if notes == 1:
        with pytest.raises(StageFailed, match="stayed locked") as error:
            recover(project.settings)
        assert "inv release.recover" in error.value.message
        assert project.pipeline.journal_path.exists()
        let_go()
        assert recover(project.settings).status in ("finished", "undone")
    else:
        assert recover(project.settings).status == "finished"  # the database was done before
        let_go()
    assert project.content() in (old, new)
    assert roll(project).status in ("restored", "noop")
    assert project.content() == new
    assert project.strays() == []


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
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(database.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{database.name}")  # the whole path may be too long for a socket
        os.close(here)


def link(database: Path) -> None:
    shutil.move(database, database.with_name("moved.db"))
    database.symlink_to("moved.db")


def dangling_link(database: Path) -> None:
    database.unlink()
    database.symlink_to("nothing")


def emptied_under_its_wal(database: Path) -> None:
    """Commit, die without closing, and lose every byte of the file itself."""
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode = WAL')\n"
        "db.execute('INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(database)], check=False)
    os.truncate(database, 0)


def folder_in_the_place_of_a_side_file(suffix: str) -> Callable[[Path], None]:
    def damage(database: Path) -> None:
        Path(f"{database}{suffix}").mkdir()

    damage.__name__ = f"folder_in_the_place_of_{suffix[1:]}"
    return damage


DAMAGES = [
    *(zeroed, garbage, magic_alone, page_of_zeroes, folder, pipe, listening_socket, link, dangling_link),
    emptied_under_its_wal,
    *(folder_in_the_place_of_a_side_file(suffix) for suffix in ("-wal", "-journal")),
]


@pytest.mark.parametrize("mode", ONE_FAST)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_database_blocks_a_release_and_is_replaced_whole_by_a_rollback(
    make: Callable[[str], Any], mode: str, damage: Callable[[Path], None]
) -> None:
    """Prepare touches nothing; a rollback brings it back and keeps the remains, and the next release is ready."""
    project = make(mode)
    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    damage(project.database)
    before = everything(project.state)
    manifest = make_release(project)
    assert manifest.status == "blocked", damage.__name__
    assert manifest.diagnostics[0].startswith("snapshot: ") and str(project.database) in manifest.diagnostics[0]
    assert everything(project.state) == before
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == new
    record = project.pipeline.catalogue.get(outcome.safety_snapshot_id).asset("database")
    assert record.damaged
    kept = project.pipeline.catalogue.path(outcome.safety_snapshot_id) / record.relative_path
    hold_remains(before, kept)
    assert roll(project).status == "noop"
    assert make_release(project, "v3").status == "ready"
    assert project.strays() == []


def everything(root: Path) -> dict[str, Any]:
    """Return kind, mode and bytes or target of everything below a folder."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        info = os.lstat(path)
        kept: Any = None
        if stat.S_ISREG(info.st_mode):
            kept = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            kept = os.readlink(path)
        found[str(path.relative_to(root))] = (info.st_mode, kept)
    return found


def hold_remains(before: dict[str, Any], kept: Path) -> None:
    """Every file and link that stood in the database's place, or beside it, is in the safety snapshot."""
    for name in ("app.db", "app.db-wal", "app.db-journal", "app.db/inside"):
        mode, content = before.get(name, (0, None))
        if stat.S_ISREG(mode):
            assert (kept / name).read_bytes() == content, name
        elif stat.S_ISLNK(mode):
            assert os.readlink(kept / name) == content, name


ODD_SIZES = [1, 15, 16, 50, 99, 100, 101, 512, 1000, 4095, 4097, 8191, 8193, 12287]
PAGES = [4096, 8192]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [pytest.param(PAGES, id="pages"), pytest.param(ODD_SIZES, id="odd sizes",
                                                                                marks=pytest.mark.slow)])  # fmt: skip
def test_a_database_truncated_anywhere_blocks_a_release_and_is_replaced_by_a_rollback(
    make: Callable[[str], Any],
    tried: Callable[[int], None],
    mode: str,
    sizes: list[int],
) -> None:
    """At every page and in the middle of them; what is left of it is kept byte for byte."""
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
        outcome = roll(project)
        assert outcome.status == "restored", (size, outcome.diagnostics)
        assert project.content() == new, size
        record = project.pipeline.catalogue.get(outcome.safety_snapshot_id).asset("database")
        kept = project.pipeline.catalogue.path(outcome.safety_snapshot_id) / record.relative_path
        assert (kept / "app.db").read_bytes() == remains, size
        assert project.strays() == [], size
    tried(len(sizes))


def test_an_empty_file_is_a_database_without_tables_to_both(make: Callable[[str], Any]) -> None:
    """SQLite says so; a release of it is ready, and a rollback restores over it."""
    project = make("wal")
    new = project.content()
    project.capture()
    os.truncate(project.database, 0)
    manifest = make_release(project)
    assert manifest.status == "ready", manifest.diagnostics
    assert roll(project, snapshot_id="v1_snapshot").status == "restored"
    assert project.content() == new


def test_a_database_that_cannot_be_opened_for_a_reason_of_the_system_is_not_called_damaged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be replaced under the service that has it open: failed, the file untouched, and no remains kept."""
    import apsw

    project.capture()
    project.damage()
    before = everything(project.state)

    class Unopened(apsw.Connection):
        def __init__(self, path: str, **options: Any) -> None:
            if path == str(project.database):
                raise apsw.CantOpenError("unable to open database file")
            super().__init__(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(apsw, "Connection", Unopened)
        outcome = roll(project)
        assert make_release(project).status == "blocked"
    assert outcome.status == "failed"
    assert "limit of open files" in outcome.diagnostics[0] and str(project.database) in outcome.diagnostics[0]
    assert everything(project.state) == before
    assert roll(project).status == "restored"


def side_of_another(folder: Path, suffix: str) -> bytes:
    """Return a WAL, a shared memory or a hot journal of another database, as a crash of its process leaves it."""
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


def as_sqlite_reads_it(database: Path, copy: Path) -> Any:
    """Return what SQLite makes of the file and all that lies beside it, or None when it cannot."""
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
def test_a_side_file_of_another_database_is_captured_as_sqlite_reads_it_and_never_restored_into(
    make: Callable[[str], Any], tmp_path: Path, mode: str, live: str, suffix: str
) -> None:
    """A release holds what the service would read, or is blocked; after a rollback only the snapshot is read."""
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
    expected = as_sqlite_reads_it(project.database, tmp_path / "copy") if live == "healthy" else None
    manifest = make_release(project)
    if live == "healthy" and expected is not None:
        assert manifest.status == "ready", manifest.diagnostics
        folder = project.pipeline.catalogue.path(manifest.snapshot.snapshot_id)
        captured = sqlite3.connect(f"file:{folder}/assets/database/app.db?immutable=1", uri=True)
        assert captured.execute("SELECT id, balance FROM accounts ORDER BY id").fetchall() == expected
        captured.close()
    else:
        assert manifest.status == "blocked", manifest
        assert project.pipeline.catalogue.latest().snapshot_id == "v1_snapshot"
    outcome = roll(project, snapshot_id="v1_snapshot")
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == new
    assert roll(project, snapshot_id="v1_snapshot").status in ("noop", "restored")
    assert project.content() == new
    assert project.strays() == []
    assert make_release(project, "v3").status == "ready"
