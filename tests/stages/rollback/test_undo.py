"""A step that fails half-way, and what recovery makes of every moment at which a run can end."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.assets import base, placing
from release_tasks.assets.sqlite import kind as sqlite
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.lock import run_lock
from release_tasks.core.records import Inode
from release_tasks.stages.rollback import engine, swap
from release_tasks.stages.rollback.journal import read_journal, write_journal
from release_tasks.stages.rollback.recovery import pending, recover
from tests.support.project import Project


class PowerCut(BaseException):
    """Ends a run at once, as SIGKILL would: no handler of the package knows it."""


def fail_at(number: int, real: Callable[..., Any], error: BaseException, *, after: bool = False) -> Callable[..., Any]:
    """Return ``real``, which raises ``error`` at its call ``number`` (from 1), and works again from then on."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            raise error
        result = real(*args, **kwargs)
        if calls == number:
            raise error
        return result

    return call


def zero_header(project: Project) -> None:
    """Make the live database one that SQLite cannot open."""
    with project.database.open("r+b") as file:
        file.write(bytes(100))


def exact(project: Project) -> dict[str, Any]:
    """Content with the database as bytes: for databases that cannot be opened."""
    rows = project.database.read_bytes() if project.database.is_file() else None
    project_rows = project.rows
    try:
        project.rows = lambda: rows
        return project.content()
    finally:
        del project.rows
        assert project.rows == project_rows


