"""Content that keeps SQLite busy, takes all memory or crashes it: the check ends, and no task fails because of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from release_tasks.archive.verify import verify_all
from release_tasks.assets.sqlite import reader
from release_tasks.assets.sqlite.checks import check_database, count_rows, is_whole, read_schema
from release_tasks.assets.sqlite.comparison import compare_databases
from release_tasks.assets.sqlite.connection import DamagedDatabase, connection
from release_tasks.assets.sqlite.database import capture_database, is_usable
from release_tasks.assets.sqlite.kind import SQLITE
from release_tasks.assets.sqlite.reader import ContentReader, ContentUnread, end_idle
from release_tasks.assets.waiting import LockWait
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord
from release_tasks.stages.drill.engine import run_drill
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.hostile import ENDLESS, make_endless, write_page_cycle
from tests.support.processes import await_true
from tests.support.project import Project
from tests.support.rollback import roll_back

# The functions of ``content`` that do not end, by the part that a service wrote.
UNREAD = {
    "generated column": {"check"},
    "expression index": {"check"},
    "view behind a full-text index": {"count"},
    "many views": {"check", "count", "schema"},
    "many constraints": {"check", "count", "schema"},
    "CHECK constraint": set(),
}


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_BASE_SECONDS", 1)
    monkeypatch.setattr(reader, "_WALL_FACTOR", 1)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    service = sqlite3.connect(path)
    service.execute("CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance)")
    service.executemany("INSERT INTO accounts(balance) VALUES (?)", [(100,)] * 50)
    service.commit()
    service.close()
    return path


def unread(database: Path) -> Iterator[str]:
    if any(map(is_whole, check_database(database, thorough=True))):
        yield "check"
    for name, read in {"count": count_rows, "schema": read_schema}.items():
        try:
            read(database)
        except ContentUnread as error:
            assert "did not end" in error.message
            yield name


@pytest.mark.slow
@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_unchecked(database: Path, tmp_path: Path, name: str) -> None:
    """A capture copies every page; what is not read has a reason, and is no damage. The file itself opens at once."""
    make_endless(database, name)
    began = time.monotonic()
    assert is_usable(trusted(database), LockWait(1))
    with connection(database, 2) as live:
        live.execute("PRAGMA journal_mode")
    assert time.monotonic() - began < 5
    copied = capture_database(trusted(database), tmp_path / "copy.db")
    assert bool(copied.unchecked) == (
        name not in ("expression index", "view behind a full-text index", "CHECK constraint")
    )
    assert set(unread(database)) == UNREAD[name]
    drift = compare_databases(database, database)
    assert bool(drift.form) == bool(UNREAD[name] - {"check"})


def test_pages_in_a_cycle_are_damage(database: Path) -> None:
    """The check finds the second reference to a page, and a count of rows ends."""
    write_page_cycle(database)
    with pytest.raises(DamagedDatabase, match="reference to page"):
        check_database(database)
    with pytest.raises(DamagedDatabase):
        count_rows(database)


def test_memory_is_limited(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that does not fit is no damage."""
    monkeypatch.setattr(reader, "_MEMORY", 32 << 20)
    make_endless(database, "generated column")
    assert check_database(database) == ["the content (the check needs too much memory)"]
    assert count_rows(database)["accounts"] == 50


FAILURES = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "crashed (SIGSEGV)",
    "import sys; sys.exit(3)": "ended without a result (exit code 3)",
    "print('[]', flush=True); input()": "has too long a result",
    "print('[' * 100000, flush=True); input()": "has too long a result",
    "import sys; sys.stdout.write('x' * (17 << 20))": "has too long a result",
}


@pytest.fixture
def no_idle_process() -> Iterator[None]:
    """Let the next check start a process, and a process that is not ours end."""
    end_idle()
    yield
    end_idle()


