"""The fault tests fail when any one safeguard is removed.

A mutant lacks one flush, the journal, the check of inodes or another safeguard, in the process of the stage alone. A
power cut, a kill or a normal run must find it. The mutants without a lock are in test_races.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.disks import DeltaDiskScenario, DiskScenario, why_not
from tests.support.faults.marks import NEEDS_STRACE
from tests.support.faults.scenario import BlockedScenario, MakeScenarioProject, Scenario, change_config, damage_header
from tests.support.faults.tracing import MARK, Driver, Point
from tests.support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    NEEDS_STRACE,
]
on_disks = [
    pytest.mark.root,
    pytest.mark.skipif(why_not("ext4") is not None, reason=f"NOT TESTED: power cuts: {why_not('ext4')}"),
]

RELEASES, FIRST, DAMAGED, DELTAS = "two releases", "one release", "database damaged", "deltas"

# Every flush of a stage, innermost function first, and the scenario in which a power cut finds that it is missing.
TESTED: dict[tuple[str, str], str] = {
    ("rollback", "fsync_file < fsync_tree < new_snapshot < unpublished_snapshot"): RELEASES,
    ("rollback", "write_atomic < new_snapshot < unpublished_snapshot"): DAMAGED,
    ("rollback", "fsync_file < fsync_tree < stage < staged"): DAMAGED,
    ("rollback", "fsync_file < fsync_tree < stage < stage"): DAMAGED,
    ("rollback", "write_atomic < write_journal < commit"): DAMAGED,
    ("rollback", "fsync_directory < write_atomic < write_journal < commit"): DAMAGED,
    ("rollback", "write_atomic < write_journal < _note"): DAMAGED,
    ("rollback", "fsync_directory < rename_into_place < exchange"): DAMAGED,
    ("rollback", "write_atomic < write_state < mark_restored"): DAMAGED,
    ("rollback", "append < publish"): RELEASES,
    ("rollback", "append < finish"): DAMAGED,
    ("rollback", "write_atomic < write_state < finish"): DAMAGED,
    ("rollback", "fsync_directory < write_atomic < write_state < finish"): DAMAGED,
    ("recover", "fsync_directory < rename_into_place < exchange"): DAMAGED,
    ("recover", "write_atomic < write_journal < _note"): DAMAGED,
    ("recover", "append < _complete"): DAMAGED,
    ("recover", "write_atomic < write_state < _complete"): DAMAGED,
    ("prepare", "fsync_file < fsync_tree < new_snapshot < unpublished_snapshot"): RELEASES,
    ("prepare", "write_atomic < new_snapshot < unpublished_snapshot"): RELEASES,
    ("prepare", "append < _write"): RELEASES,
    ("prepare", "write_atomic < write_statement < _write"): RELEASES,
    ("prepare", "write_atomic < write_manifest < _write"): RELEASES,
    ("prepare", "fsync_directory < publish < prepare_release"): FIRST,
    ("prepare", "append < apply_retention"): RELEASES,
    ("prepare", "fsync_directory < delete < _remove"): RELEASES,
}

_ORDER = (
    "on ext4 and XFS a later flush of the same filesystem flushes every earlier name too; POSIX does not require it"
)
_FIRST = "ext4 and XFS flush a new name with the first flush of its file"
_DISCARDED = "the next command discards files that come back"
_REWRITTEN = "the file is written again before a command reads it"

# Flushes whose absence no power cut finds here, and why.
UNTESTED: dict[tuple[str, str], str] = {
    ("rollback", "append < begin"): "the event of the safety snapshot follows before anything live is changed",
    ("rollback", "fsync_directory < append < begin"): _FIRST,
    ("rollback", "write_atomic < write_state < begin"): _REWRITTEN,
    ("rollback", "fsync_directory < write_atomic < write_state < begin"): _REWRITTEN,
    ("rollback", "fsync_file"): "its tree is flushed once more; this flush runs in parallel with the digest",
    ("rollback", "fsync_directory < fsync_tree < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < write_atomic < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < publish < publish"): _ORDER,
    ("rollback", "fsync_directory < _keep < _is_kept"): _ORDER,
    ("rollback", "fsync_directory < fsync_tree < stage < staged"): _ORDER,
    ("rollback", "fsync_directory < stage < staged"): "a staged copy with a lost name is staged again",
    ("rollback", "fsync_directory < stage < stage"): "a staged copy with a lost name is staged again",
    ("rollback", "fsync_directory < set_side_files_aside < exchange"): _ORDER,
    ("rollback", "fsync_directory < write_atomic < write_journal < _note"): "a step with a lost note is repeated",
    ("rollback", "fsync_directory < write_atomic < write_state < mark_restored"): _ORDER,
    ("rollback", "fsync_directory < remove_durably < clear_journal < swap_in"): (
        "a journal that comes back has every step marked done"
    ),
    ("rollback", "fsync_directory < discard_staged < finish"): _DISCARDED,
    ("recover", "fsync_directory < set_side_files_aside < exchange"): _ORDER,
    ("recover", "fsync_directory < write_atomic < write_journal < _note"): "a step with a lost note is repeated",
    ("recover", "fsync_directory < remove_durably < clear_journal < _complete"): (
        "a journal that comes back has every step marked done"
    ),
    ("recover", "fsync_directory < write_atomic < write_state < _complete"): _ORDER,
    ("recover", "fsync_directory < discard_staged < finish"): _DISCARDED,
    ("prepare", "fsync_file"): "its tree is flushed once more; this flush runs in parallel with the digest",
    ("prepare", "fsync_directory < fsync_tree < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < write_statement < _write"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < write_manifest < _write"): _ORDER,
    ("prepare", "fsync_directory < _keep < _is_kept"): _ORDER,
    ("prepare", "fsync_directory < remove < remove_unneeded_bases"): (
        "a base that comes back is removed by the next clean-up"
    ),
    ("prepare", "append < record_published"): "a release without this event is known by the event before it",
    ("prepare", "fsync_directory < append < _write"): _FIRST,
    ("prepare", "fsync_directory < make_private_directory < write_atomic < write_statement < _write"): _FIRST,
}

SCENARIOS: dict[str, Callable[[Project, Driver], DiskScenario]] = {
    RELEASES: lambda project, driver: DiskScenario(project, driver, damage=change_config, releases=("v1", "v2")),
    FIRST: lambda project, driver: DiskScenario(project, driver, damage=change_config, releases=("v1",)),
    DAMAGED: lambda project, driver: DiskScenario(project, driver, damage=damage_header),
    DELTAS: lambda project, driver: DeltaDiskScenario(project, driver),
}


@pytest.fixture
def project(make_scenario_project: MakeScenarioProject) -> Project:
    """The project of a test, its database in rollback-journal mode."""
    return make_scenario_project("delete")


@pytest.fixture
def disks(request: pytest.FixtureRequest, project: Project, driver: Driver) -> Iterator[DiskScenario]:
    """The scenario of the test's parameter, on ext4."""
    made = SCENARIOS[request.param](project, driver)
    try:
        made.move_to_disks("ext4")
        driver.warm_up(made.job("rollback"))
        yield made
    finally:
        made.close()


