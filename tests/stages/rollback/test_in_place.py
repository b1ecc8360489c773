"""In place means equal: a second bad release after a restore is never called live, and newer rows are named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.assets.findings import RowCounts
from release_tasks.assets.sqlite.comparison import compare_databases
from release_tasks.core.events import Event, Noted
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.rollback.in_place import find_last_restore
from release_tasks.stages.rollback.outcome import NOT_ASKED
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.files import make_socket
from tests.support.health import Health
from tests.support.processes import await_true
from tests.support.project import MakeProject, Project
from tests.support.rollback import audit_events, roll_back, safety_folder, safety_id
from tests.support.scripts import StartService
from tests.support.users import as_user
from tests.support.writer import StartWriter


def run_sql(project: Project, *statements: str) -> None:
    """Run statements in the live database, as a migration does."""
    database = sqlite3.connect(project.database, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


def add_schema(project: Project) -> None:
    """Add an object of each kind to the live database, which has no side files afterwards."""
    run_sql(
        project,
        "CREATE TABLE Notes(id INTEGER PRIMARY KEY, body TEXT DEFAULT 'a  b', state TEXT DEFAULT 'new')",
        "INSERT INTO Notes(body) VALUES ('one'), ('two'), ('three')",
        "CREATE INDEX notes_body ON Notes(body)",
        "CREATE VIEW bodies AS SELECT body FROM Notes",
        "CREATE TRIGGER counted AFTER INSERT ON Notes BEGIN UPDATE accounts SET balance = balance; END",
        "PRAGMA user_version = 3",
    )


@pytest.fixture
def restored(project: Project) -> Project:
    """Return a project whose snapshot v1 is restored."""
    add_schema(project)
    project.capture()
    project.damage()
    assert roll_back(project).status == "restored"
    return project


def owners_of(project: Project) -> dict[str, tuple[int, int]]:
    """Return user and group of every path of the state."""
    found = {str(path): os.lstat(path) for path in project.state.rglob("*")}
    return {path: (info.st_uid, info.st_gid) for path, info in found.items()}


def guide_rows(project: Project) -> list[str]:
    """Return the keys of the findings of a diagnosis."""
    return [finding.key for finding in diagnose_service(project.settings)[1].findings]


SCHEMA_CHANGES = {
    "a table dropped": (["DROP TABLE ledger"], "table ledger is missing"),
    "a table added": (["CREATE TABLE extra(a)"], "table extra was added"),
    "a column added": (["ALTER TABLE Notes ADD COLUMN tag"], "table Notes: column tag was added"),
    "a column dropped": (["ALTER TABLE Notes DROP COLUMN state"], "table Notes: column state is missing"),
    "a column renamed": (
        ["ALTER TABLE Notes RENAME COLUMN state TO status"],
        "table Notes: column state is missing, column status was added",
    ),
    "a table renamed": (["ALTER TABLE ledger RENAME TO entries"], "table ledger is missing"),
    "an index dropped": (["DROP INDEX notes_body"], "index notes_body is missing"),
    "a unique index": (["DROP INDEX notes_body", "CREATE UNIQUE INDEX notes_body ON Notes(body)"], "index notes_body"),
    "a view changed": (["DROP VIEW bodies", "CREATE VIEW bodies AS SELECT id FROM Notes"], "view bodies was changed"),
    "a trigger dropped": (["DROP TRIGGER counted"], "trigger counted is missing"),
    "a default changed in white space": (
        ["PRAGMA writable_schema = 1", "UPDATE sqlite_schema SET sql = replace(sql, 'a  b', 'a b') WHERE name='Notes'"],
        "table Notes was changed",
    ),
    "user_version": (["PRAGMA user_version = 7"], "user_version 7 instead of 3"),
    "application_id": (["PRAGMA application_id = 77"], "application_id 77 instead of 0"),
}


@pytest.mark.parametrize("name", SCHEMA_CHANGES)
def test_every_change_of_the_schema_is_found_and_named(project: Project, name: str) -> None:
    """A copy of the database before, and one after."""
    add_schema(project)
    before = shutil.copy(project.database, project.folder / "before.db")
    statements, difference = SCHEMA_CHANGES[name]
    run_sql(project, *statements)
    drift = compare_databases(Path(before), project.database)
    assert not drift.is_in_place
    assert difference in "; ".join(drift.schema)


@pytest.mark.timeout(20)
def test_many_changed_tables_are_compared_in_a_moment(project: Project) -> None:
    """A release that adds a column to each of 2,000 tables: some are described, the others are counted."""
    run_sql(project, "BEGIN", *(f"CREATE TABLE t{number:04}(a)" for number in range(2000)), "COMMIT")
    before = shutil.copy(project.database, project.folder / "before.db")
    changed = "UPDATE sqlite_schema SET sql = replace(sql, '(a)', '(a, b)')"
    run_sql(project, "PRAGMA journal_mode = DELETE", "PRAGMA writable_schema = 1", changed)
    drift = compare_databases(Path(before), project.database)
    assert drift.schema == [
        *(f"table t{number:04}: column b was added" for number in range(5)),
        "1995 more differences",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a table dropped", "a default changed in white space", "user_version"])
def test_another_schema_is_restored_although_the_snapshot_was_restored_last(
    restored: Project, health: Health, name: str
) -> None:
    """Health is shallow and passes. Rollback, plan and diagnosis agree, and the answer says what differed."""
    restored.overrides["health.url"] = health.url
    before = restored.content()
    statements, difference = SCHEMA_CHANGES[name]
    run_sql(restored, *statements)
    assert "schema-changed" in guide_rows(restored)
    planned = " ".join(plan_rollback(restored.settings).diagnostics)
    assert "is a noop" not in planned and difference in planned
    outcome = roll_back(restored)
    assert outcome.status == "restored"
    assert difference in " ".join(outcome.diagnostics)
    assert restored.content() == before
    assert "schema-changed" not in guide_rows(restored)
    assert roll_back(restored).status == "noop"


EQUAL_SCHEMAS = {
    "statistics": ["ANALYZE"],
    "vacuum": ["VACUUM"],
    "auto_vacuum": ["PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = FULL", "VACUUM"],
    "page size": ["PRAGMA journal_mode = DELETE", "PRAGMA page_size = 8192", "VACUUM"],
    "reindex": ["REINDEX"],
    "checkpoint": ["PRAGMA wal_checkpoint(TRUNCATE)"],
    "renamed and back": ["ALTER TABLE Notes RENAME TO other", "ALTER TABLE other RENAME TO Notes"],
    "built again in other words": [
        "DROP INDEX notes_body",
        "CREATE  INDEX IF NOT EXISTS [notes_body] /* again */ on NOTES ( `body` ) -- as before",
    ],
}


@pytest.mark.parametrize("name", EQUAL_SCHEMAS)
def test_maintenance_is_no_other_schema(project: Project, name: str) -> None:
    """What keeps the meaning of the schema keeps the snapshot in place."""
    add_schema(project)
    before = shutil.copy(project.database, project.folder / "before.db")
    run_sql(project, *EQUAL_SCHEMAS[name], "INSERT INTO Notes(body) VALUES ('later')")
    drift = compare_databases(Path(before), project.database)
    assert drift.schema == []
    assert drift.rows == {"Notes": RowCounts(3, 4)}


def test_rows_that_a_restore_over_another_schema_removed_are_counted_and_come_back(restored: Project) -> None:
    """Each table is named with its number of rows, the safety snapshot with the command, and that command works."""
    run_sql(
        restored,
        "INSERT INTO Notes(body) VALUES ('four'), ('five')",
        "CREATE TABLE sessions(id)",
        "INSERT INTO sessions VALUES (1), (2), (3)",
        "DELETE FROM accounts WHERE id < 5",
    )
    bad = restored.content()
    outcome = roll_back(restored)
    text = " ".join(outcome.diagnostics)
    assert outcome.removed_rows == {"database": {"Notes": 2, "sessions": 3}}
    assert "database: the rollback removed at least 3 rows of sessions and 2 of Notes" in text
    assert f"which the snapshot does not contain. The state before it is in {safety_id(outcome)}." in text
    assert "database: the rollback brought back at least 5 rows of accounts." in text
    assert roll_back(restored, safety_id(outcome)).status == "restored"
    assert restored.content() == bad


def test_a_plan_counts_the_rows_that_a_rollback_would_remove(restored: Project) -> None:
    """The numbers of the plan are those of the rollback after it."""
    run_sql(restored, "INSERT INTO Notes(body) VALUES ('four')", "DROP TABLE ledger")
    plan = plan_rollback(restored.settings)
    assert plan.removed_rows == {"database": {"Notes": 1}}
    assert (
        "database: the rollback would remove at least 1 row of Notes, which the snapshot does not contain."
        in plan.diagnostics
    )
    assert roll_back(restored).removed_rows == plan.removed_rows


def test_a_noop_names_the_rows_of_the_service_and_force(restored: Project) -> None:
    """Newer rows stay; the answer says how many there are in each table, and which command removes them."""
    run_sql(restored, "INSERT INTO Notes(body) VALUES ('four'), ('five')", "INSERT INTO ledger(a) VALUES (1)")
    outcome = roll_back(restored)
    assert outcome.status == "noop"
    assert outcome.diagnostics[0] == "database: added since the restore: at least 2 rows of Notes and 1 of ledger."
    *notes, not_asked = outcome.diagnostics
    assert "inv release.rollback --snapshot v1_snapshot --force" in notes[-1] and not_asked == NOT_ASKED
    assert notes == plan_rollback(restored.settings).diagnostics[-len(notes) :]


def test_lost_rows_are_named_first(restored: Project) -> None:
    """A table that a second bad release emptied is not called in place in silence."""
    run_sql(restored, "DELETE FROM Notes", "INSERT INTO ledger(a) VALUES (1)")
    outcome = roll_back(restored)
    assert outcome.status == "noop"
    assert outcome.diagnostics[0] == "database: missing since the restore: at least 3 rows of Notes."
    assert "--force" in outcome.diagnostics[-2]
    assert "rows-missing" in guide_rows(restored)
    assert roll_back(restored, force=True).status == "restored"


def test_changed_rows_are_named(restored: Project) -> None:
    """The numbers of rows are equal, and the content is not."""
    run_sql(restored, "UPDATE Notes SET body = 'overwritten'")
    outcome = roll_back(restored)
    assert outcome.status == "noop"
    assert outcome.diagnostics[0] == "database: its content was changed since the restore."


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_busy_service_keeps_its_rows(make_project: MakeProject, start_writer: StartWriter, journal_mode: str) -> None:
    """While a service writes without a pause, the rollback is a noop, and no committed row is lost."""
    project = make_project("busy", journal_mode)
    project.capture()
    project.damage()
    assert roll_back(project).status == "restored"
    writer = start_writer(project.database, journal_mode)
    await_true(lambda: len(project.rows()[1]) > 5)
    before = len(project.rows()[1])
    outcome = roll_back(project)
    assert outcome.status == "noop", outcome.diagnostics
    assert "of ledger." in outcome.diagnostics[0]
    assert writer.poll() is None
    assert len(project.rows()[1]) >= before


def test_an_unchanged_state_is_in_place_without_any_note(restored: Project) -> None:
    assert roll_back(restored).diagnostics == [NOT_ASKED]


def _exchange(path: Path, make: Callable[[Path], object]) -> None:
    """Remove what has the name ``path`` and make something else there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    make(path)


