"""A power cut at every system call leaves all old or all new after the reboot.

State and pipeline have separate filesystems, ext4 or XFS on an image, which are stopped immediately and mounted again.
A kill finds a wrong order of writes; only a power cut finds a missing flush.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.disks import FILESYSTEMS, DeltaDiskScenario, Disk, DiskScenario, why_not
from tests.support.faults.marks import NEEDS_STRACE
from tests.support.faults.scenario import MakeScenarioProject, change_config, damage_header
from tests.support.faults.tracing import Driver, Point

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(1500),
    NEEDS_STRACE,
]


SCENARIOS: dict[str, Callable[[MakeScenarioProject, Driver], DiskScenario]] = {
    "wal": lambda project, driver: DiskScenario(project("wal"), driver),
    "delete": lambda project, driver: DiskScenario(project("delete"), driver),
    "database damaged": lambda project, driver: DiskScenario(project("delete"), driver, damage=damage_header),
    "two releases": lambda project, driver: DiskScenario(
        project("wal"), driver, damage=change_config, releases=("v1", "v2")
    ),
    "deltas": lambda project, driver: DeltaDiskScenario(project("wal"), driver),
}
Moments = Callable[[list[Point]], list[tuple[Point, bool]]]
SEED = 20261
SHARE = 0.3
NAME_CHANGES = ("rename", "link", "symlink", "unlink", "mkdir", "rmdir", "open")


@pytest.fixture(params=FILESYSTEMS)
def filesystem(request: pytest.FixtureRequest) -> str:
    """A filesystem that can be made and mounted here."""
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(f"NOT TESTED: power cuts on {request.param}: {reason}")
    chosen: str = request.param
    return chosen


@pytest.fixture
def scenario(
    request: pytest.FixtureRequest,
    filesystem: str,
    driver: Driver,
    make_scenario_project: MakeScenarioProject,
) -> Iterator[DiskScenario]:
    """The scenario of the test's parameter, on disks of its own."""

    made = SCENARIOS[request.param](make_scenario_project, driver)
    try:
        made.move_to_disks(filesystem)
        driver.warm_up(made.job("rollback"))
        yield made
    finally:
        made.close()


def scenarios(*names: str) -> pytest.MarkDecorator:
    """Run a test on these scenarios, on each filesystem."""
    return pytest.mark.parametrize("scenario", names, indirect=True)


def cuts(*cases: tuple[str, str, Moments]) -> pytest.MarkDecorator:
    """Run a test on these filesystems and scenarios, cut at these moments.

    Between two flushes the kernel writes nothing here, so one cut after each flush covers all calls in between.
    """
    ids = [f"{filesystem}, {scenario}, {moments.__name__}" for filesystem, scenario, moments in cases]
    names = ("filesystem", "scenario", "moments")
    return pytest.mark.parametrize(names, cases, ids=ids, indirect=["filesystem", "scenario"])


