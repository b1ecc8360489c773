"""Restores of databases: open in a service, in both journal modes, with stale side files, damaged or missing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.support.files import file_tree
from tests.support.health import Health
from tests.support.project import MakeProject, Project
from tests.support.rollback import audit_events, roll_back, safety_folder, safety_id
from tests.support.scripts import StartService
from tests.support.writer import StartWriter

MODES = ["wal", "delete"]


def side_file(database: Path, suffix: str) -> Path:
    return Path(str(database) + suffix)


def integrity(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def journal_mode(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("mode", MODES)
def test_open_connection_sees_the_snapshot_immediately(
    make_project: MakeProject, start_service: StartService, mode: str
) -> None:
    """An old and a new connection read the snapshot, and rows written afterwards survive a restart of the service."""
    project = make_project("p", mode)
    service = start_service(project.database)
    before = project.content()
    inode = project.database.stat().st_ino
    project.capture()
    service.ask("UPDATE accounts SET balance = balance + 1")
    service.ask("CREATE TABLE later(x)")
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (9, 9, 9)")
    outcome = roll_back(project)
    assert outcome.status == "restored"
    for connection in ("old", "new"):
        assert service.ask("SELECT sum(balance), max(balance) FROM accounts", connection) == [[5000, 100]]
        assert service.ask("SELECT count(*) FROM ledger", connection) == [[0]]
        assert service.ask("SELECT count(*) FROM sqlite_master WHERE name = 'later'", connection) == [[0]]
    assert project.content() == before
    assert project.database.stat().st_ino == inode, "the file that the service has open was replaced"
    assert service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)") == []
    assert service.ask("INSERT INTO ledger(a, b, amount) VALUES (4, 5, 6)", "new") == []
    service.restart()
    assert service.ask("SELECT a, b, amount FROM ledger ORDER BY id") == [[1, 2, 3], [4, 5, 6]]
    service.stop()
    assert journal_mode(project.database) == mode
    assert integrity(project.database) == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_concurrent_reader_sees_all_old_or_all_new_rows(make_project: MakeProject, mode: str) -> None:
    """Each read during the restore returns one of the two states."""
    project = make_project("p", mode)
    project.capture()
    changed = sqlite3.connect(project.database)
    changed.execute("UPDATE accounts SET balance = 1")
    changed.execute("CREATE TABLE filler AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 60000)"
                    " SELECT x, hex(randomblob(40)) AS y FROM n")  # fmt: skip
    changed.commit()
    changed.close()
    script = (
        "import select, sqlite3, sys\n"
        "print('go', flush=True)\n"
        "seen = set()\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    db = sqlite3.connect(sys.argv[1], timeout=30)\n"
        "    seen.add(db.execute('SELECT sum(balance) FROM accounts').fetchone()[0])\n"
        "    db.close()\n"
        "print(*seen)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(project.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "go\n"
    try:
        assert roll_back(project).status == "restored"
    finally:
        output, _ = process.communicate("\n", timeout=30)
    assert {int(word) for word in output.split()} <= {50, 5000}
    assert integrity(project.database) == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_restore_under_a_busy_writer_keeps_the_database_consistent(
    make_project: MakeProject, start_writer: StartWriter, mode: str
) -> None:
    """The sum of the accounts is correct, the service continues to write, and the database is intact."""
    project = make_project("p", mode)
    project.capture()
    writer = start_writer(project.database, mode, 0.001)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    writer.terminate()
    writer.wait(timeout=30)
    assert writer.returncode == 0
    connection = sqlite3.connect(project.database)
    assert connection.execute("SELECT sum(balance) FROM accounts").fetchone() == (5000,)
    ids = [row[0] for row in connection.execute("SELECT id FROM ledger ORDER BY id")]
    connection.close()
    assert ids == list(range(1, len(ids) + 1)), "rows from before the restore are in the database"
    assert integrity(project.database) == "ok"
    safety = safety_folder(project, outcome) / "assets" / "database" / "app.db"
    connection = sqlite3.connect(f"file:{safety}?immutable=1", uri=True)
    assert connection.execute("SELECT sum(balance) FROM accounts").fetchone() == (5000,)
    connection.close()


def side_file_of_another_database(tmp_path: Path, mode: str) -> Path:
    """Return a side file of another database, as a crash of its process leaves it."""
    other = tmp_path / "other.db"
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"db.execute('PRAGMA journal_mode = {mode}')\n"
        "db.execute('CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER)')\n"
        "db.execute('CREATE TABLE foreign_table(x)')\n"
        "db.executemany('INSERT INTO accounts VALUES (?, 7)', [(i,) for i in range(50)])\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN')\n"
        "db.executemany('INSERT INTO foreign_table VALUES (?)', [('x' * 3000,) for _ in range(200)])\n"
        "db.execute('UPDATE accounts SET balance = 8')\n"
        + ("db.execute('COMMIT')\n" if mode == "wal" else "")
        + "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(other)], check=False)
    suffix = "-wal" if mode == "wal" else "-journal"
    assert side_file(other, suffix).stat().st_size > 512
    return side_file(other, suffix)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("live", ["present", "missing", "zeroed"])
@pytest.mark.parametrize("kind", MODES)
def test_stale_side_file_never_changes_the_restored_rows(
    make_project: MakeProject, tmp_path: Path, mode: str, live: str, kind: str
) -> None:
    """Whatever side file exists, old and new connections read the snapshot and nothing else."""
    project = make_project("p", mode)
    before = project.content()
    project.capture()
    project.damage()
    stale = side_file_of_another_database(tmp_path, kind)
    if live == "missing":
        project.database.unlink()
    elif live == "zeroed":
        with project.database.open("r+b") as file:
            file.write(bytes(100))
    target = side_file(project.database, "-wal" if kind == "wal" else "-journal")
    shutil.copy(stale, target)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == before
    assert integrity(project.database) == "ok"
    assert project.leftovers() == []


def zero_header(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(100))


def truncate(database: Path) -> None:
    """Cut the file in the middle of a page."""
    os.truncate(database, database.stat().st_size // 2 + 100)


def truncate_to_zero(database: Path) -> None:
    os.truncate(database, 0)


def overwrite_with_random_bytes(database: Path) -> None:
    database.write_bytes(os.urandom(9000))


def replace_by_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()
    (database / "inside").write_text("inside")


def corrupt_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 512)


def replace_by_link(database: Path) -> None:
    shutil.move(database, database.with_name("moved.db"))
    os.symlink("moved.db", database)


DAMAGES = [zero_header, truncate, overwrite_with_random_bytes, replace_by_folder, corrupt_page]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("damage", [*DAMAGES, truncate_to_zero, Path.unlink, replace_by_link], ids=lambda f: f.__name__)
def test_database_that_cannot_be_opened_is_replaced(
    make_project: MakeProject, mode: str, damage: Callable[[Path], None]
) -> None:
    """Rows, mode and journal mode are those of the snapshot."""
    project = make_project("p", mode)
    before = project.content()
    project.capture()
    project.damage()
    damage(project.database)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert "database" in outcome.restored_assets
    assert project.content() == before
    assert integrity(project.database) == "ok"
    assert project.leftovers() == []
    assert roll_back(project).status == "noop"
    if damage is not truncate_to_zero:
        assert journal_mode(project.database) == mode


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_safety_snapshot_contains_the_bytes_of_a_damaged_database(
    make_project: MakeProject, damage: Callable[[Path], None]
) -> None:
    """Every byte is kept, so that an operator can repair the database."""
    project = make_project("p", "delete")
    project.capture()
    project.damage()
    damage(project.database)
    files = [project.database] if project.database.is_file() else [project.database / "inside"]
    remains = {path.relative_to(project.state): path.read_bytes() for path in files}
    outcome = roll_back(project)
    stored = safety_folder(project, outcome) / "assets" / "database" / "app.db"
    assert {path: (stored / path).read_bytes() for path in remains} == remains
    record = project.pipeline.catalogue.get(safety_id(outcome)).asset("database")
    assert record is not None and record.damaged


def test_safety_snapshot_of_a_damaged_database_is_refused(project: Project) -> None:
    """A rollback to a safety snapshot with remains ends in a message and changes nothing."""
    project.capture()
    zero_header(project.database)
    outcome = roll_back(project)
    assert outcome.status == "restored"
    before = file_tree(project.state)
    back = roll_back(project, outcome.safety_snapshot_id)
    assert back.status == "failed"
    assert "remains" in back.diagnostics[0]
    assert file_tree(project.state) == before


def test_message_names_only_a_rollback_that_works(project: Project, health: Health) -> None:
    """The rollback command that a message names restores, or the message names none."""
    project.overrides["health.url"] = health.url
    project.overrides["health.deadline"] = "200ms"
    health.status = 500
    project.capture()
    zero_header(project.database)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    if any("--snapshot safety" in message for message in outcome.diagnostics):
        health.status = 200
        assert roll_back(project, outcome.safety_snapshot_id).status == "restored"


def test_safety_snapshot_contains_the_wal_of_an_emptied_database(project: Project, start_service: StartService) -> None:
    """Committed rows that exist in the WAL only are kept."""
    project.capture()
    service = start_service(project.database)
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 4242)")
    service.crash()
    wal = side_file(project.database, "-wal").read_bytes()
    assert wal
    os.truncate(project.database, 0)
    outcome = roll_back(project)
    assert outcome.status == "restored"
    stored = safety_folder(project, outcome) / "assets" / "database"
    assert any(path.read_bytes() == wal for path in stored.rglob("*-wal"))


def test_rows_that_a_crash_left_in_the_wal_are_in_the_safety_snapshot(
    project: Project, start_service: StartService
) -> None:
    """Committed rows that were not checkpointed come back with the safety snapshot."""
    project.capture()
    service = start_service(project.database)
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 4242)")
    service.crash()
    outcome = roll_back(project)
    assert project.rows()[1] == []
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.rows()[1] == [(1, 1, 2, 4242)]


@pytest.mark.parametrize("mode", MODES)
def test_restore_after_a_page_size_change_works_in_both_directions(make_project: MakeProject, mode: str) -> None:
    """The database was rebuilt by VACUUM with another page size since the snapshot."""
    project = make_project("p", mode)
    before = project.content()
    project.capture()
    database = sqlite3.connect(project.database, isolation_level=None)
    database.execute("PRAGMA journal_mode = delete")
    database.execute("PRAGMA page_size = 16384")
    database.execute("VACUUM")
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    database.close()
    bad = project.content()
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert project.content() == before
    assert journal_mode(project.database) == mode
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert integrity(project.database) == "ok"


def change_page_size(project: Project, mode: str) -> None:
    database = sqlite3.connect(project.database, isolation_level=None)
    database.execute("PRAGMA journal_mode = delete")
    database.execute("PRAGMA page_size = 16384")
    database.execute("VACUUM")
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.close()


def test_page_size_change_under_an_open_service_in_rollback_mode_is_restored(
    make_project: MakeProject, start_service: StartService
) -> None:
    """The old connection of the service follows the new page size."""
    project = make_project("p", "delete")
    project.capture()
    change_page_size(project, "delete")
    service = start_service(project.database)
    service.ask("UPDATE accounts SET balance = 0")
    assert roll_back(project).status == "restored"
    for connection in ("old", "new"):
        assert service.ask("SELECT sum(balance) FROM accounts", connection) == [[5000]]
    assert service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)") == []
    service.restart()
    assert service.ask("SELECT amount FROM ledger") == [[3]]
    service.stop()
    assert integrity(project.database) == "ok"


def test_page_size_change_under_an_open_service_in_wal_mode_is_all_or_nothing(
    make_project: MakeProject, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot do this online: the rollback fails with a message and leaves all unchanged, or it restores."""
    project = make_project("p", "wal")
    project.overrides["lock_wait"] = "300ms"
    project.capture()
    change_page_size(project, "wal")
    service = start_service(project.database)
    service.ask("UPDATE accounts SET balance = 0")
    project.damage()
    before = project.content()
    outcome = roll_back(project)
    if outcome.status == "failed":
        assert "stop the service" in outcome.diagnostics[0]
        assert f"locked by process {service.process.pid} (" in outcome.diagnostics[0]
        assert project.content() == before
        assert service.ask("SELECT sum(balance) FROM accounts") == [[50]]
        assert journal_mode(project.database) == "wal"
        service.stop()
        assert roll_back(project).status == "restored"
    assert project.rows()[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_locked_database_fails_after_the_busy_time_and_changes_nothing(
    make_project: MakeProject, start_service: StartService,
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:  # fmt: skip
    """BEGIN EXCLUSIVE in the service: a message, the live state unchanged, and the next rollback restores."""
    project = make_project("p", mode)
    project.overrides["lock_wait"] = "300ms"
    project.capture()
    project.damage()
    service = start_service(project.database)
    service.ask("SELECT count(*) FROM ledger")
    service.ask("BEGIN EXCLUSIVE")
    before = {k: v for k, v in file_tree(project.state).items() if not k.startswith("app.db-")}
    start = time.monotonic()
    outcome = roll_back(project)
    assert time.monotonic() - start < 5
    assert outcome.status == "failed"
    assert "stayed locked by process" in outcome.diagnostics[0]
    assert "Nothing live was changed. To wait longer: inv release.rollback --lock-wait 2m" in outcome.diagnostics[0]
    assert {k: v for k, v in file_tree(project.state).items() if not k.startswith("app.db-")} == before
    assert not project.pipeline.journal_path.exists()
    assert project.leftovers() == []
    assert audit_events(project)[-1] == ("rollback.refused", "failed")
    service.ask("ROLLBACK")
    assert roll_back(project).status == "restored"


def test_open_read_transaction_allows_a_restore_in_wal_mode(
    project: Project, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader keeps its old view until its transaction ends; then it sees the snapshot."""
    project.overrides["lock_wait"] = "500ms"
    project.capture()
    service = start_service(project.database)
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    service.ask("BEGIN")
    assert service.ask("SELECT count(*) FROM ledger") == [[1]]
    assert roll_back(project).status == "restored"
    assert service.ask("SELECT count(*) FROM ledger") == [[1]]
    assert service.ask("SELECT count(*) FROM ledger", "new") == [[0]]
    service.ask("COMMIT")
    assert service.ask("SELECT count(*) FROM ledger") == [[0]]


def test_open_read_transaction_fails_a_restore_in_rollback_mode(
    make_project: MakeProject, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot commit while the reader exists: the rollback fails and leaves all unchanged."""
    project = make_project("p", "delete")
    project.overrides["lock_wait"] = "300ms"
    project.capture()
    project.damage()
    service = start_service(project.database)
    service.ask("BEGIN")
    service.ask("SELECT count(*) FROM ledger")
    before = project.content()
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert project.content() == before
    assert "locked" in outcome.diagnostics[0]
    service.ask("COMMIT")
    assert roll_back(project).status == "restored"


def test_database_absent_at_snapshot_time_is_removed_with_its_side_files(
    project: Project, start_service: StartService
) -> None:
    """No -wal stays that another database could read; the safety snapshot contains the rows."""
    project.overrides["assets.second"] = {"sqlite": "state/second.db", "required": False}
    project.capture()
    second = project.state / "second.db"
    shutil.copy(project.database, second)
    service = start_service(second)
    service.ask("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 77)")
    outcome = roll_back(project)
    assert outcome.removed_assets == ["second"]
    service.crash()
    assert [path.name for path in project.state.iterdir() if path.name.startswith("second")] == []
    back = roll_back(project, outcome.safety_snapshot_id)
    assert back.status == "restored"
    database = sqlite3.connect(second)
    assert database.execute("SELECT amount FROM ledger").fetchall() == [(77,)]
    database.close()
    assert project.leftovers() == []


def test_hot_journal_of_a_crashed_service_is_played_back_first(make_project: MakeProject, tmp_path: Path) -> None:
    """An unfinished transaction is not captured: the safety snapshot contains the committed rows."""
    project = make_project("p", "delete")
    project.capture()
    project.damage()
    committed = project.content()
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN')\n"
        "db.execute('UPDATE accounts SET balance = 1')\n"
        "db.execute('CREATE TABLE big(x)')\n"
        "db.executemany('INSERT INTO big VALUES (?)', [('x' * 3000,) for _ in range(200)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(project.database)], check=False)
    assert side_file(project.database, "-journal").stat().st_size > 512
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == committed


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode = WAL", "backup"])
def test_lock_during_a_page_size_change_ends_all_old_or_all_new(
    project: Project, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Leaving WAL mode, copying and entering WAL mode are three steps; the database is locked once at one of them."""
    new = project.content()
    project.capture()
    change_page_size(project, "wal")
    project.damage()
    old = project.content()
    is_armed = True

    class BusyOnce(apsw.Connection):
        """Answers one statement, or one copy into the live database, with SQLITE_BUSY."""

        def execute(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
            if statements == statement:
                disarm()
            return super().execute(statements, *arguments, **options)

        def backup(self, name: str, source: Any, source_name: str) -> apsw.Backup:
            if statement == "backup" and os.path.realpath(self.filename) == str(project.database):
                disarm()
            return super().backup(name, source, source_name)

    def disarm() -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise apsw.BusyError("database is locked")

    monkeypatch.setattr(apsw, "Connection", BusyOnce)
    outcome = roll_back(project)
    assert not is_armed
    assert project.content() == (new if outcome.status == "restored" else old)
    assert journal_mode(project.database) == "wal"