def _link_to_equal_file(path: Path) -> None:
    other = path.parent.with_name("moved")
    other.write_text('{"mcpServers": {}}')
    path.symlink_to(other)


FILE_CHANGES: dict[str, Callable[[Project], object]] = {
    "mode of a file": lambda project: os.chmod(project.mcp, 0o600),
    "mode of the folder": lambda project: os.chmod(project.identity, 0o711),
    "mode 0": lambda project: os.chmod(project.mcp, 0),
    "owner of a file": lambda project: os.chown(project.mcp, 12345, -1),
    "group of a file in a folder": lambda project: os.chown(project.identity / "identity.json", -1, 12345),
    "owner of an empty folder": lambda project: os.chown(project.identity / "keys" / "empty", 12345, 12345),
    "owner of a link": lambda project: os.lchown(project.identity / "current", 12345, 12345),
    "target of a link": lambda project: _exchange(project.identity / "current", lambda path: path.symlink_to("keys")),
    "a socket": lambda project: make_socket(project.identity / "service.sock"),
    "a pipe": lambda project: os.mkfifo(project.identity / "pipe"),
    "a pipe in the place of a file": lambda project: _exchange(project.mcp, os.mkfifo),
    "a folder in the place of a file": lambda project: _exchange(project.mcp, Path.mkdir),
    "a link to an equal file": lambda project: _exchange(project.mcp, _link_to_equal_file),
    "a file in the place of a folder": lambda project: _exchange(project.identity, Path.touch),
    "a new file": lambda project: project.extra.write_text("{}"),
    "a dangling link": lambda project: project.extra.symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", FILE_CHANGES)
def test_any_change_of_files_and_folders_is_restored(restored: Project, name: str) -> None:
    """Bytes, modes, owners, types and presence: rollback, plan and diagnosis agree."""
    if "owner" in name and os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root may change owners")
    before, owners = restored.content(), owners_of(restored)
    FILE_CHANGES[name](restored)
    if name == "owner of a link":
        assert "files-changed" in guide_rows(restored)
    assert "is a noop" not in " ".join(plan_rollback(restored.settings).diagnostics)
    events: list[Event] = []
    outcome = roll_back(restored, emit=events.append)
    assert outcome.status == "restored", outcome.diagnostics
    assert restored.content() == before
    assert owners_of(restored) == owners
    [said] = [event.sentence for event in events if isinstance(event, Noted)]
    assert said.startswith("v1_snapshot was restored last, and the state was changed since. ")


@pytest.mark.parametrize("name", ["mode", "owner"])
def test_rights_of_a_database_are_named_and_its_rows_stay(restored: Project, name: str) -> None:
    """Rows are worth more than a mode: the answer names the difference and --force."""
    if name == "owner" and os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root may change owners")
    run_sql(restored, "INSERT INTO Notes(body) VALUES ('four')")
    if name == "mode":
        os.chmod(restored.database, 0o600)
    else:
        os.chown(restored.database, 12345, 12345)
    outcome = roll_back(restored)
    assert outcome.status == "noop"
    difference = "mode 600 instead of 644" if name == "mode" else "owner 12345:12345 instead of"
    assert difference in " ".join(outcome.diagnostics) and "--force" in outcome.diagnostics[-2]
    assert roll_back(restored, force=True).status == "restored"
    info = restored.database.stat()
    assert (info.st_mode & 0o777, info.st_uid) == (0o644, os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root may change owners")
def test_a_changed_owner_alone_is_restored(project: Project, start_service: StartService) -> None:
    """A bad release gave the whole state to another user, the side files of the open database too."""
    owners = owners_of(project)
    project.capture()
    service = start_service(project.database)
    service.ask("SELECT count(*) FROM ledger")
    for path in [project.state, *project.state.rglob("*")]:
        os.lchown(path, 12345, 12345)
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert sorted(outcome.restored_assets) == ["database", "identity", "mcp"]
    assert set(owners_of(project).values()) == set(owners.values())


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("name", ["database", "folder above"])
def test_state_that_may_not_be_read_is_not_in_place(name: str) -> None:
    """A bad release removed the rights of the service itself: the comparison says so, and does not fail."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        project.capture()
        assert roll_back(project).status == "restored"
        settings, target = project.settings, project.pipeline.catalogue.get("v1_snapshot")
        with as_user(project.folder):
            os.chmod(project.database if name == "database" else project.state, 0)
            last = find_last_restore(settings, project.pipeline, target)
    assert last is not None and not last.is_in_place
    assert ("Permission denied" if name == "database" else "state: mode 0000") in last.differences[0]


def test_a_table_of_a_module_of_the_service_is_named_as_not_counted(project: Project) -> None:
    """SQLite cannot count the rows of a virtual table whose module it does not have."""
    run_sql(
        project,
        "PRAGMA writable_schema = 1",
        "INSERT INTO sqlite_schema VALUES('table', 'docs', 'docs', 0, 'CREATE VIRTUAL TABLE docs USING theirs(a)')",
    )
    project.capture()
    project.damage()
    assert roll_back(project).status == "restored"
    project.damage_rows()
    outcome = roll_back(project)
    assert outcome.status == "noop"
    assert "database: the rows of docs cannot be counted without the service." in outcome.diagnostics
    run_sql(project, "DROP TABLE ledger")
    assert roll_back(project).status == "restored"


def test_a_release_over_another_schema_is_on_record(restored: Project) -> None:
    """The second restore is a whole one: started, finished, with a safety snapshot of its own."""
    run_sql(restored, "DROP TABLE ledger")
    outcome: RollbackOutcome = roll_back(restored)
    assert audit_events(restored)[-2:] == [("rollback.started", "in_progress"), ("rollback.finished", "restored")]
    assert safety_folder(restored, outcome).is_dir()
