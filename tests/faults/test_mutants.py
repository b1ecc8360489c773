"""The proofs are proved: with any one safeguard taken out, one of them fails.

A mutant lacks one flush, or the journal, or the look at inodes, and so on, in the process of the stage alone. Each has
to be found by a power cut, a kill or a plain run. The mutants without a lock are in test_races.py, the one without the
audit log's own lock in test_audit_tampering.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.disks import DiskScene, why_not
from tests.support.faults.scene import BarredScene, Scene, change_config, damage_header
from tests.support.faults.tracing import MARK, STRACE, Driver, Point
from tests.support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)"),
]
on_disks = [
    pytest.mark.root,
    pytest.mark.skipif(why_not("ext4") is not None, reason=f"NOT TESTED: power cuts: {why_not('ext4')}"),
]

RELEASES, FIRST, DAMAGED = "two releases", "one release", "database damaged"

# Every flush of a stage, innermost function first, and the scene on which a power cut shows that it is missing.
PROVED: dict[tuple[str, str], str] = {
    ("rollback", "append < begin"): RELEASES,
    ("rollback", "fsync_file < fsync_tree < new_snapshot < unpublished_snapshot"): RELEASES,
    ("rollback", "write_atomic < new_snapshot < unpublished_snapshot"): DAMAGED,
    ("rollback", "fsync_file < fsync_tree < stage < staged"): DAMAGED,
    ("rollback", "fsync_file < fsync_tree < stage < stage"): DAMAGED,
    ("rollback", "write_atomic < write_journal < commit"): DAMAGED,
    ("rollback", "fsync_directory < write_atomic < write_journal < commit"): DAMAGED,
    ("rollback", "write_atomic < write_journal < _note"): DAMAGED,
    ("rollback", "fsync_directory < rename_into_place < exchange"): DAMAGED,
    ("rollback", "write_atomic < write_state < mark_restored"): DAMAGED,
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
    ("prepare", "fsync_directory < delete < retain"): RELEASES,
}

_ORDER = "a later flush of the same filesystem brings every earlier name along on ext4 and XFS; POSIX does not say so"
_FIRST = "ext4 and XFS keep a new name with the first flush of what it names"
_DISCARDED = "what comes back is discarded by the next command"
_NOTE = "what it writes is written anew before anybody relies on it"

# Flushes that no power cut here can miss, and why.
UNPROVED: dict[tuple[str, str], str] = {
    ("rollback", "fsync_directory < append < begin"): _FIRST,
    ("rollback", "write_atomic < write_state < begin"): _NOTE,
    ("rollback", "fsync_directory < write_atomic < write_state < begin"): _NOTE,
    ("rollback", "fsync_file"): "the tree that it belongs to is flushed once more; here it runs beside the digest",
    ("rollback", "fsync_directory < fsync_tree < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < write_atomic < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < new_snapshot < unpublished_snapshot"): _ORDER,
    ("rollback", "fsync_directory < publish < publish_safety_snapshot"): _ORDER,
    ("rollback", "fsync_directory < fsync_tree < stage < staged"): _ORDER,
    ("rollback", "fsync_directory < stage < staged"): "a staged copy whose name is lost is written anew",
    ("rollback", "fsync_directory < stage < stage"): "a staged copy whose name is lost is written anew",
    ("rollback", "fsync_directory < _set_side_files_aside < exchange"): _ORDER,
    ("rollback", "fsync_directory < write_atomic < write_journal < _note"): "a step whose note is lost is repeated",
    ("rollback", "fsync_directory < write_atomic < write_state < mark_restored"): _ORDER,
    ("rollback", "fsync_directory < remove_durably < clear_journal < swap_in"): (
        "a journal that comes back has every step marked done"
    ),
    ("rollback", "fsync_directory < discard_staged < finish"): _DISCARDED,
    ("recover", "fsync_directory < _set_side_files_aside < exchange"): _ORDER,
    ("recover", "fsync_directory < write_atomic < write_journal < _note"): "a step whose note is lost is repeated",
    ("recover", "fsync_directory < remove_durably < clear_journal < _complete"): (
        "a journal that comes back has every step marked done"
    ),
    ("recover", "fsync_directory < write_atomic < write_state < _complete"): _ORDER,
    (
        "recover",
        "fsync_directory < discard_staged < finish",
    ): _DISCARDED,
    ("prepare", "fsync_file"): "the tree that it belongs to is flushed once more; here it runs beside the digest",
    ("prepare", "fsync_directory < fsync_tree < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < new_snapshot < unpublished_snapshot"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < write_statement < _write"): _ORDER,
    ("prepare", "fsync_directory < write_atomic < write_manifest < _write"): _ORDER,
    ("prepare", "fsync_directory < append < _write"): _FIRST,
    ("prepare", "fsync_directory < make_private_directory < write_atomic < write_statement < _write"): _FIRST,
}

SCENES: dict[str, Callable[[Any, Driver], DiskScene]] = {
    RELEASES: lambda project, driver: DiskScene(project, driver, damage=change_config, releases=("v1", "v2")),
    FIRST: lambda project, driver: DiskScene(project, driver, damage=change_config, releases=("v1",)),
    DAMAGED: lambda project, driver: DiskScene(project, driver, damage=damage_header),
}


@pytest.fixture
def project(memory: Path, project_at: Callable[..., Any], steady: Callable[[Any], Any]) -> Any:
    """The project of a test, its database in rollback-journal mode."""
    folder = memory / "project"
    folder.mkdir()
    return steady(project_at(folder, "delete"))


@pytest.fixture
def disks(request: pytest.FixtureRequest, project: Project, driver: Driver) -> Iterator[DiskScene]:
    """The scene that the test's parameter names, on ext4."""
    made = SCENES[request.param](project, driver)
    try:
        made.put_on("ext4")
        driver.warm_up(made.job("rollback"))
        yield made
    finally:
        made.close()