ERRORS = [OSError(28, "No space left on device"), StageFailed("it cannot be done.")]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("error", ERRORS, ids=["os", "stage"])
def test_a_file_step_that_fails_undoes_those_before(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    """The database, already restored through SQLite, goes back too; the journal is gone; nothing lies about."""
    project.capture()
    project.damage()
    before = project.content()
    monkeypatch.setattr(base, "rename_into_place", fail_at(number, base.rename_into_place, error))
    outcome = roll(project)
    assert outcome.status == "failed"
    assert "the live state is unchanged" in outcome.diagnostics[0]
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert project.strays() == []
    assert roll(project).status == "restored"


def test_a_database_step_that_fails_leaves_everything(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """Databases come first, so nothing has moved yet."""
    project.capture()
    project.damage()
    before = project.content()
    monkeypatch.setattr(sqlite, "restore_database", fail_at(1, sqlite.restore_database, StageFailed("locked.")))
    assert roll(project).status == "failed"
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert events(project) == [("rollback.started", "in_progress"), ("rollback.refused", "failed")]
    assert project.pipeline.read_state().status == "failed"
    assert project.pipeline.read_state().restored is False


def test_the_second_of_two_databases_fails_and_the_first_goes_back(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undo concerns databases as it does files."""
    shutil.copy(project.database, project.state / "second.db")
    project.overrides["assets.second"] = {"sqlite": "state/second.db"}
    project.capture()
    project.damage()
    with_second = shutil.copy(project.database, project.state / "second.db")
    assert Path(with_second).exists()
    before = project.content()
    monkeypatch.setattr(sqlite, "restore_database", fail_at(2, sqlite.restore_database, StageFailed("locked.")))
    assert roll(project).status == "failed"
    assert project.content() == before


def test_a_database_whose_mode_cannot_be_set_goes_back_with_the_rest(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails after its database was committed is undone like one that was done."""
    project.capture()
    project.damage()
    project.database.chmod(0o666)
    before = project.content()
    real = placing.os.chmod

    def chmod(path: Any, mode: int, **more: Any) -> None:
        if Path(path) == project.database:
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, mode, **more)

    monkeypatch.setattr(placing.os, "chmod", chmod)
    outcome = roll(project)
    monkeypatch.undo()
    assert outcome.status == "failed"
    assert project.content() == before


@pytest.mark.parametrize(
    "number",
    range(1, 5),
)
def test_a_journal_that_cannot_be_written_once_leaves_no_mix(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full disk at the moment a step is noted as done: everything is as before, and the journal gone."""
    project.capture()
    project.damage()
    before = project.content()
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(swap, "write_journal", fail_at(number, swap.write_journal, error))
    assert roll(project).status == "failed"
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()


def test_a_damaged_database_is_back_byte_for_byte_when_a_later_step_fails(
    make_project: Callable[..., Project], roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before is there again, however broken."""
    project = make_project("p", "delete")
    project.capture()
    project.damage()
    zero_header(project)
    monkeypatch.setattr(base, "rename_into_place", fail_at(3, base.rename_into_place, OSError(5, "Input/output error")))
    remains = exact(project)
    assert roll(project).status == "failed"
    assert exact(project) == remains
    assert project.strays() == []


@pytest.mark.parametrize("is_undone", [False, True])
def test_a_damaged_database_and_its_wal_are_kept_as_they_were(
    project: Project, roll: Any, start_service: Any, monkeypatch: pytest.MonkeyPatch, is_undone: bool
) -> None:
    """Header gone, committed rows in the WAL: in the safety snapshot, and live again when a later step fails."""
    project.capture()
    service = start_service(project.database)
    service.ask("UPDATE accounts SET balance = 4242")
    service.crash()
    project.mcp.unlink()
    zero_header(project)
    files = [project.database, Path(str(project.database) + "-wal")]
    remains = {path.name: path.read_bytes() for path in files}
    assert remains["app.db-wal"]
    if is_undone:
        monkeypatch.setattr(
            base, "rename_into_place", fail_at(2, base.rename_into_place, OSError(5, "Input/output error"))
        )
    outcome = roll(project)
    assert outcome.status == ("failed" if is_undone else "restored")
    folder = project.state
    if not is_undone:
        folder = project.pipeline.catalogue.path(outcome.safety_snapshot_id) / "assets" / "database" / "app.db"
    assert {name: (folder / name).read_bytes() for name in remains if (folder / name).exists()} == remains


def test_a_second_failure_while_undoing_keeps_the_journal_and_recover_ends_it(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """When not even the way back works, the journal stays; once the cause is gone, recover goes back."""
    project.capture()
    project.damage()
    before = project.content()
    calls = 0
    real = base.rename_into_place

    def place(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        if 2 <= calls <= 3:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(base, "rename_into_place", place)
    outcome = roll(project)
    assert outcome.status == "failed"
    assert project.pipeline.journal_path.exists()
    monkeypatch.undo()
    assert recover(project.settings).status == "undone"
    assert project.content() == before
    assert project.strays() == []
    assert events(project)[-1] == ("rollback.recovered", "failed")


HOMES = {"write_journal": swap, "restore_database": sqlite, "rename_into_place": base, "fsync_directory": placing}
POINTS = [
    (name, number, after)
    for name, count in (("write_journal", 4), ("restore_database", 1), ("rename_into_place", 3), ("fsync_directory", 3))
    for number in range(1, count + 1)
    for after in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "after"), POINTS)
def test_a_run_that_ends_in_mid_swap_is_finished_by_recover(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, events: Any, name: str, number: int, after: bool
) -> None:
    """From the journal on the new state is what comes out, at each step before and after it."""
    new = project.content()
    project.capture()
    project.damage()
    with monkeypatch.context() as patch:
        patch.setattr(HOMES[name], name, fail_at(number, getattr(HOMES[name], name), PowerCut(), after=after))
        with pytest.raises(PowerCut):
            roll(project)
    assert project.pipeline.journal_path.exists()
    assert pending(project.settings, project.pipeline).status == "pending"
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.strays() == []
    assert not project.pipeline.journal_path.exists()
    assert events(project)[-1] == ("rollback.recovered", "restored")
    assert recover(project.settings).status == "clean"
    assert roll(project).status == "noop"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "after"), [p for p in POINTS if p[0] != "fsync_directory"])
def test_a_run_that_ends_while_it_undoes_is_undone_by_recover(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, name: str, number: int, after: bool
) -> None:
    """Once the journal says back, the old state is what comes out."""
    project.capture()
    project.damage()
    before = project.content()
    with monkeypatch.context() as patch:
        real_back = swap.Swap.back

        def back(self: Any, *journal: Any) -> Any:
            patch.setattr(HOMES[name], name, fail_at(number, getattr(HOMES[name], name), PowerCut(), after=after))
            return real_back(self, *journal)

        patch.setattr(swap.Swap, "back", back)
        patch.setattr(base, "rename_into_place", fail_at(3, base.rename_into_place, OSError(5, "Input/output error")))
        with pytest.raises(PowerCut):
            roll(project)
    had_turned = json.loads(project.pipeline.journal_path.read_text())["direction"] == "back"
    new_or_old = recover(project.settings).status
    assert new_or_old == ("undone" if had_turned else "finished")
    assert project.strays() == []
    if had_turned:
        assert project.content() == before


def test_a_run_that_ends_before_the_journal_is_discarded(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, events: Any
) -> None:
    """Staged copies and the open state go; nothing live was touched."""
    project.capture()
    project.damage()
    before = project.content()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_journal", fail_at(1, engine.write_journal, PowerCut()))
        patch.setattr(base, "discard_staged", lambda target: [])
        with pytest.raises(PowerCut):
            roll(project)
    assert project.strays() != []
    assert pending(project.settings, project.pipeline).status == "pending"
    report = recover(project.settings)
    assert report.status == "discarded" and report.removed
    assert project.content() == before
    assert project.strays() == []
    assert events(project)[-1][0] == "rollback.recovered"
    assert project.pipeline.read_state().status == "failed"


def crash_in_mid_swap(project: Project, roll: Any, name: str, number: int, *, after: bool) -> None:
    """Leave a journal behind, as a kill at that step does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HOMES[name], name, fail_at(number, getattr(HOMES[name], name), PowerCut(), after=after))
        with pytest.raises(PowerCut):
            roll(project)
    assert project.pipeline.journal_path.exists()


def test_recovery_that_cannot_go_forward_takes_a_committed_database_back_too(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the database's commit and its note in the journal, then the snapshot is damaged: all old."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, roll, "restore_database", 1, after=True)
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    stored.write_text("{ }")
    assert recover(project.settings).status == "undone"
    assert project.content() == before


def test_recovery_goes_back_when_the_database_is_locked_then(project: Project, roll: Any) -> None:
    """Killed after some files were exchanged; forward fails once at the database: all old."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, roll, "restore_database", 1, after=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "restore_database", fail_at(1, sqlite.restore_database, StageFailed("locked.")))
        assert recover(project.settings).status == "undone"
    assert project.content() == before


def test_recovery_goes_back_when_the_snapshot_has_vanished(project: Project, roll: Any) -> None:
    """Without the snapshot the old state can still come back whole."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, roll, "rename_into_place", 2, after=True)
    shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))
    assert recover(project.settings).status == "undone"
    assert project.content() == before


def reboot_with_other_devices(project: Project) -> None:
    """Let the journal of an interrupted rollback have been written when the disks had other device numbers."""

    def of_then(inode: Inode | None) -> Inode | None:
        return inode and evolve(inode, device=inode.device + 1000)

    journal = read_journal(project.pipeline)
    assert journal is not None
    steps = [
        evolve(step, new=of_then(step.new), old=of_then(step.old), folder=of_then(step.folder))
        for step in journal.steps
    ]
    write_journal(project.pipeline, evolve(journal, steps=steps))


@pytest.mark.parametrize("is_undone", [False, True])
@pytest.mark.parametrize(("number", "after"), [(1, False), (1, True), (2, True), (3, False), (3, True)])
def test_a_disk_that_has_another_device_number_after_the_reboot_is_known(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, number: int, after: bool, is_undone: bool
) -> None:
    """Its inodes are the same: names change hands as before, and nothing is written in place."""
    new = project.content()
    project.capture()
    project.damage()
    old = project.content()
    crash_in_mid_swap(project, roll, "rename_into_place", number, after=after)
    reboot_with_other_devices(project)
    if is_undone:
        shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))

    def overwrite(*_: object) -> None:
        pytest.fail("written in place")

    monkeypatch.setattr(base.AssetKind, "overwrite", overwrite)
    assert recover(project.settings).status == ("undone" if is_undone else "finished")
    assert project.content() == (old if is_undone else new)
    assert project.strays() == []


def test_a_damaged_database_gets_its_wal_back_from_a_disk_with_another_device_number(
    project: Project, roll: Any, start_service: Any
) -> None:
    """Its WAL was set aside for the restored one; undone after a reboot, both are what they were."""
    project.capture()
    service = start_service(project.database)
    service.ask("UPDATE accounts SET balance = 4242")
    service.crash()
    zero_header(project)
    files = [project.database, Path(str(project.database) + "-wal")]
    remains = [path.read_bytes() for path in files]
    crash_in_mid_swap(project, roll, "rename_into_place", 1, after=True)
    reboot_with_other_devices(project)
    shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))
    assert recover(project.settings).status == "undone"
    assert [path.read_bytes() for path in files] == remains


def test_recovery_flushes_the_folder_of_an_exchange_it_finds_done(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between an exchange and its fsync, then a power cut after recovery: the name has to be on disk."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, roll, "fsync_directory", 1, after=False)  # the first exchange is done, unflushed
    flushed: list[Path] = []
    real = placing.fsync_directory

    def fsync_directory(path: Path) -> None:
        flushed.append(path)
        real(path)

    journal = json.loads(project.pipeline.journal_path.read_text())
    first = next(step["key"] for step in journal["steps"] if step["action"] == "place")
    folder = project.settings.release.assets[first].path.parent
    monkeypatch.setattr(placing, "fsync_directory", fsync_directory)
    noted: list[bool] = []
    real_write = swap.write_journal

    def write_journal(pipeline: Any, journal: Any) -> Any:
        if any(step.key == first and step.done for step in journal.steps) and not noted:
            noted.append(folder in flushed)
        return real_write(pipeline, journal)

    monkeypatch.setattr(swap, "write_journal", write_journal)
    assert recover(project.settings).status == "finished"
    assert noted == [True], "the step was noted as done before its folder was flushed"


def test_a_file_the_service_renewed_after_the_crash_is_made_right(project: Project, roll: Any) -> None:
    """A supervisor started the service in between, which replaced its config: recovery still ends all new."""
    new = project.content()
    project.capture()
    project.damage()
    crash_in_mid_swap(project, roll, "rename_into_place", 1, after=False)
    fresh = project.state / "fresh"
    fresh.write_text('{"by": "service"}')
    fresh.replace(project.mcp)
    project.extra.write_text("{}")
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.strays() == []


def test_where_names_cannot_be_exchanged_two_renames_do_it(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a filesystem without RENAME_EXCHANGE: restored, undone, and undone when it fails half-way."""

    def exchange(first: Path, second: Path) -> None:
        raise OSError(22, "Invalid argument", str(first), None, str(second))

    monkeypatch.setattr(placing, "exchange", exchange)
    good = project.content()
    project.capture()
    project.damage()
    bad = project.content()
    with monkeypatch.context() as patch:
        patch.setattr(base, "rename_into_place", fail_at(3, base.rename_into_place, OSError(5, "Input/output error")))
        assert roll(project).status == "failed"
    assert project.content() == bad
    assert project.strays() == []
    outcome = roll(project)
    assert outcome.status == "restored"
    assert project.content() == good
    assert roll(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.strays() == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_between_the_two_renames_is_finished(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    """In that moment the name is missing; recovery gives it back."""

    def exchange(first: Path, second: Path) -> None:
        raise OSError(22, "Invalid argument", str(first), None, str(second))

    new = project.content()
    project.capture()
    project.damage()
    (project.mcp).write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(placing, "exchange", exchange)
        real = placing.os.rename
        calls = 0

        def rename(a: Any, b: Any, **more: Any) -> None:
            nonlocal calls
            counts = Path(a).parent == project.state
            calls += counts
            if counts and calls == number and not after:
                raise PowerCut
            real(a, b, **more)
            if counts and calls == number:
                raise PowerCut

        patch.setattr(placing.os, "rename", rename)
        with pytest.raises(PowerCut):
            roll(project)
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.strays() == []


def test_recover_with_nothing_to_do_changes_nothing(project: Project, roll: Any, tree: Any) -> None:
    """Before the first command it does not even make the folder; later it leaves every byte."""
    before = tree(project.folder)
    assert recover(project.settings).status == "clean"
    assert tree(project.folder) == before
    project.capture()
    project.damage()
    roll(project)
    before = tree(project.folder)
    assert recover(project.settings).status == "clean"
    assert tree(project.folder) == before


@pytest.mark.smoke
def test_recover_leaves_a_running_runs_files_alone(project: Project, tree: Any) -> None:
    """A capture or a staging at work is no leftover; the start gate does not wait for it."""
    project.capture()
    (project.state / ".mcp.json.release-tasks-x").write_text("being staged")
    (project.pipeline.catalogue.store.folder / ".v2_snapshot.partial").mkdir()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with run_lock(project.pipeline.root, "release.prepare"):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        before = tree(project.folder)
        assert recover(project.settings).status == "clean"
        assert tree(project.folder) == before
    finally:
        done.set()
        thread.join()
    report = recover(project.settings)
    assert report.status == "discarded"
    assert len(report.removed) == 2
    assert project.strays() == []


JOURNALS = {
    "torn": b'{"journalVersion": 1, "rollb',
    "empty": b"",
    "of a later version": b'{"journalVersion": 2}',
    "without keys": b'{"journalVersion": 1}',
    "a list": b"[]",
}


@pytest.mark.parametrize("data", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_damaged_journal_is_a_sentence_and_nothing_is_changed(
    project: Project, roll: Any, tree: Any, data: bytes
) -> None:
    """It names the file and what to do; neither recover nor rollback guesses."""
    project.capture()
    project.damage()
    project.pipeline.journal_path.write_bytes(data)
    before = tree(project.state)
    with pytest.raises(StageFailed, match="journal"):
        recover(project.settings)
    outcome = roll(project)
    assert outcome.status == "failed"
    assert str(project.pipeline.journal_path) in outcome.diagnostics[0]
    assert tree(project.state) == before
    assert project.pipeline.journal_path.read_bytes() == data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rollbackId", "../../outside"),
        ("rollbackId", "a/b"),
        ("safetySnapshotId", "nowhere"),
    ],
)
def test_a_journal_with_a_hostile_value_is_a_sentence(
    project: Project, roll: Any, tree: Any, key: str, value: str
) -> None:
    """An id from a file is checked before it becomes part of a path."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, roll, "rename_into_place", 1, after=False)
    document = json.loads(project.pipeline.journal_path.read_text())
    document[key] = value
    project.pipeline.journal_path.write_text(json.dumps(document))
    before = tree(project.folder / "state")
    with pytest.raises(StageError):
        recover(project.settings)
    assert tree(project.folder / "state") == before


def test_an_asset_taken_out_of_the_configuration_meanwhile_is_named(project: Project, roll: Any) -> None:
    """Recovery cannot finish what it may not touch, and says what to put back."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, roll, "rename_into_place", 1, after=True)
    section = project.raw["assets"]
    del section["identity"]
    project.overrides["assets"] = section
    with pytest.raises(StageFailed, match="identity"):
        recover(project.settings)
