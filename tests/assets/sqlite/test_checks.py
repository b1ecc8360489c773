"""What SQLite cannot check without the service is no damage, and damage next to it is found."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import apsw
import pytest

from release_tasks.archive.verify import verify_all
from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.checks import check_database, count_rows, read_schema
from release_tasks.assets.sqlite.connection import DamagedDatabase, DiskError, translated_errors
from release_tasks.assets.sqlite.database import capture_database
from release_tasks.core.errors import DiskFull, StageFailed
from release_tasks.core.place import trusted
from release_tasks.stages.drill.engine import run_drill
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project
from tests.support.rollback import roll_back
from tests.support.service_schema import SCHEMAS, create, open_as_service


def tables_in(notes: list[str]) -> list[str]:
    """Return the tables of unchecked parts: ``table NAME (REASON)``."""
    return [note.removeprefix("table ").rpartition(" (")[0] for note in notes]


@pytest.mark.parametrize("case", SCHEMAS)
def test_parts_of_the_service_are_unchecked_and_not_damage(project: Project, case: str) -> None:
    """A first prepare is ready and names the tables; drill and verify pass; a restore keeps the file."""
    create(project.database, case)
    before = project.database.stat().st_ino
    service = open_as_service(project.database)
    schema = service.execute("SELECT * FROM sqlite_schema ORDER BY name").fetchall()
    service.close()
    expected = SCHEMAS[case][1]

    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.status == "ready", manifest.diagnostics
    snapshot = project.pipeline.catalogue.find(None)
    record = snapshot.asset("database")
    assert record is not None and not record.damaged
    assert sorted(tables_in(record.unchecked or [])) == sorted(expected)
    notes = [note for note in manifest.diagnostics if "SQLite cannot check" in note]
    assert len(notes) == (1 if expected else 0)
    assert all(name in notes[0] for name in expected)

    verdict = verify_all(project.pipeline.catalogue, assets=project.settings.release.assets)[0]
    assert (verdict.status, verdict.findings, verdict.notes) == ("verified", [], notes)
    outcome = run_drill(project.settings)
    assert outcome.status == "passed", outcome.diagnostics
    assert all(note in outcome.diagnostics for note in notes)

    service = open_as_service(project.database)
    service.execute("DELETE FROM accounts; CREATE TABLE later(x)")
    service.close()
    result = roll_back(project)
    assert (result.status, result.damaged_assets) == ("restored", []), result.diagnostics
    assert all(note in result.diagnostics for note in notes)
    assert project.database.stat().st_ino == before
    service = open_as_service(project.database)
    assert service.execute("SELECT * FROM sqlite_schema ORDER BY name").fetchall() == schema
    assert service.execute("SELECT count(*) FROM accounts").fetchall() == [(50,)]
    # The service of this test does not have the tokenizer, and its own check fails as SQLite's does.
    if case not in ("FTS4 tokenizer", "generated column with an error"):
        assert service.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    service.close()


def test_a_row_that_violates_a_check_is_no_damage(project: Project) -> None:
    """The function ``upper`` of the service keeps its text: the CHECK holds there, and fails with SQLite's function."""
    service = open_as_service(project.database)
    service.create_scalar_function("upper", lambda *values: values[0], 1, deterministic=True)
    service.execute("CREATE TABLE words(x CHECK (x = upper(x))); INSERT INTO words VALUES ('small')")
    service.close()
    assert prepare(project.settings, passed_preflight(), "v1").status == "ready"
    assert verify_all(project.pipeline.catalogue)[0].status == "verified"
    assert run_drill(project.settings).status == "passed"


def attached(path: Path) -> apsw.Connection:
    """Open a database as a service that attaches it as ``jobs``."""
    service = apsw.Connection(":memory:")
    service.execute(f"ATTACH '{path}' AS jobs")
    return service


