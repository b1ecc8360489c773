"""A step that fails in the middle of a swap is undone, and recovery finishes or undoes a run that ended anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets import base, placing
from release_tasks.core import place as core_place
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.lock import run_lock
from release_tasks.core.place import Place
from release_tasks.core.records import Inode, RollbackJournal
from release_tasks.stages.rollback import commit, swap
from release_tasks.stages.rollback.journal import read_journal, write_journal
from release_tasks.stages.rollback.recovery import pending, recover
from tests.support.crash import PowerCut, fail_at
from tests.support.files import file_tree
from tests.support.project import MakeProject, Project
from tests.support.rollback import audit_events, roll_back, rollback_state, safety_folder
from tests.support.scripts import StartService
from tests.support.swap_crash import SwapCall, crash_at, crash_in_mid_swap


def zero_header(project: Project) -> None:
    """Overwrite the header of the live database, so that SQLite cannot open it."""
    with project.database.open("r+b") as file:
        file.write(bytes(100))


ERRORS = [OSError(28, "No space left on device"), StageFailed("it cannot be done.")]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("error", ERRORS, ids=["os", "stage"])
def test_failed_file_step_undoes_the_steps_before_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    """The database that SQLite restored already is rolled back too, the journal is removed and no leftover stays."""
    project.capture()
    project.damage()
    before = project.content()
    crash_at(monkeypatch, "rename_into_place", number, after=False, error=error)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "the earlier state is back in place" in outcome.diagnostics[0]
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert project.leftovers() == []
    assert roll_back(project).status == "restored"


def test_failed_database_step_leaves_all_assets_unchanged(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are restored first, so no other asset has changed."""
    project.capture()
    project.damage()
    before = project.content()
    crash_at(monkeypatch, "restore_database", 1, after=False, error=StageFailed("locked."))
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "are missing" not in outcome.diagnostics[0]
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()
    assert audit_events(project) == [("rollback.started", "in_progress"), ("rollback.refused", "failed")]
    assert rollback_state(project).status == "failed"
    assert rollback_state(project).restored is False


