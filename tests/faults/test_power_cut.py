"""The power is cut at every system call: what comes back after the reboot is all old or all new.

State and pipeline lie on a filesystem each, ext4 or XFS on an image, that is shut down as it stands and mounted again.
A kill finds a wrong order of writes; only this finds a missing flush.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.stages.rollback.recovery import recover
from tests.support.faults.disks import KINDS, DiskScene, why_not
from tests.support.faults.scene import change_config, damage_header
from tests.support.faults.tracing import STRACE, Driver, Point

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)"),
]

SCENES: dict[str, Callable[..., DiskScene]] = {
    "wal": lambda project, driver: DiskScene(project("wal"), driver),
    "delete": lambda project, driver: DiskScene(project("delete"), driver),
    "database damaged": lambda project, driver: DiskScene(project("delete"), driver, damage=damage_header),
    "two releases": lambda project, driver: DiskScene(
        project("wal"), driver, damage=change_config, releases=("v1", "v2")
    ),
}
Moments = Callable[[list[Point]], list[tuple[Point, bool]]]
NAMING = ("rename", "link", "symlink", "unlink", "mkdir", "rmdir", "open")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of filesystem that can be made and mounted here."""
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(f"NOT TESTED: power cuts on {request.param}: {reason}")
    chosen: str = request.param
    return chosen


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    kind: str,
    memory: Path,
    driver: Driver,
    project_at: Callable[..., Any],
    steady: Callable[[Any], Any],
) -> Iterator[DiskScene]:
    """The scene that the test's parameter names, on disks of its own."""

    def project(journal_mode: str) -> Any:
        folder = memory / "project"
        folder.mkdir()
        return steady(project_at(folder, journal_mode))

    made = SCENES[request.param](project, driver)
    try:
        made.put_on(kind)
        driver.warm_up(made.job("rollback"))
        yield made
    finally:
        made.close()


def scenes(*names: str) -> pytest.MarkDecorator:
    """Run a test on these scenes, on each kind of filesystem."""
    return pytest.mark.parametrize("scene", names, indirect=True)


def cuts(*cases: tuple[str, str, Moments]) -> pytest.MarkDecorator:
    """Run a test on these filesystems and scenes, cut at these moments.

    Between two flushes nothing reaches a disk by itself here, so that a cut after each stands for all calls between.
    """
    ids = [f"{kind}, {scene}, {moments.__name__}" for kind, scene, moments in cases]
    return pytest.mark.parametrize(("kind", "scene", "moments"), cases, ids=ids, indirect=["kind", "scene"])