def test_a_view_that_names_an_attached_database_is_no_damage(project: Project) -> None:
    """The service attaches the file under a name that its views and triggers contain; alone, SQLite cannot parse it."""
    service = attached(project.database)
    service.execute("CREATE VIEW jobs.rich AS SELECT id FROM jobs.accounts WHERE balance > 0")
    service.execute("CREATE TRIGGER jobs.t AFTER INSERT ON jobs.ledger BEGIN SELECT id FROM jobs.accounts; END")
    service.close()
    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.status == "ready", manifest.diagnostics
    record = project.pipeline.catalogue.find(None).asset("database")
    assert record is not None and tables_in(record.unchecked or []) == ["view rich", "trigger t"]
    assert run_drill(project.settings).status == "passed"
    inode = project.database.stat().st_ino
    service = attached(project.database)
    service.execute("DELETE FROM jobs.accounts")
    result = roll_back(project)
    assert (result.status, result.damaged_assets, result.removed_rows) == ("restored", [], {}), result.diagnostics
    assert "the rollback brought back at least 50 rows of accounts" in " ".join(result.diagnostics)
    assert project.database.stat().st_ino == inode
    assert service.execute("SELECT count(*) FROM jobs.rich").fetchall() == [(50,)]
    service.execute("DROP VIEW jobs.rich")
    service.close()
    again = roll_back(project)
    assert again.status == "restored" and "view rich is missing" in " ".join(again.diagnostics)


OTHER_DEFINITIONS = {
    "a syntax error": "UPDATE jobs.sqlite_schema SET sql = 'CREATE INDEX ei OM e(x)' WHERE name = 'ei'",
    "an unknown column": "UPDATE jobs.sqlite_schema SET sql = 'CREATE INDEX ei ON e(gone)' WHERE name = 'ei'",
    "a page that does not exist": "UPDATE jobs.sqlite_schema SET rootpage = 99 WHERE name = 'ei'",
    "text that is no statement": "UPDATE jobs.sqlite_schema SET sql = 'xx' WHERE name = 'ei'",
    "an index without its table": "DELETE FROM jobs.sqlite_schema WHERE name = 'e'",
}


@pytest.mark.parametrize("name", OTHER_DEFINITIONS)
def test_a_damaged_definition_next_to_one_of_the_service_is_found(tmp_path: Path, name: str) -> None:
    """A definition that SQLite cannot parse for another reason is damage."""
    database = tmp_path / "app.db"
    service = attached(database)
    service.execute("CREATE TABLE jobs.e(x); CREATE INDEX jobs.ei ON e(x); CREATE VIEW jobs.v AS SELECT x FROM jobs.e")
    service.execute("INSERT INTO jobs.e VALUES (1)")
    assert tables_in(check_database(database)) == ["view v"]
    service.execute(f"PRAGMA writable_schema = 1; {OTHER_DEFINITIONS[name]}")
    service.close()
    for thorough in (False, True):
        with pytest.raises(DamagedDatabase):
            check_database(database, thorough)


def test_no_statement_of_a_definition_is_run(tmp_path: Path) -> None:
    """A bad release can write any text into the schema; the check runs with other rights."""
    database, made = tmp_path / "app.db", tmp_path / "made.db"
    service = attached(database)
    service.execute("CREATE TABLE jobs.e(x); CREATE VIEW jobs.v AS SELECT x FROM jobs.e; PRAGMA writable_schema = 1")
    service.execute("UPDATE jobs.sqlite_schema SET sql = sql || ? WHERE name = 'v'", (f"; ATTACH '{made}' AS m",))
    service.execute("UPDATE jobs.sqlite_schema SET sql = sql || '; CREATE TABLE m.x(a)' WHERE name = 'v'")
    service.close()
    assert tables_in(check_database(database)) == ["view v"]
    assert not made.exists()


def test_an_index_that_is_older_than_its_content_is_no_damage(project: Project) -> None:
    """A full-text index of FTS4 with ``content=`` is in step only when the service keeps it so."""
    service = open_as_service(project.database)
    service.execute("CREATE VIRTUAL TABLE idx USING fts4(content='ledger', a); INSERT INTO ledger(a) VALUES (7)")
    service.close()
    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.status == "ready", manifest.diagnostics
    assert "table idx (malformed inverted index" in " ".join(manifest.diagnostics)
    assert run_drill(project.settings).status == "passed"