def every_call(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return the moments of ``around_flushes`` and a seeded share of the other calls; with EVERY_CALL all of them."""
    chosen = around_flushes(points)
    others = [(point, False) for point in points if (point, False) not in chosen]
    share = 1.0 if "EVERY_CALL" in os.environ else SHARE
    return chosen + random.Random(SEED).sample(others, int(len(others) * share))


def around_flushes(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return the call after each flush, and that after each changed name, cut when the kernel wrote its journal."""
    flushed = [point for before, point in itertools.pairwise(points) if before.is_flush]
    return [(point, False) for point in flushed] + [(point, True) for point in _after(points, NAME_CHANGES)]


def _after(points: list[Point], names: tuple[str, ...]) -> list[Point]:
    return [point for before, point in itertools.pairwise(points) if before.name.startswith(names)]


def cut(scenario: DiskScenario, job: dict[str, Any], point: Point, after_names: bool = False) -> None:
    """Reset the scenario, run the job up to the call, and cut the power."""
    scenario.reset()
    run = scenario.driver.kill(job, point)
    assert run.was_killed, (point, run.traceback)
    scenario.cut_power(after_names=after_names)


@cuts(
    ("ext4", "wal", every_call),
    ("xfs", "wal", around_flushes),
    ("ext4", "delete", around_flushes),
    ("xfs", "database damaged", around_flushes),
)
def test_power_cut_in_rollback_is_finished_or_undone(
    scenario: DiskScenario, moments: Moments, report_points: Callable[[int], None]
) -> None:
    """The next command is a recover, another rollback, or a recover after the snapshot is lost."""
    scenario.reset()
    job = scenario.job("rollback")
    points = scenario.driver.record(job, scenario.folders)
    chosen = moments(points)
    found = set()
    for index, (point, after_names) in enumerate(chosen):
        cut(scenario, job, point, after_names)
        found.add(scenario.check_in_turn(index, (point, after_names)))
    report_points(len(chosen))
    assert found == {"old", "new"}
    assert len(points) > 150


@cuts(("ext4", "wal", around_flushes))
def test_power_cut_in_rollback_with_many_files_is_finished_or_undone(
    scenario: DiskScenario, moments: Moments, report_points: Callable[[int], None]
) -> None:
    """With many files one syncfs replaces the single flushes."""
    scenario.reset()
    job = {**scenario.job("rollback"), "many": 3}
    points = scenario.driver.record(job, scenario.folders)
    assert [point for point in points if point.name == "syncfs"]
    chosen = moments(points)
    for point, after_names in chosen:
        cut(scenario, job, point, after_names)
        scenario.check_rollback((point, after_names))
    report_points(len(chosen))


@cuts(("ext4", "wal", around_flushes), ("xfs", "database damaged", around_flushes))
def test_power_cut_in_recovery_is_finished_by_the_next(
    scenario: DiskScenario, moments: Moments, report_points: Callable[[int], None]
) -> None:
    """The power is cut at the first exchange of a rollback, and then during its recovery."""
    scenario.reset()
    job = scenario.job("rollback")
    first = next(point for point in scenario.driver.record(job, scenario.folders) if point.name == "renameat2")
    cut(scenario, job, first)
    assert scenario.project.pipeline.journal_path.exists()
    chosen = moments(scenario.driver.record(scenario.job("recover"), scenario.folders))
    for again, after_names in chosen:
        cut(scenario, job, first)
        run = scenario.driver.kill(scenario.job("recover"), again)
        assert run.was_killed, (again, run.traceback)
        scenario.cut_power(after_names=after_names)
        scenario.check_recovered((first, "and then", again, after_names))
    report_points(len(chosen))
    assert len(chosen) > 20


@cuts(
    ("ext4", "two releases", every_call),
    ("xfs", "two releases", around_flushes),
    ("ext4", "deltas", around_flushes),
    ("xfs", "deltas", around_flushes),
)
def test_power_cut_in_prepare_publishes_a_whole_release_or_none(
    scenario: DiskScenario, moments: Moments, report_points: Callable[[int], None]
) -> None:
    """Manifest, snapshot and retention are complete or absent; the state is unchanged."""
    scenario.reset()
    job = scenario.job("prepare", release_id="cut")
    chosen = moments(scenario.driver.record(job, scenario.folders))
    for point, after_names in chosen:
        cut(scenario, job, point, after_names)
        scenario.check_prepare((point, after_names))
    report_points(len(chosen))
    assert len(chosen) > 60


@scenarios("delete")
def test_power_cut_in_audit_append_leaves_one_chain(
    scenario: DiskScenario, report_points: Callable[[int], None]
) -> None:
    """The event is present or absent, the chain is intact, and the next append continues it."""
    scenario.reset()
    log = scenario.project.pipeline.audit
    points = scenario.driver.record(scenario.job("append"), scenario.folders)
    for point in points:
        cut(scenario, scenario.job("append"), point)
        events = len(log.verify().events)
        assert events in (0, 1), point
        assert log.append("after", status="ok").seq == events + 1, point
        assert log.verify().intact, (point, log.verify().problems)
    report_points(len(points))


@scenarios("two releases")
def test_power_cut_after_a_command_loses_nothing_reported(scenario: DiskScenario) -> None:
    """Release, state and audit events are on the disk when the command ends."""
    for job, expected in (
        (scenario.job("prepare", release_id="done"), "ready"),
        (scenario.job("rollback"), "restored"),
    ):
        scenario.reset()
        assert scenario.driver.run(job).result == expected
        before = scenario.reported()
        scenario.cut_power()
        assert scenario.reported() == before
        assert scenario.state() == ("old" if expected == "ready" else "new")
        recover(scenario.project.settings)  # deleted files may have come back
        scenario.assert_pipeline_intact(expected)


def test_disk_loses_unflushed_bytes_in_a_power_cut(filesystem: str, memory: Path) -> None:
    """Of two files only the flushed one has its bytes after the cut."""
    folder = memory / "disk"
    folder.mkdir()
    disk = Disk(filesystem, memory / "image", folder)
    disk.mount()
    try:
        for name in ("flushed", "unflushed"):
            with (folder / name).open("wb") as file:
                file.write(b"x" * 10_000)
                if name == "flushed":
                    file.flush()
                    os.fsync(file.fileno())
        disk.cut()
        disk.unmount()
        disk.mount()
        assert (folder / "flushed").read_bytes() == b"x" * 10_000
        unflushed = folder / "unflushed"
        assert not unflushed.exists() or unflushed.read_bytes() != b"x" * 10_000
    finally:
        disk.unmount()