@pytest.mark.usefixtures("no_idle_process")
@pytest.mark.parametrize("code", FAILURES)
def test_a_process_that_fails_is_no_damage(database: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A file can crash SQLite, or make it answer anything: the content is unchecked."""
    monkeypatch.setattr(reader, "function_line", lambda *_: [sys.executable, "-c", code])
    assert check_database(database) == [f"the content (the check {FAILURES[code]})"]


@pytest.mark.usefixtures("no_idle_process")
def test_a_process_that_cannot_start_is_no_damage(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes is reached, or Python was replaced by an update."""
    monkeypatch.setattr(sys, "executable", "/absent/python")
    (phrase,) = check_database(database)
    assert phrase.startswith("the content (the check could not be started")


def test_one_process_answers_several_requests(database: Path) -> None:
    """An error in one of them does not end it."""
    with ContentReader() as content:
        with pytest.raises(DamagedDatabase):
            content.ask("count", Path(__file__))
        assert content.ask("count", database) == {"accounts": 50}
        assert content.ask("columns", database, table="accounts") == ["id", "balance"]


def reading_pids() -> set[int]:
    return {each.pid for each in psutil.Process().children() if "-I" in each.cmdline()}


@pytest.mark.usefixtures("no_idle_process")
def test_a_process_serves_the_next_check_until_it_fails(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was ended, by its limits or by the system, is not asked again; a fork asks none of its parent."""
    check_database(database)
    (first,) = reading_pids()
    assert count_rows(database) == {"accounts": 50}
    assert reading_pids() == {first}
    os.kill(first, signal.SIGKILL)
    await_true(lambda: os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    assert count_rows(database) == {"accounts": 50}
    (second,) = reading_pids()
    assert second != first
    with monkeypatch.context() as limits:
        limits.setattr(reader, "_MAX_ANSWER", 1)
        assert check_database(database) == ["the content (the check has too long a result)"]
    assert reading_pids() == set()
    assert check_database(database) == []
    child = os.fork()
    if child == 0:
        os._exit(0 if count_rows(database) == {"accounts": 50} and len(reading_pids()) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(reading_pids()) == 1 and count_rows(database) == {"accounts": 50}


@pytest.mark.slow
def test_the_process_gets_no_secrets_and_ends_with_its_parent(database: Path) -> None:
    """Also when the parent is killed while the check runs."""
    make_endless(database, "generated column")
    code = (
        "import sys; from pathlib import Path; from release_tasks.assets.sqlite.checks import check_database\n"
        "check_database(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "API_TOKEN": "secret-value"}
    with subprocess.Popen([sys.executable, "-c", code, str(database)], env=environment) as parent:
        deadline = time.monotonic() + 30
        while not (children := [each for each in psutil.Process(parent.pid).children() if "-I" in each.cmdline()]):
            assert time.monotonic() < deadline
        assert "API_TOKEN" not in children[0].environ()
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.slow
@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("name", ["generated column", "many constraints"])
def test_every_task_ends(project: Project, name: str) -> None:
    """Prepare, verification, drill and rollback end as documented, and say what was not read, for time or memory."""
    prepare(project.settings, passed_preflight(), "v1")
    make_endless(project.database, name)
    manifest = prepare(project.settings, passed_preflight(), "v2")
    assert manifest.status == "ready", manifest.diagnostics
    assert "database: the content (the check " in " ".join(manifest.diagnostics)
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(project.pipeline.catalogue)}
    assert {verdict.status for verdict in verdicts.values()} == {"verified"}
    first, second = verdicts.values()
    assert first.notes == [] and "not all of it was checked: the content" in " ".join(second.notes)
    drill = run_drill(project.settings)
    assert drill.status == "passed", drill.diagnostics
    assert drill.databases[0].integrity.startswith("unchecked: the content")
    assert any(note.startswith("database: unchecked") for note in drill.diagnostics)
    result = roll_back(project, first.snapshot_id)
    assert (result.status, result.damaged_assets) == ("restored", []), result.diagnostics
    assert len(project.rows()[0]) == 50
    assert check_database(project.database) == []


@pytest.mark.slow
@pytest.mark.usefixtures("short_deadline")
def test_an_inspection_without_an_end_is_no_problem(database: Path) -> None:
    """Counting can fail to end where the check of the pages ends."""
    make_endless(database, "view behind a full-text index")
    record = AssetRecord(key="database", relative_path="", kind="sqlite", exists=True)
    inspection = SQLITE.inspect(record, database)
    assert inspection is not None and inspection.problem == "" and inspection.unchecked