@pytest.mark.parametrize("case", SCHEMAS)
def test_rows_and_schema_are_read_without_the_service(tmp_path: Path, case: str) -> None:
    """Every plain table has a count; a virtual table of the service's module has none."""
    database = tmp_path / "app.db"
    create(database, case)
    service = open_as_service(database)
    names = [row[0] for row in service.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    expected = {}
    for name in (name for name in names if not name.startswith("sqlite_")):
        quoted = name.replace('"', '""')
        is_theirs = name in ("v", "old_idx")
        expected[name] = None if is_theirs else service.execute(f'SELECT count(*) FROM "{quoted}"').fetchall()[0][0]
    service.close()
    assert count_rows(database) == expected
    assert {f"table {name}" for name in expected} <= set(read_schema(database))


# One case for each way in which a check of SQLite ends: at the tokenizer, the module, the function, the collation.
CHECKED_WITH_DAMAGE = [
    "FTS5 tokenizer in a quoted name",
    "virtual generated column",
    "collation of an index",
    "generated column with an error",
    "function with the name of an aggregate of SQLite",
    "several",
]


def healthy_copy(folder: Path, case: str) -> Path:
    """Return a database of two plain tables, filled, next to the schema of a case."""
    database = folder / "app.db"
    create(database, case)
    service = open_as_service(database)
    service.execute("CREATE TABLE plain(id INTEGER PRIMARY KEY, b TEXT NOT NULL, c); CREATE INDEX pi ON plain(c)")
    service.executemany("INSERT INTO plain(b, c) VALUES (?, ?)", [("x" * 200, number) for number in range(400)])
    service.close()
    return database


def root_page(database: Path, name: str) -> int:
    connection = apsw.Connection(f"file:{database}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.execute("PRAGMA writable_schema = 1")  # go on when SQLite cannot parse another definition
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchall()[0][0]
    connection.close()
    assert isinstance(page, int)
    return page


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("thorough", [False, True], ids=["quick", "thorough"])
@pytest.mark.parametrize("case", CHECKED_WITH_DAMAGE)
def test_damage_next_to_unchecked_parts_is_found(tmp_path: Path, case: str, thorough: bool) -> None:
    """A zeroed page, a broken cell, a cut file and a NULL in a NOT NULL column are found next to each schema."""
    healthy = healthy_copy(tmp_path, case)
    assert sorted(tables_in(check_database(healthy, thorough))) == sorted(SCHEMAS[case][1])
    page = root_page(healthy, "plain")
    copy = tmp_path / "copy.db"
    data = healthy.read_bytes()

    def damage_page(offset: int, value: bytes) -> None:
        shutil.copy(healthy, copy)
        overwrite(copy, (page - 1) * 4096 + offset, value)

    def cut() -> None:
        copy.write_bytes(data[: (page + 1) * 4096])

    def put_null() -> None:
        """Make SQLite write a NULL that its schema does not allow."""
        shutil.copy(healthy, copy)
        service = open_as_service(copy)
        service.execute(
            "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')"
            " WHERE name = 'plain'; PRAGMA schema_version = 999"
        )
        service.close()
        service = open_as_service(copy)
        service.execute(
            "UPDATE plain SET b = NULL WHERE id = 7; PRAGMA writable_schema = 1; UPDATE sqlite_schema"
            " SET sql = replace(sql, 'b TEXT ', 'b TEXT NOT NULL') WHERE name = 'plain'"
        )
        service.close()

    for name, act in {
        "zeroed page": lambda: damage_page(0, bytes(4096)),
        "broken cell": lambda: damage_page(8, b"\xff\xff\xff\xff"),
        "cut": cut,
        "NULL": put_null,
    }.items():
        act()
        with pytest.raises(DamagedDatabase, match=r"integrity check|cannot be read") as error:
            check_database(copy, thorough)
        assert str(copy) in error.value.message, name


@pytest.mark.parametrize("case", ["FTS5 tokenizer", "collation of an index"])
def test_a_page_that_belongs_to_nothing_is_found(tmp_path: Path, case: str) -> None:
    """The whole file is checked although one table cannot be."""
    database = healthy_copy(tmp_path, case)
    service = open_as_service(database)
    service.execute("PRAGMA writable_schema = 1; DELETE FROM sqlite_schema WHERE name IN ('plain', 'pi')")
    service.close()
    with pytest.raises(DamagedDatabase, match="never used"):
        check_database(database)


def test_damage_inside_a_table_of_an_unknown_collation_is_found(tmp_path: Path) -> None:
    """The pages of the table are checked although the order of its rows cannot be."""
    healthy = healthy_copy(tmp_path, "collation of a key without rowid")
    overwrite(healthy, (root_page(healthy, "e") - 1) * 4096, b"\x05")
    with pytest.raises(DamagedDatabase):
        check_database(healthy)


def test_any_changed_page_ends_in_a_verdict(tmp_path: Path) -> None:
    """Random bytes in random pages give a verdict, never another exception, and most of them are found."""
    healthy = healthy_copy(tmp_path, "several")
    data = healthy.read_bytes()
    chooser = random.Random(20261129)
    found = 0
    for number in range(60):
        page = chooser.randrange(len(data) // 4096)
        damaged = bytearray(data)
        start = page * 4096 + (100 if page == 0 else 0)
        damaged[start : start + 16] = chooser.randbytes(16)
        copy = tmp_path / "copy.db"
        copy.write_bytes(damaged)
        try:
            capture_database(trusted(copy), tmp_path / f"captured{number}.db")
        except DamagedDatabase:
            found += 1
        (tmp_path / f"captured{number}.db").unlink(missing_ok=True)
    assert found > 30


# Each result code of SQLite (https://sqlite.org/rescode.html): whether it means damage, a lock, an error of the
# disk, or something else that a person can change.
VERDICTS: dict[type[StageFailed], list[str]] = {
    DamagedDatabase: [
        "SQLITE_CORRUPT",
        "SQLITE_CORRUPT_INDEX",
        "SQLITE_CORRUPT_SEQUENCE",
        "SQLITE_CORRUPT_VTAB",
        "SQLITE_FORMAT",
        "SQLITE_IOERR_SHORT_READ",
        "SQLITE_NOTADB",
    ],
    Busy: [
        "SQLITE_BUSY",
        "SQLITE_BUSY_RECOVERY",
        "SQLITE_BUSY_SNAPSHOT",
        "SQLITE_BUSY_TIMEOUT",
        "SQLITE_LOCKED",
        "SQLITE_LOCKED_SHAREDCACHE",
        "SQLITE_LOCKED_VTAB",
        "SQLITE_PROTOCOL",
    ],
    DiskFull: ["SQLITE_FULL"],
    StageFailed: [
        "SQLITE_CANTOPEN",
        "SQLITE_CANTOPEN_CONVPATH",
        "SQLITE_CANTOPEN_DIRTYWAL",
        "SQLITE_CANTOPEN_FULLPATH",
        "SQLITE_CANTOPEN_ISDIR",
        "SQLITE_CANTOPEN_NOTEMPDIR",
        "SQLITE_CANTOPEN_SYMLINK",
        "SQLITE_ERROR",
        "SQLITE_ERROR_KEY",
        "SQLITE_ERROR_MISSING_COLLSEQ",
        "SQLITE_ERROR_RESERVESIZE",
        "SQLITE_ERROR_RETRY",
        "SQLITE_ERROR_SNAPSHOT",
        "SQLITE_ERROR_UNABLE",
        "SQLITE_READONLY",
        "SQLITE_READONLY_CANTINIT",
        "SQLITE_READONLY_CANTLOCK",
        "SQLITE_READONLY_DBMOVED",
        "SQLITE_READONLY_DIRECTORY",
        "SQLITE_READONLY_RECOVERY",
        "SQLITE_READONLY_ROLLBACK",
    ],
}


def raised_by_sqlite() -> list[str]:
    """Return the names of all result codes, without those that are no error."""
    names = [*apsw.mapping_result_codes, *apsw.mapping_extended_result_codes]
    no_errors = ("SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING")
    return sorted({str(name) for name in names if isinstance(name, str) and not name.startswith(no_errors)})


@pytest.mark.parametrize("name", raised_by_sqlite())
def test_each_result_code_has_a_verdict(tmp_path: Path, name: str) -> None:
    """Only errors of the content are damage; a code that is not listed is reported as an error of the disk."""
    expected = next((verdict for verdict, names in VERDICTS.items() if name in names), DiskError)
    error = apsw.exception_for(getattr(apsw, name))
    with pytest.raises(StageFailed) as raised, translated_errors(trusted(tmp_path / "app.db")):
        raise error
    assert type(raised.value) is expected
    assert str(tmp_path / "app.db") in raised.value.message


def test_many_unchecked_tables_are_counted(tmp_path: Path) -> None:
    """The record of a snapshot names 50 of them."""
    database = sqlite3.connect(tmp_path / "app.db")
    database.create_collation("own", lambda a, b: 0)
    for number in range(60):
        database.execute(f"CREATE TABLE t{number}(x TEXT COLLATE own PRIMARY KEY)")
    database.commit()
    database.close()
    unchecked = check_database(tmp_path / "app.db")
    assert len(unchecked) == 51
    assert unchecked[-1] == "10 more"
