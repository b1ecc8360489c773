"""A rollback by page: what the answer and the log say, and what happens without the extra that it needs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from release_tasks.assets.sqlite import scan
from release_tasks.assets.sqlite.scan import DatabaseHold
from release_tasks.core.records import DatabaseRestore
from release_tasks.stages.rollback.recovery import recover
from tests.support.crash import PowerCut, fail_at
from tests.support.project import MakeProject, Project
from tests.support.rollback import roll_back
from tests.support.stored_snapshots import reseal
from tests.support.swap_crash import crash_in_mid_swap


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find no SQLite with the table that a restore by page needs."""
    monkeypatch.setattr(scan, "find_engine", lambda: None)
    monkeypatch.setattr(scan, "why_missing", lambda: "the extra `fast` is not installed")


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Return a function that ends a rollback by a power cut at a commit of a database, before or after it."""

    def end_at(number: int, after: bool) -> None:
        monkeypatch.setattr(DatabaseHold, "commit", fail_at(number, DatabaseHold.commit, PowerCut(), after=after))

    return end_at


def last_event(project: Project) -> dict[str, Any]:
    event: dict[str, Any] = project.pipeline.audit.verify().events[-1]
    return event


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_answer_and_the_event_say_how_the_database_was_restored(make_project: MakeProject, mode: str) -> None:
    """Method, exactness, pages, and the times in milliseconds."""
    project = make_project("p", mode)
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    project.damage()
    found = roll_back(project).databases["database"]
    assert (found.method, found.exact, found.reason) == ("page", True, None)
    assert found.pages_changed and found.lock_ms is not None and found.scan_ms is not None
    assert last_event(project)["databases"]["database"] == {
        "method": "page",
        "exact": True,
        "pagesChanged": found.pages_changed,
        "lockMs": found.lock_ms,
        "scanMs": found.scan_ms,
        "reason": None,
    }
    assert project.content() == good


def test_without_the_extra_the_database_is_restored_as_a_whole(project: Project, without_engine: None) -> None:
    """The reason is in the answer."""
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    project.damage()
    outcome = roll_back(project)
    assert outcome.databases == {
        "database": DatabaseRestore(method="whole", exact=False, reason="the extra `fast` is not installed")
    }
    assert (outcome.status, project.content()) == ("restored", good)


def test_another_page_size_is_restored_as_a_whole(project: Project) -> None:
    """A bad release may have changed it with VACUUM."""
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    with contextlib.closing(sqlite3.connect(project.database, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA page_size = 8192")
        database.execute("VACUUM")
    found = roll_back(project).databases["database"]
    assert found.method == "whole" and "another page size" in str(found.reason)
    assert project.content() == good


def test_a_damaged_database_is_replaced_whole(project: Project) -> None:
    """There are no pages to compare."""
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    project.database.write_bytes(b"SQLite format 3\0" + b"x" * 9000)
    outcome = roll_back(project)
    assert outcome.databases["database"].method == "whole"
    assert (outcome.damaged_assets, project.content()) == (["database"], good)


def test_a_journal_of_version_1_in_mid_swap_is_finished(project: Project, without_engine: None) -> None:
    """The version before restores databases as a whole and knows no cookies."""
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    project.damage()
    crash_in_mid_swap(project, "rename_into_place", 1, after=False)
    path = project.pipeline.journal_path
    journal = json.loads(path.read_text())
    journal["journalVersion"] = 1
    for step in journal["steps"]:
        del step["cookie"], step["newCookie"]
    path.write_text(json.dumps(reseal(journal)))
    assert recover(project.settings).status == "finished"
    assert project.content() == good
    assert project.leftovers() == []


def test_rows_between_a_crash_and_the_recovery_are_in_a_safety_snapshot_of_their_own(
    project: Project, commits: Callable[[int, bool], None]
) -> None:
    """Of two databases one was committed; the service writes to the other before the recovery restores it."""
    with contextlib.closing(sqlite3.connect(project.state / "second.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t(a)")
    project.overrides |= {"assets.second": {"sqlite": "state/second.db"}, "storage.restore_by_page": True}
    project.capture()
    project.damage()
    with contextlib.closing(sqlite3.connect(project.state / "second.db", isolation_level=None)) as database:
        database.execute("INSERT INTO t VALUES ('before')")
    commits(2, False)
    with pytest.raises(PowerCut):
        roll_back(project)
    journal = json.loads(project.pipeline.journal_path.read_text())
    left = next(step["key"] for step in journal["steps"] if step["action"] == "database" and not step["done"])
    path = project.settings.release.assets[left].path
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE since(a)")
        database.execute("INSERT INTO since VALUES (4711)")
    known = {snapshot.snapshot_id for snapshot in project.pipeline.catalogue.published()[0]}
    assert recover(project.settings).status == "finished"
    (new,) = [each for each in project.pipeline.catalogue.published()[0] if each.snapshot_id not in known]
    assert (new.kind, [record.key for record in new.assets]) == ("safety", [left])
    record = new.assets[0]
    copy = project.pipeline.catalogue.path(new.snapshot_id) / record.relative_path
    with contextlib.closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT a FROM since").fetchall() == [(4711,)]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_schema WHERE name = 'since'").fetchall() == []
    assert roll_back(project).status == "noop"


def test_recovery_restores_no_database_again_that_has_committed(
    project: Project, commits: Callable[[int, bool], None]
) -> None:
    """A row that the service wrote between the crash and the recovery stays."""
    project.overrides["storage.restore_by_page"] = True
    good = project.content()
    project.capture()
    project.damage()
    commits(1, True)
    with pytest.raises(PowerCut):
        roll_back(project)
    with contextlib.closing(sqlite3.connect(project.database, isolation_level=None)) as database:
        database.execute("CREATE TABLE since(id)")
        database.execute("INSERT INTO since VALUES (7)")
    assert recover(project.settings).status == "finished"
    with contextlib.closing(sqlite3.connect(project.database, isolation_level=None)) as database:
        assert database.execute("SELECT id FROM since").fetchall() == [(7,)]
        database.execute("DROP TABLE since")
    assert project.content() == good


def test_recovery_gives_up_a_rollback_that_had_changed_nothing(
    project: Project, commits: Callable[[int, bool], None]
) -> None:
    """The journal was written, and no database was committed: the service may have gone on."""
    project.overrides["storage.restore_by_page"] = True
    project.capture()
    project.damage()
    bad = project.content()
    commits(1, False)
    with pytest.raises(PowerCut):
        roll_back(project)
    assert project.pipeline.journal_path.exists()
    assert recover(project.settings).status == "undone"
    assert (project.content(), project.leftovers()) == (bad, [])
    assert last_event(project)["event"] == "rollback.recovered"
    assert recover(project.settings).status == "clean"
    assert roll_back(project).status == "restored"
