"""Rollbacks without a safety snapshot: complete, undone, or only to be completed; and a disk without space for one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from release_tasks.archive.capture import unpublished_snapshot
from release_tasks.assets.sqlite.connection import DiskError
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.rollback import safety_copy
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.journal import read_journal
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.commands import run_inv, write_project_files
from tests.support.crash import PowerCut, fail_at
from tests.support.faults.marks import NEEDS_STRACE
from tests.support.faults.mounts import Mounts
from tests.support.faults.scenario import MakeScenarioProject, Scenario
from tests.support.faults.tracing import Driver
from tests.support.project import Project
from tests.support.rollback import audit_events, rollback_state
from tests.support.swap_crash import SwapCall, crash_at


def roll_back(project: Project) -> RollbackOutcome:
    return rollback(project.settings, RollbackRequest(without_safety=True))


@pytest.fixture
def damaged_project(project: Project) -> Project:
    """A project with a snapshot, and every asset changed since."""
    project.capture()
    project.damage()
    return project


def test_restore_without_a_safety_snapshot_is_complete_and_says_so(project: Project) -> None:
    """No snapshot is added, and every record tells that there is none."""
    good = project.content()
    project.capture()
    project.damage()
    plan = plan_rollback(project.settings, without_safety=True)
    assert any("--without-safety" in line for line in plan.diagnostics), plan
    assert project.content() != good
    outcome = roll_back(project)
    assert (outcome.status, outcome.safety_snapshot_id) == ("restored", None), outcome
    assert project.content() == good
    assert [each.snapshot_id for each in project.pipeline.catalogue.published()[0]] == ["v1_snapshot"]
    assert any("cannot be undone" in line for line in outcome.diagnostics)
    assert rollback_state(project).safety_snapshot_id is None
    assert audit_events(project)[-1] == ("rollback.finished", "restored")
    assert project.leftovers() == []


@pytest.mark.slow
def test_command_without_a_safety_snapshot_prints_no_way_to_undo(damaged_project: Project) -> None:
    """The flag of the real command, its plan, and no command that could not work."""
    write_project_files(damaged_project.folder, damaged_project.raw)
    planned = run_inv(damaged_project.folder, "release.rollback", "--without-safety", "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "cannot be undone" in planned.stdout
    done = run_inv(damaged_project.folder, "release.rollback", "--without-safety")
    assert done.returncode == 0, done.stderr
    assert "cannot be undone" in done.stdout
    assert "To undo" not in done.stdout


def test_exchange_that_fails_is_undone_without_a_safety_snapshot(damaged_project: Project) -> None:
    """The databases come last, so nothing is committed when a file cannot be exchanged."""
    before = damaged_project.content()
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "rename_into_place", 2, after=False, error=StageFailed("It cannot be exchanged."))
        outcome = roll_back(damaged_project)
    assert outcome.status == "failed"
    assert "undone" in outcome.diagnostics[0], outcome
    assert damaged_project.content() == before
    assert read_journal(damaged_project.pipeline) is None
    assert damaged_project.leftovers() == []


def test_committed_database_without_a_safety_snapshot_is_only_completed(project: Project) -> None:
    """The journal stays, the message names the command, and recover finishes."""
    good = project.content()
    project.capture()
    project.damage()
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "restore_database", 1, after=True, error=DiskError("The disk fails."))
        outcome = roll_back(project)
    assert outcome.status == "failed"
    assert "inv release.recover" in outcome.diagnostics[0], outcome
    assert "can only be completed" in outcome.diagnostics[0], outcome
    journal = read_journal(project.pipeline)
    assert journal is not None
    assert (journal.safety_snapshot_id, journal.direction) == (None, "forward")
    assert recover(project.settings).status == "finished"
    assert project.content() == good
    assert project.leftovers() == []


def test_recovery_without_both_snapshots_says_what_is_left(project: Project) -> None:
    """The snapshot is damaged after the commit: recover cannot finish, changes nothing and keeps the journal."""
    project.capture()
    project.damage()
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, "restore_database", 1, after=True)
        with pytest.raises(PowerCut):
            roll_back(project)
    stored = project.pipeline.catalogue.path("v1_snapshot") / "assets" / "mcp" / "mcp.json"
    good = stored.read_bytes()
    stored.write_bytes(b"lost")
    before = project.content()
    with pytest.raises(StageFailed, match="can only be completed"):
        recover(project.settings)
    assert project.content() == before
    stored.write_bytes(good)
    assert recover(project.settings).status == "finished"


@pytest.mark.parametrize("name", ["write_journal", "restore_database", "rename_into_place", "fsync_directory"])
@pytest.mark.parametrize("after", [False, True])
def test_crash_without_a_safety_snapshot_ends_old_or_new(project: Project, name: SwapCall, after: bool) -> None:
    """Recovery completes the rollback, or undoes it before the first database is committed."""
    good = project.content()
    project.capture()
    project.damage()
    bad = project.content()
    number = 1 if name == "restore_database" else 2
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, name, number, after=after)
        with pytest.raises(PowerCut):
            roll_back(project)
    report = recover(project.settings)
    assert project.content() == {"finished": good, "undone": bad}[report.status]
    assert project.leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@NEEDS_STRACE
def test_kill_without_a_safety_snapshot_leaves_old_or_new(
    driver: Driver, make_scenario_project: MakeScenarioProject, report_points: Callable[[int], None]
) -> None:
    """A seeded sample of the system calls."""
    scenario = Scenario(make_scenario_project("wal"), driver)
    job = scenario.job("rollback", without_safety=True)
    driver.warm_up(job)
    scenario.reset()
    points = [point for point in driver.record(job, scenario.folders) if not point.is_flush]
    chosen = random.Random(11).sample(points, min(25, len(points)))
    states = set()
    for point in sorted(chosen, key=lambda each: points.index(each)):
        scenario.reset()
        driver.kill(job, point)
        states.add(scenario.check_recovered(point))
    report_points(len(chosen))
    assert states == {"old", "new"}


def test_capture_that_fills_the_disk_ends_with_the_command_to_type(
    damaged_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up after the estimate: nothing live is touched."""
    before = damaged_project.content()
    full = OSError(28, "No space left on device", "a file")
    with monkeypatch.context() as patch:
        patch.setattr(safety_copy, "unpublished_snapshot", fail_at(1, unpublished_snapshot, full))
        outcome = damaged_project.roll_back()
    assert outcome.status == "failed"
    assert "inv release.rollback --snapshot v1_snapshot --without-safety" in outcome.diagnostics[0]
    assert damaged_project.content() == before


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_full_disk_of_the_pipeline_is_named_and_restored_from_without_a_safety_copy(
    tmp_path: Path, mounts: Mounts
) -> None:
    """A real ext4 with too little space for the safety copy, and enough for the audit log."""
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder)
    mounts.ext4(folder / "pipeline", 8 << 20)
    good = project.content()
    project.capture()
    project.damage()
    (project.identity / "large").write_bytes(b"x" * (20 << 20))
    bad = project.content()
    outcome = project.roll_back()
    assert outcome.status == "failed"
    assert "MiB" in outcome.diagnostics[0]
    assert "--without-safety" in outcome.diagnostics[0]
    assert project.content() == bad
    assert roll_back(project).status == "restored"
    assert project.content() == good
