"""A journal that names another file: SQLite never opens the database, the file stays, and a rollback works."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from release_tasks.assets.findings import Busy
from release_tasks.assets.sqlite.connection import DamagedDatabase
from release_tasks.assets.sqlite.database import capture_database, examine_database, is_usable
from release_tasks.assets.sqlite.journal import require_no_super_journal, super_journal
from release_tasks.assets.sqlite.restore import locked_database
from release_tasks.assets.waiting import LockWait
from release_tasks.core.place import trusted
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.hostile import crash_in_a_transaction, name_super_journal
from tests.support.project import Project
from tests.support.rollback import roll_back
from tests.support.scripts import locked_database as locked_by_another


@pytest.fixture
def victim(project: Project) -> Path:
    """Return a file outside the state that belongs to another program."""
    path = project.folder / "precious.txt"
    path.write_text("precious")
    return path


@pytest.fixture
def hostile(project: Project, victim: Path) -> Path:
    """Return a prepared project's database with a hot journal that names the file."""
    prepare(project.settings, passed_preflight(), "v1")
    crash_in_a_transaction(project.database)
    name_super_journal(project.database, victim)
    return project.database


def test_the_name_is_read(hostile: Path, victim: Path) -> None:
    """The parser returns the name and the size of the journal without it."""
    journal = Path(f"{hostile}-journal")
    found = super_journal(trusted(journal))
    assert found is not None and found.name == os.fsencode(victim)
    assert found.journal_size == journal.stat().st_size - len(found.name) - 20


@pytest.mark.parametrize("tail", [b"", b"short", bytes(16), b"\xff" * 4 + bytes(4) + bytes.fromhex("d9d505f920a163d7")])
def test_other_journals_name_nothing(tmp_path: Path, tail: bytes) -> None:
    """A journal without the magic number, or with a length that does not fit, names no file; nor does a pipe."""
    journal = tmp_path / "app.db-journal"
    journal.write_bytes(b"j" * 100 + tail)
    assert super_journal(trusted(journal)) is None
    journal.unlink()
    assert super_journal(trusted(journal)) is None
    os.mkfifo(journal)
    assert super_journal(trusted(journal)) is None


@pytest.mark.slow
def test_nothing_opens_the_database(hostile: Path, victim: Path, tmp_path: Path) -> None:
    """Capture, look, check before a rollback, and lock of a rollback refuse it, and the file and the journal stay."""
    before = hostile.read_bytes(), Path(f"{hostile}-journal").read_bytes()
    with pytest.raises(DamagedDatabase, match="start it once") as refused:
        capture_database(trusted(hostile), tmp_path / "copy.db")
    assert str(victim) in refused.value.message and f"{hostile}-journal" in refused.value.message
    with pytest.raises(DamagedDatabase, match="was not opened"):
        examine_database(trusted(hostile), tmp_path / "look.db")
    with pytest.raises(DamagedDatabase), locked_database(trusted(hostile), tmp_path / "copy.db", None, LockWait(0)):
        raise AssertionError("SQLite opened it")
    assert not is_usable(trusted(hostile), LockWait(0))
    assert victim.read_text() == "precious"
    assert (hostile.read_bytes(), Path(f"{hostile}-journal").read_bytes()) == before


def test_a_look_does_not_ask_for_a_path_outside_the_folder(project: Project, tmp_path: Path) -> None:
    """Whether the named path exists makes no difference: the sentence is the same."""
    crash_in_a_transaction(project.database)
    journal = Path(f"{project.database}-journal").read_bytes()
    sentences = set()
    for path in (Path("/proc"), Path("/absent")):
        Path(f"{project.database}-journal").write_bytes(journal)
        name_super_journal(project.database, path)
        with pytest.raises(DamagedDatabase) as refused:
            examine_database(trusted(project.database), tmp_path / "look.db")
        sentences.add(refused.value.message.replace(str(path), "PATH"))
    assert len(sentences) == 1


@pytest.mark.slow
def test_prepare_blocks_and_a_rollback_restores(project: Project, hostile: Path, victim: Path) -> None:
    """The blocked release says what to do; the rollback exchanges the file and keeps the old one with its journal."""
    manifest = prepare(project.settings, passed_preflight(), "v2")
    assert manifest.status == "blocked"
    assert "start it once" in " ".join(manifest.diagnostics)
    journal = Path(f"{hostile}-journal").read_bytes()
    result = roll_back(project)
    assert (result.status, result.damaged_assets) == ("restored", ["database"]), result.diagnostics
    assert len(project.rows()[0]) == 50
    assert not Path(f"{hostile}-journal").exists()
    remains = project.pipeline.root.rglob("app.db-journal")
    assert [path.read_bytes() for path in remains] == [journal]
    assert victim.read_text() == "precious"


@pytest.mark.slow
def test_a_commit_over_several_databases_is_awaited(project: Project) -> None:
    """A writer with a lock is no crash: the capture waits for its end, and then goes on."""
    journal = Path(f"{project.database}-journal")
    with locked_by_another(project.database, "PRAGMA journal_mode = DELETE"):
        journal.write_bytes(bytes(512))
        name_super_journal(project.database, project.folder / "app.db-mj0")
        with pytest.raises(Busy):
            require_no_super_journal(trusted(project.database), LockWait(0.6))
        threading.Timer(0.7, journal.unlink).start()
        began = time.monotonic()
        require_no_super_journal(trusted(project.database), LockWait(30))
    assert 0.6 < time.monotonic() - began < 20