def test_failure_of_the_second_database_undoes_the_first(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored database is undone as files are, and the message says what the safety snapshot cannot have."""
    shutil.copy(project.database, project.state / "second.db")
    project.overrides["assets.second"] = {"sqlite": "state/second.db"}
    project.capture()
    project.damage()
    shutil.copy(project.database, project.state / "second.db")
    before = project.content()
    crash_at(monkeypatch, "restore_database", 2, after=False, error=StageFailed("locked."))
    outcome = roll_back(project)
    assert outcome.status == "failed"
    missing = "rows that were committed between the safety snapshot and the swap are missing"
    assert re.search(rf"back in place\. In (database|second), {missing}", outcome.diagnostics[0])
    assert project.content() == before


def test_failed_chmod_of_a_database_undoes_its_commit(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails after SQLite committed the database is undone like a finished step."""
    project.capture()
    project.damage()
    project.database.chmod(0o666)
    before = project.content()
    real, database = os.fchmod, project.database.stat()

    def fchmod(fd: int, mode: int) -> None:
        if os.path.samestat(os.fstat(fd), database):
            raise PermissionError(1, "Operation not permitted")
        real(fd, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    outcome = roll_back(project)
    monkeypatch.undo()
    assert outcome.status == "failed"
    assert project.content() == before


@pytest.mark.parametrize(
    "number",
    range(1, 5),
)
def test_failed_journal_write_leaves_the_old_state(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The disk is full while a step is recorded as done: all assets are unchanged and the journal is removed."""
    project.capture()
    project.damage()
    before = project.content()
    error = OSError(28, "No space left on device")
    crash_at(monkeypatch, "write_journal", number, after=False, error=error)
    assert roll_back(project).status == "failed"
    assert project.content() == before
    assert not project.pipeline.journal_path.exists()


def test_failed_later_step_restores_a_damaged_database_byte_for_byte(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undo brings back the damaged database that was live before."""
    project = make_project("p", "delete")
    project.capture()
    project.damage()
    zero_header(project)
    crash_at(monkeypatch, "rename_into_place", 3, after=False, error=OSError(5, "Input/output error"))
    remains = project.content(database_as_bytes=True)
    assert roll_back(project).status == "failed"
    assert project.content(database_as_bytes=True) == remains
    assert project.leftovers() == []


@pytest.mark.parametrize("is_undone", [False, True])
def test_damaged_database_and_its_wal_are_kept_unchanged(
    project: Project, start_service: StartService, monkeypatch: pytest.MonkeyPatch, is_undone: bool
) -> None:
    """The WAL has committed rows: the safety snapshot contains both files, and an undo restores both."""
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
        crash_at(monkeypatch, "rename_into_place", 2, after=False, error=OSError(5, "Input/output error"))
    outcome = roll_back(project)
    assert outcome.status == ("failed" if is_undone else "restored")
    folder = project.state
    if not is_undone:
        folder = safety_folder(project, outcome) / "assets" / "database" / "app.db"
    assert {name: (folder / name).read_bytes() for name in remains if (folder / name).exists()} == remains


def test_failed_undo_keeps_the_journal_and_recover_completes_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the undo fails too, the journal stays; recover rolls back once the cause is gone."""
    project.capture()
    project.damage()
    before = project.content()
    calls = 0
    real = placing.rename_into_place

    def rename_into_place(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        if 2 <= calls <= 3:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(base, "rename_into_place", rename_into_place)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert project.pipeline.journal_path.exists()
    monkeypatch.undo()
    assert recover(project.settings).status == "undone"
    assert project.content() == before
    assert project.leftovers() == []
    assert audit_events(project)[-1] == ("rollback.recovered", "failed")


# Each function that a swap calls, with the number of its calls in a swap of the scratch project.
CALLS: dict[SwapCall, int] = {"write_journal": 4, "restore_database": 1, "rename_into_place": 3, "fsync_directory": 3}
POINTS = [
    (name, number, after) for name, count in CALLS.items() for number in range(1, count + 1) for after in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "after"), POINTS)
def test_recover_finishes_a_run_that_ended_during_the_swap(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: SwapCall, number: int, after: bool
) -> None:
    """Once the journal is written, recovery ends in the new state, before and after each call of the swap."""
    new = project.content()
    project.capture()
    project.damage()
    with monkeypatch.context() as patch:
        crash_at(patch, name, number, after=after)
        with pytest.raises(PowerCut):
            roll_back(project)
    assert project.pipeline.journal_path.exists()
    assert pending(project.settings, project.pipeline).status == "pending"
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.leftovers() == []
    assert not project.pipeline.journal_path.exists()
    assert audit_events(project)[-1] == ("rollback.recovered", "restored")
    assert recover(project.settings).status == "clean"
    assert roll_back(project).status == "noop"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "after"), [p for p in POINTS if p[0] != "fsync_directory"])
def test_recover_undoes_a_run_that_ended_during_the_undo(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: SwapCall, number: int, after: bool
) -> None:
    """Once the journal records the direction back, recovery always ends in the old state."""
    project.capture()
    project.damage()
    before = project.content()
    with monkeypatch.context() as patch:
        real_back = swap.Swap.back

        def back(self: swap.Swap) -> None:
            crash_at(patch, name, number, after=after)
            real_back(self)

        patch.setattr(swap.Swap, "back", back)
        crash_at(patch, "rename_into_place", 3, after=False, error=OSError(5, "Input/output error"))
        with pytest.raises(PowerCut):
            roll_back(project)
    was_undoing = json.loads(project.pipeline.journal_path.read_text())["direction"] == "back"
    status = recover(project.settings).status
    assert status == ("undone" if was_undoing else "finished")
    assert project.leftovers() == []
    if was_undoing:
        assert project.content() == before


def test_recover_discards_a_run_that_ended_before_the_journal(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged copies and the open state are removed; no live file was changed."""
    project.capture()
    project.damage()
    before = project.content()
    with monkeypatch.context() as patch:
        patch.setattr(commit, "write_journal", fail_at(1, write_journal, PowerCut()))
        patch.setattr(base, "discard_staged", lambda *_: [])
        with pytest.raises(PowerCut):
            roll_back(project)
    assert project.leftovers() != []
    assert pending(project.settings, project.pipeline).status == "pending"
    report = recover(project.settings)
    assert report.status == "discarded" and report.removed
    assert project.content() == before
    assert project.leftovers() == []
    assert audit_events(project)[-1][0] == "rollback.recovered"
    assert rollback_state(project).status == "failed"


def test_recovery_with_a_damaged_snapshot_undoes_a_committed_database(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between commit and journal record, then damage to the snapshot, end in the old state."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, "restore_database", 1, after=True)
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    stored.write_text("{ }")
    assert recover(project.settings).status == "undone"
    assert project.content() == before


def test_recovery_with_a_locked_database_ends_in_the_old_state(project: Project) -> None:
    """The database fails once during recovery, so recovery undoes the exchanged files."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, "restore_database", 1, after=True)
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "restore_database", 1, after=False, error=StageFailed("locked."))
        assert recover(project.settings).status == "undone"
    assert project.content() == before


def test_recovery_without_the_snapshot_ends_in_the_old_state(project: Project) -> None:
    """The safety snapshot is enough to restore the old state."""
    project.capture()
    project.damage()
    before = project.content()
    crash_in_mid_swap(project, "rename_into_place", 2, after=True)
    shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))
    assert recover(project.settings).status == "undone"
    assert project.content() == before


def reboot_with_other_devices(project: Project) -> None:
    """Rewrite the journal as if the disks had other device numbers before a reboot."""

    def with_old_device(inode: Inode | None) -> Inode | None:
        return inode and evolve(inode, device=inode.device + 1000)

    journal = read_journal(project.pipeline)
    assert journal is not None
    steps = [
        evolve(step, new=with_old_device(step.new), old=with_old_device(step.old), folder=with_old_device(step.folder))
        for step in journal.steps
    ]
    write_journal(project.pipeline, evolve(journal, steps=steps))


@pytest.mark.parametrize("is_undone", [False, True])
@pytest.mark.parametrize(("number", "after"), [(1, False), (1, True), (2, True), (3, False), (3, True)])
def test_recovery_accepts_changed_device_numbers(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int, after: bool, is_undone: bool
) -> None:
    """Inode numbers identify the files: recovery renames them as before and overwrites none in place."""
    new = project.content()
    project.capture()
    project.damage()
    old = project.content()
    crash_in_mid_swap(project, "rename_into_place", number, after=after)
    reboot_with_other_devices(project)
    if is_undone:
        shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))

    def overwrite(*_: object) -> None:
        pytest.fail("a file was overwritten in place")

    monkeypatch.setattr(base.AssetKind, "overwrite", overwrite)
    assert recover(project.settings).status == ("undone" if is_undone else "finished")
    assert project.content() == (old if is_undone else new)
    assert project.leftovers() == []


def test_undo_after_a_device_number_change_restores_the_wal(project: Project, start_service: StartService) -> None:
    """The swap set the WAL of the damaged database aside; an undo after a reboot brings both files back."""
    project.capture()
    service = start_service(project.database)
    service.ask("UPDATE accounts SET balance = 4242")
    service.crash()
    zero_header(project)
    files = [project.database, Path(str(project.database) + "-wal")]
    remains = [path.read_bytes() for path in files]
    crash_in_mid_swap(project, "rename_into_place", 1, after=True)
    reboot_with_other_devices(project)
    shutil.rmtree(project.pipeline.catalogue.path("v1_snapshot"))
    assert recover(project.settings).status == "undone"
    assert [path.read_bytes() for path in files] == remains


def test_recovery_flushes_the_folder_of_a_finished_exchange(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill came between exchange and fsync: recovery flushes the folder, then records the step as done."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, "fsync_directory", 1, after=False)  # the first exchange is done, unflushed
    flushed: list[Path] = []
    real = Place.flush_folder

    def flush_folder(place: Place) -> None:
        flushed.append(place.path.parent)
        real(place)

    journal = json.loads(project.pipeline.journal_path.read_text())
    first = next(step["key"] for step in journal["steps"] if step["action"] == "place")
    folder = project.settings.release.assets[first].path.parent
    monkeypatch.setattr(Place, "flush_folder", flush_folder)
    flushed_first: list[bool] = []

    def recording_write(pipeline: Pipeline, journal: RollbackJournal) -> RollbackJournal:
        if any(step.key == first and step.done for step in journal.steps) and not flushed_first:
            flushed_first.append(folder in flushed)
        return write_journal(pipeline, journal)

    monkeypatch.setattr(swap, "write_journal", recording_write)
    assert recover(project.settings).status == "finished"
    assert flushed_first == [True], "the step was recorded as done before its folder was flushed"


def test_recovery_replaces_a_file_that_the_service_rewrote_after_the_crash(project: Project) -> None:
    """A supervisor started the service before recovery: recovery still ends in the new state."""
    new = project.content()
    project.capture()
    project.damage()
    crash_in_mid_swap(project, "rename_into_place", 1, after=False)
    fresh = project.state / "fresh"
    fresh.write_text('{"by": "service"}')
    fresh.replace(project.mcp)
    project.extra.write_text("{}")
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.leftovers() == []


def test_without_rename_exchange_two_renames_restore_and_undo(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filesystem without RENAME_EXCHANGE allows a restore, a rollback of it, and the undo of a failed step."""

    def exchange(first: Path, second: Path, *_: object) -> None:
        raise OSError(22, "Invalid argument", str(first), None, str(second))

    monkeypatch.setattr(core_place, "exchange", exchange)
    good = project.content()
    project.capture()
    project.damage()
    bad = project.content()
    with monkeypatch.context() as patch:
        crash_at(patch, "rename_into_place", 3, after=False, error=OSError(5, "Input/output error"))
        assert roll_back(project).status == "failed"
    assert project.content() == bad
    assert project.leftovers() == []
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert project.content() == good
    assert roll_back(project, outcome.safety_snapshot_id).status == "restored"
    assert project.content() == bad
    assert project.leftovers() == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_recover_finishes_a_run_that_ended_between_the_two_renames(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    """At that moment the live name is missing; recovery restores it."""

    def exchange(first: Path, second: Path, *_: object) -> None:
        raise OSError(22, "Invalid argument", str(first), None, str(second))

    new = project.content()
    project.capture()
    project.damage()
    project.mcp.write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(core_place, "exchange", exchange)
        real = os.rename
        calls = 0

        def rename(a: Any, b: Any, **more: Any) -> None:
            nonlocal calls
            is_counted = os.path.samestat(os.stat(more.get("src_dir_fd") or Path(a).parent), project.state.stat())
            calls += is_counted
            if is_counted and calls == number and not after:
                raise PowerCut
            real(a, b, **more)
            if is_counted and calls == number:
                raise PowerCut

        patch.setattr(os, "rename", rename)
        with pytest.raises(PowerCut):
            roll_back(project)
    assert recover(project.settings).status == "finished"
    assert project.content() == new
    assert project.leftovers() == []


def test_recover_with_nothing_to_do_changes_nothing(project: Project) -> None:
    """Before the first command recover creates no folder; afterwards it changes no byte."""
    before = file_tree(project.folder)
    assert recover(project.settings).status == "clean"
    assert file_tree(project.folder) == before
    project.capture()
    project.damage()
    roll_back(project)
    before = file_tree(project.folder)
    assert recover(project.settings).status == "clean"
    assert file_tree(project.folder) == before


@pytest.mark.smoke
def test_recover_leaves_files_of_a_running_command_alone(project: Project) -> None:
    """Staged copies of a run that holds the lock are no leftovers; the start gate does not wait.

    A file whose name has the id of no rollback that is on record stays: anybody who may write the folder can make it.
    """
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
        before = file_tree(project.folder)
        assert recover(project.settings).status == "clean"
        assert file_tree(project.folder) == before
    finally:
        done.set()
        thread.join()
    report = recover(project.settings)
    assert report.status == "discarded"
    assert report.removed == [".v2_snapshot.partial"]
    assert [Path(path).name for path in project.leftovers()] == [".mcp.json.release-tasks-x"]


JOURNALS = {
    "torn": b'{"journalVersion": 1, "rollb',
    "empty": b"",
    "of a later version": b'{"journalVersion": 3}',
    "without keys": b'{"journalVersion": 1}',
    "a list": b"[]",
}


@pytest.mark.parametrize("data", JOURNALS.values(), ids=JOURNALS.keys())
def test_damaged_journal_is_reported_and_nothing_is_changed(project: Project, data: bytes) -> None:
    """The message names the file; recover and rollback both refuse to guess."""
    project.capture()
    project.damage()
    project.pipeline.journal_path.write_bytes(data)
    before = file_tree(project.state)
    with pytest.raises(StageFailed, match="journal"):
        recover(project.settings)
    outcome = roll_back(project)
    assert outcome.status == "failed"
    assert str(project.pipeline.journal_path) in outcome.diagnostics[0]
    assert file_tree(project.state) == before
    assert project.pipeline.journal_path.read_bytes() == data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rollbackId", "../../outside"),
        ("rollbackId", "a/b"),
        ("safetySnapshotId", "nowhere"),
    ],
)
def test_forged_id_in_the_journal_is_refused(project: Project, key: str, value: str) -> None:
    """An id from a file is checked before it becomes part of a path."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, "rename_into_place", 1, after=False)
    document = json.loads(project.pipeline.journal_path.read_text())
    document[key] = value
    project.pipeline.journal_path.write_text(json.dumps(document))
    before = file_tree(project.folder / "state")
    with pytest.raises(StageError):
        recover(project.settings)
    assert file_tree(project.folder / "state") == before


def test_recovery_names_an_asset_that_is_no_longer_configured(project: Project) -> None:
    """Recovery must not write to an unknown place, and says which asset to put back into the configuration."""
    project.capture()
    project.damage()
    crash_in_mid_swap(project, "rename_into_place", 1, after=True)
    section = project.raw["assets"]
    del section["identity"]
    project.overrides["assets"] = section
    with pytest.raises(StageFailed, match="identity"):
        recover(project.settings)