def job_of(scene: Scene, stage: str, mutant: str | None = None) -> dict[str, Any]:
    """Return the job of a stage without one safeguard."""
    options = {"release_id": "cut"} if stage == "prepare" else {}
    return scene.job(stage, mutant=mutant, **options)


def begin(scene: DiskScene, stage: str) -> None:
    """Lay the scene out; a recovery needs a rollback that was cut at its first exchange."""
    scene.fresh()
    if stage == "recover":
        calls = scene.driver.record(scene.job("rollback"), scene.places)
        scene.fresh()
        scene.driver.kill(scene.job("rollback"), next(call for call in calls if call.name == "renameat2"))
        assert scene.project.pipeline.journal_path.exists()


def moments(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return when to cut to see that a flush is missing: soon after its place, then ever more rarely."""
    chosen: dict[tuple[Point, bool], None] = {}
    for place, point in enumerate(points):
        if point.what != MARK:
            continue
        later = [(a, b) for a, b in zip(points[place:], points[place + 1 :], strict=False) if b.what != MARK]
        near = [b for a, b in later if a.what == MARK or a.is_flush or b.is_flush or a.name.startswith("rename")]
        chosen |= dict.fromkeys((b, is_after) for b in near[:8] for is_after in (False, True))
        chosen |= dict.fromkeys((b, False) for b in near[8::4])
    return list(chosen)


def cuts_until_found(scene: DiskScene, stage: str, mutant: str) -> int:
    """Return after how many power cuts a promise was seen broken; 0 when none was."""
    begin(scene, stage)
    job = job_of(scene, stage, mutant)
    check = {"prepare": scene.check_prepare, "recover": scene.check_recovered, "rollback": scene.check_rollback}[stage]
    chosen = moments(scene.driver.record(job, scene.places))
    for number, (point, after_names) in enumerate(chosen, start=1):
        begin(scene, stage)
        scene.driver.kill(job, point)
        scene.cut_power(after_names=after_names)
        try:
            check(point)
        except Exception:  # whatever it stumbles over, a promise is broken
            return number
    begin(scene, stage)
    scene.driver.run(job)
    told = scene.reported()
    scene.cut_power()
    return 0 if scene.reported() == told else len(chosen) + 1


@pytest.mark.parametrize(
    ("stage", "flush", "disks"),
    [pytest.param(*flush, scene, marks=on_disks, id=" ".join(flush)) for flush, scene in PROVED.items()],
    indirect=["disks"],
)
def test_a_missing_flush_is_found(disks: DiskScene, stage: str, flush: str, tried: Callable[[int], None]) -> None:
    """A power cut soon after it breaks a promise, or loses what the command had reported."""
    number = cuts_until_found(disks, stage, f"flush: {flush}")
    assert number
    tried(number)


@pytest.mark.parametrize("disks", [pytest.param(name, marks=on_disks, id=name) for name in SCENES], indirect=True)
def test_every_flush_is_proved_or_said_to_be_unproved(disks: DiskScene) -> None:
    """A new flush needs its proof, or the reason why there is none."""
    known = PROVED.keys() | UNPROVED.keys()
    for stage in {stage for stage, _ in known}:
        begin(disks, stage)
        flushes = disks.driver.run(job_of(disks, stage)).flushes
        assert {(stage, flush) for flush in flushes} - known == set()


def kills_until_found(scene: Scene, mutant: str, check: Callable[[object], object]) -> int:
    """Return after how many kills a promise was seen broken; 0 when none was."""
    scene.fresh()
    job = scene.job("rollback", mutant=mutant)
    points = [point for point in scene.driver.record(job, scene.places) if not point.is_flush]
    for number, point in enumerate(reversed(points), start=1):
        scene.fresh()
        scene.driver.kill(job, point)
        try:
            check(point)
        except Exception:
            return number
    return 0


def test_without_the_journal_a_kill_leaves_a_mix(
    project: Project, driver: Driver, tried: Callable[[int], None]
) -> None:
    """Nobody knows then what was to be done."""
    scene = Scene(project, driver)
    number = kills_until_found(scene, "the journal", scene.check_recovered)
    assert number
    tried(number)


def test_without_the_note_that_a_database_is_begun_it_is_not_undone(
    project: Project, driver: Driver, tried: Callable[[int], None]
) -> None:
    """A kill between the commit of SQLite and the note that it is done, and the snapshot lost before the recovery."""
    scene = Scene(project, driver)
    number = kills_until_found(scene, "the note that a database is begun", scene.check_undone)
    assert number
    tried(number)


def test_without_the_look_at_inodes_a_recovery_undoes_what_was_done(project: Project, driver: Driver) -> None:
    """Killed after the first exchange and before its note, it exchanges again."""
    scene = Scene(project, driver)
    scene.fresh()
    calls = scene.driver.record(scene.job("rollback"), scene.places)
    place = next(index for index, call in enumerate(calls) if call.name == "renameat2")
    for mutant, expected in ((None, True), ("the look at inodes", False)):
        scene.fresh()
        scene.driver.kill(scene.job("rollback"), calls[place + 1])
        scene.driver.run(scene.job("recover", mutant=mutant))
        assert (scene.state() == "new") is expected


def test_without_setting_it_aside_a_stale_wal_mixes_in(project: Project, driver: Driver) -> None:
    """The WAL of another database beside a damaged one."""
    scene = Scene(project, driver, damage=damage_header)
    for mutant, expected in ((None, True), ("setting a stale WAL aside", False)):
        scene.fresh()
        scene.driver.run(scene.job("rollback", mutant=mutant))
        try:
            is_new = scene.state() == "new"
        except sqlite3.DatabaseError:
            is_new = False
        assert is_new is expected


def test_without_undoing_a_rollback_that_fails_leaves_a_mix(project: Project, driver: Driver) -> None:
    """The last asset cannot be removed."""
    scene = BarredScene(project, driver)
    try:
        for mutant, expected in ((None, True), ("undoing what failed", False)):
            scene.fresh()
            assert scene.driver.run(scene.job("rollback", mutant=mutant)).told == "failed"
            assert (scene.state() == "old") is expected
    finally:
        scene.close()


def test_without_its_wal_a_captured_copy_lacks_rows(project: Project, driver: Driver) -> None:
    """Rows that a crashed service has left in its WAL are in the safety snapshot, and come back with it."""
    scene = Scene(project, driver, damage=leave_rows_in_wal)
    for mutant, expected in ((None, True), ("the WAL in a captured copy", False)):
        scene.fresh()
        assert scene.driver.run(scene.job("rollback", mutant=mutant)).told == "restored"
        state = project.pipeline.read_state()
        assert rollback(project.settings, RollbackRequest(snapshot_id=state.safety_snapshot_id)).status == "restored"
        assert (scene.state() == "old") is expected


@pytest.mark.parametrize("disks", [pytest.param(RELEASES, marks=on_disks, id=RELEASES)], indirect=True)
def test_without_the_flushes_of_sqlite_a_power_cut_leaves_a_mix(disks: DiskScene, tried: Callable[[int], None]) -> None:
    """The database is what it was, and the files are the snapshot's."""
    disks.fresh()
    job = disks.job("rollback", mutant="the flushes of SQLite")
    points = disks.driver.record(job, disks.places)
    found = 0
    for point in points[::-7]:
        disks.fresh()
        disks.driver.kill(job, point)
        disks.cut_power()
        recover(disks.project.settings)
        found += disks.state() not in ("old", "new")
    assert found
    tried(len(points[::-7]))


def leave_rows_in_wal(project: Project) -> None:
    """Commit a transfer that only the WAL holds, as a service that was killed leaves it."""
    database = sqlite3.connect(project.database)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
    database.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 2")
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 1)")
    database.commit()
    kept = {name: Path(f"{project.database}{name}").read_bytes() for name in ("", "-wal")}
    database.close()
    for name, data in kept.items():
        Path(f"{project.database}{name}").write_bytes(data)