def job_of(scenario: Scenario, stage: str, mutant: str | None = None) -> dict[str, Any]:
    """Return the job of a stage without one safeguard."""
    options = {"release_id": "cut"} if stage == "prepare" else {}
    return scenario.job(stage, mutant=mutant, **options)


def start(scenario: DiskScenario, stage: str) -> None:
    """Reset the scenario; for a recovery, kill a rollback at its first exchange."""
    scenario.reset()
    if stage == "recover":
        calls = scenario.driver.record(scenario.job("rollback"), scenario.folders)
        scenario.reset()
        scenario.driver.kill(scenario.job("rollback"), next(call for call in calls if call.name == "renameat2"))
        assert scenario.project.pipeline.journal_path.exists()


def moments(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return the moments of the cuts after a skipped flush: many directly after it, fewer later."""
    chosen: dict[tuple[Point, bool], None] = {}
    for index, point in enumerate(points):
        if point.what != MARK:
            continue
        later = [(a, b) for a, b in zip(points[index:], points[index + 1 :], strict=False) if b.what != MARK]
        near = [b for a, b in later if a.what == MARK or a.is_flush or b.is_flush or a.name.startswith("rename")]
        chosen |= dict.fromkeys((b, is_after) for b in near[:8] for is_after in (False, True))
        chosen |= dict.fromkeys((b, False) for b in near[8::4])
    return list(chosen)


def cuts_until_found(scenario: DiskScenario, stage: str, mutant: str) -> int:
    """Return the number of power cuts until a promise is broken; 0 when no cut breaks one."""
    start(scenario, stage)
    job = job_of(scenario, stage, mutant)
    check = {
        "prepare": scenario.check_prepare,
        "recover": scenario.check_recovered,
        "rollback": scenario.check_rollback,
    }[stage]
    chosen = moments(scenario.driver.record(job, scenario.folders))
    for number, (point, after_names) in enumerate(chosen, start=1):
        start(scenario, stage)
        scenario.driver.kill(job, point)
        scenario.cut_power(after_names=after_names)
        try:
            check(point)
        except Exception:  # any error breaks a promise
            return number
    start(scenario, stage)
    scenario.driver.run(job)
    before = scenario.reported()
    scenario.cut_power()
    return 0 if scenario.reported() == before else len(chosen) + 1


@pytest.mark.parametrize(
    ("stage", "flush", "disks"),
    [pytest.param(*flush, scenario, marks=on_disks, id=" ".join(flush)) for flush, scenario in TESTED.items()],
    indirect=["disks"],
)
def test_missing_flush_is_found(
    disks: DiskScenario, stage: str, flush: str, report_points: Callable[[int], None]
) -> None:
    """A power cut soon after it breaks a promise, or loses records of the finished command."""
    number = cuts_until_found(disks, stage, f"flush: {flush}")
    assert number
    report_points(number)


@pytest.mark.parametrize("disks", [pytest.param(name, marks=on_disks, id=name) for name in SCENARIOS], indirect=True)
def test_every_flush_has_a_test_or_a_reason(disks: DiskScenario) -> None:
    """A new flush needs an entry in TESTED, or a reason in UNTESTED."""
    known = TESTED.keys() | UNTESTED.keys()
    for stage in {stage for stage, _ in known}:
        start(disks, stage)
        flushes = disks.driver.run(job_of(disks, stage)).flushes
        assert {(stage, flush) for flush in flushes} - known == set()


def kills_until_found(scenario: Scenario, mutant: str, check: Callable[[object], object]) -> int:
    """Return the number of kills until a promise is broken; 0 when no kill breaks one."""
    scenario.reset()
    job = scenario.job("rollback", mutant=mutant)
    points = [point for point in scenario.driver.record(job, scenario.folders) if not point.is_flush]
    for number, point in enumerate(reversed(points), start=1):
        scenario.reset()
        scenario.driver.kill(job, point)
        try:
            check(point)
        except Exception:
            return number
    return 0


def test_without_the_journal_a_kill_leaves_a_mix(
    project: Project, driver: Driver, report_points: Callable[[int], None]
) -> None:
    """The recovery cannot know the steps of the rollback."""
    scenario = Scenario(project, driver)
    number = kills_until_found(scenario, "the journal", scenario.check_recovered)
    assert number
    report_points(number)


def test_without_the_begun_note_a_database_is_not_undone(
    project: Project, driver: Driver, report_points: Callable[[int], None]
) -> None:
    """A kill after SQLite's commit and before the step is noted as done; the snapshot is lost before the recovery."""
    scenario = Scenario(project, driver)
    number = kills_until_found(scenario, "the note that a database is begun", scenario.check_undone)
    assert number
    report_points(number)


def test_without_the_check_of_inodes_a_recovery_reverts_a_finished_exchange(project: Project, driver: Driver) -> None:
    """Killed after the first exchange and before its note, the recovery exchanges again."""
    scenario = Scenario(project, driver)
    scenario.reset()
    calls = scenario.driver.record(scenario.job("rollback"), scenario.folders)
    exchange = next(index for index, call in enumerate(calls) if call.name == "renameat2")
    for mutant, expected in ((None, True), ("the check of inodes", False)):
        scenario.reset()
        scenario.driver.kill(scenario.job("rollback"), calls[exchange + 1])
        scenario.driver.run(scenario.job("recover", mutant=mutant))
        assert (scenario.state() == "new") is expected


def test_without_setting_it_aside_a_stale_wal_changes_the_database(project: Project, driver: Driver) -> None:
    """The WAL of another database lies next to a damaged database."""
    scenario = Scenario(project, driver, damage=damage_header)
    for mutant, expected in ((None, True), ("setting a stale WAL aside", False)):
        scenario.reset()
        scenario.driver.run(scenario.job("rollback", mutant=mutant))
        try:
            is_new = scenario.state() == "new"
        except sqlite3.DatabaseError:
            is_new = False
        assert is_new is expected


def test_without_undo_a_failed_rollback_leaves_a_mix(project: Project, driver: Driver) -> None:
    """The last asset cannot be removed."""
    scenario = BlockedScenario(project, driver)
    try:
        for mutant, expected in ((None, True), ("undoing what failed", False)):
            scenario.reset()
            assert scenario.driver.run(scenario.job("rollback", mutant=mutant)).result == "failed"
            assert (scenario.state() == "old") is expected
    finally:
        scenario.close()


def test_without_the_wal_a_captured_copy_lacks_rows(project: Project, driver: Driver) -> None:
    """Rows in the WAL of a crashed service are in the safety snapshot and come back with it."""
    scenario = Scenario(project, driver, damage=leave_rows_in_wal)
    for mutant, expected in ((None, True), ("the WAL in a captured copy", False)):
        scenario.reset()
        assert scenario.driver.run(scenario.job("rollback", mutant=mutant)).result == "restored"
        state = project.pipeline.read_state()
        assert state is not None
        assert rollback(project.settings, RollbackRequest(snapshot_id=state.safety_snapshot_id)).status == "restored"
        assert (scenario.state() == "old") is expected


@pytest.mark.parametrize("disks", [pytest.param(RELEASES, marks=on_disks, id=RELEASES)], indirect=True)
def test_without_the_flushes_of_sqlite_a_power_cut_leaves_a_mix(
    disks: DiskScenario, report_points: Callable[[int], None]
) -> None:
    """The database is old and the files are new."""
    disks.reset()
    job = disks.job("rollback", mutant="the flushes of SQLite")
    points = disks.driver.record(job, disks.folders)
    found = 0
    for point in points[::-7]:
        disks.reset()
        disks.driver.kill(job, point)
        disks.cut_power()
        recover(disks.project.settings)
        found += disks.state() not in ("old", "new")
    assert found
    report_points(len(points[::-7]))


def leave_rows_in_wal(project: Project) -> None:
    """Commit a transfer that is only in the WAL, as a killed service leaves it."""
    database = sqlite3.connect(project.database)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
    database.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 2")
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 1)")
    database.commit()
    files = {name: Path(f"{project.database}{name}").read_bytes() for name in ("", "-wal")}
    database.close()
    for name, data in files.items():
        Path(f"{project.database}{name}").write_bytes(data)