def every_call(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return each call, and those around a changed name again, to be cut once the kernel has written its journal."""
    return [(point, False) for point in points] + [(point, True) for point in _after(points, NAMING)]


def around_flushes(points: list[Point]) -> list[tuple[Point, bool]]:
    """Return the call after each flush, and the one after each changed name, as ``every_call`` does."""
    flushed = [point for before, point in itertools.pairwise(points) if before.is_flush]
    return [(point, False) for point in flushed] + [(point, True) for point in _after(points, NAMING)]


def _after(points: list[Point], names: tuple[str, ...]) -> list[Point]:
    return [point for before, point in itertools.pairwise(points) if before.name.startswith(names)]


def cut(scene: DiskScene, job: dict[str, Any], point: Point, after_names: bool = False) -> None:
    """Lay the scene out, run the job up to that call, and cut the power there."""
    scene.fresh()
    run = scene.driver.kill(job, point)
    assert run.was_killed, (point, run.traceback)
    scene.cut_power(after_names=after_names)


@cuts(
    ("ext4", "wal", every_call),
    ("xfs", "wal", around_flushes),
    ("ext4", "delete", around_flushes),
    ("xfs", "database damaged", around_flushes),
)
def test_a_rollback_cut_at_any_call_is_finished_or_undone(
    scene: DiskScene, moments: Moments, tried: Callable[[int], None]
) -> None:
    """Whether the next command is a recover, another rollback, or a recover whose snapshot is lost meanwhile."""
    scene.fresh()
    job = scene.job("rollback")
    points = scene.driver.record(job, scene.places)
    chosen = moments(points)
    found = set()
    for index, (point, after_names) in enumerate(chosen):
        cut(scene, job, point, after_names)
        found.add(scene.check_in_turn(index, (point, after_names)))
    tried(len(chosen))
    assert found == {"old", "new"}
    assert len(points) > 150


@cuts(("ext4", "wal", around_flushes))
def test_a_rollback_that_flushes_by_filesystem_is_finished_or_undone(
    scene: DiskScene, moments: Moments, tried: Callable[[int], None]
) -> None:
    """With many files one syncfs takes the place of their single flushes."""
    scene.fresh()
    job = {**scene.job("rollback"), "many": 3}
    points = scene.driver.record(job, scene.places)
    assert [point for point in points if point.name == "syncfs"]
    chosen = moments(points)
    for point, after_names in chosen:
        cut(scene, job, point, after_names)
        scene.check_rollback((point, after_names))
    tried(len(chosen))


@cuts(("ext4", "wal", around_flushes), ("xfs", "database damaged", around_flushes))
def test_a_recovery_cut_at_any_call_is_finished_by_the_next(
    scene: DiskScene, moments: Moments, tried: Callable[[int], None]
) -> None:
    """A rollback is cut at its first exchange, and its recovery at moments of its own."""
    scene.fresh()
    job = scene.job("rollback")
    first = next(point for point in scene.driver.record(job, scene.places) if point.name == "renameat2")
    cut(scene, job, first)
    assert scene.project.pipeline.journal_path.exists()
    chosen = moments(scene.driver.record(scene.job("recover"), scene.places))
    for again, after_names in chosen:
        cut(scene, job, first)
        run = scene.driver.kill(scene.job("recover"), again)
        assert run.was_killed, (again, run.traceback)
        scene.cut_power(after_names=after_names)
        scene.check_recovered((first, "and then", again, after_names))
    tried(len(chosen))
    assert len(chosen) > 20


@cuts(("ext4", "two releases", every_call), ("xfs", "two releases", around_flushes))
def test_a_prepare_cut_at_any_call_is_published_or_gone(
    scene: DiskScene, moments: Moments, tried: Callable[[int], None]
) -> None:
    """Manifest, snapshot and retention: a whole release or none, and the state untouched."""
    scene.fresh()
    job = scene.job("prepare", release_id="cut")
    chosen = moments(scene.driver.record(job, scene.places))
    for point, after_names in chosen:
        cut(scene, job, point, after_names)
        scene.check_prepare((point, after_names))
    tried(len(chosen))
    assert len(chosen) > 60


@scenes("delete")
def test_an_audit_append_cut_at_any_call_leaves_one_chain(scene: DiskScene, tried: Callable[[int], None]) -> None:
    """The event is there or not, the chain holds, and the next append follows."""
    scene.fresh()
    log = scene.project.pipeline.audit
    points = scene.driver.record(scene.job("append"), scene.places)
    for point in points:
        cut(scene, scene.job("append"), point)
        events = len(log.verify().events)
        assert events in (0, 1), point
        assert log.append("after", status="ok").seq == events + 1, point
        assert log.verify().intact, (point, log.verify().problems)
    tried(len(points))


@scenes("two releases")
def test_what_a_command_has_reported_survives_a_power_cut(scene: DiskScene) -> None:
    """The power goes the moment after the command ended: release, state and audit events are all there."""
    for job, expected in ((scene.job("prepare", release_id="done"), "ready"), (scene.job("rollback"), "restored")):
        scene.fresh()
        assert scene.driver.run(job).told == expected
        told = scene.reported()
        scene.cut_power()
        assert scene.reported() == told
        assert scene.state() == ("old" if expected == "ready" else "new")
        recover(scene.project.settings)  # what was being deleted may have come back
        scene.hold_pipeline(expected)


def test_disks_lose_what_was_not_flushed(kind: str, memory: Path) -> None:
    """The cut itself works: of two files only the flushed one has its bytes afterwards."""
    from tests.support.faults.disks import Disk

    place = memory / "disk"
    place.mkdir()
    disk = Disk(kind, memory / "image", place)
    disk.mount()
    try:
        for name in ("flushed", "forgotten"):
            with (place / name).open("wb") as file:
                file.write(b"x" * 10_000)
                if name == "flushed":
                    file.flush()
                    os.fsync(file.fileno())
        disk.cut()
        disk.unmount()
        disk.mount()
        assert (place / "flushed").read_bytes() == b"x" * 10_000
        forgotten = place / "forgotten"
        assert not forgotten.exists() or forgotten.read_bytes() != b"x" * 10_000
    finally:
        disk.unmount()
