"""SIGKILL at the entry of every system call that changes a disk: all old or all new, never a mix, nothing left over.

A recording run finds the calls; then each gets a run of its own that ends there. The stages run in children of one
process that has everything imported, on a filesystem in memory.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.scene import BarredScene, OverlayScene, Scene, change_config, damage_header
from tests.support.faults.service import Service
from tests.support.faults.tracing import STRACE, Driver, Point

pytestmark = pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)")

slow = [pytest.mark.slow, pytest.mark.timeout(1500)]
as_root = [
    *slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: needs root on Linux to mount"),
]

TWO = ("v1", "v2")
SCENES: dict[str, Callable[..., Scene]] = {
    "wal": lambda project, driver, service: Scene(project("wal"), driver),
    "wal, service at work": lambda project, driver, service: Scene(project("wal"), driver, service=service()),
    "delete": lambda project, driver, service: Scene(project("delete"), driver),
    "delete, service at work": lambda project, driver, service: Scene(project("delete"), driver, service=service()),
    "database damaged": lambda project, driver, service: Scene(project("delete"), driver, damage=damage_header),
    "two releases": lambda project, driver, service: Scene(project("wal"), driver, damage=change_config, releases=TWO),
    "two releases, service at work": lambda project, driver, service: Scene(
        project("wal"), driver, damage=change_config, releases=TWO, service=service()
    ),
    "lower layer of an overlay": lambda project, driver, service: OverlayScene(project("wal"), driver),
    "rollback undone": lambda project, driver, service: BarredScene(project("wal"), driver),
}
EXHAUSTIVE = ("wal", "wal, service at work", "delete")
MOUNTED = ("lower layer of an overlay", "rollback undone")


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    memory: Path,
    driver: Driver,
    project_at: Callable[..., Any],
    steady: Callable[[Any], Any],
) -> Iterator[Scene]:
    """The scene that the test's parameter names, ready for its first run."""

    def project(journal_mode: str) -> Any:
        folder = memory / "project"
        folder.mkdir()
        return steady(project_at(folder, journal_mode))

    def service() -> Service:
        started: Service = request.getfixturevalue("service")
        return started

    made = SCENES[request.param](project, driver, service)
    made.lay_out()
    driver.warm_up(made.job("rollback"))
    yield made
    if made.service is not None:
        made.service.let_go()
    made.close()


def scenes(*names: str) -> pytest.MarkDecorator:
    """Run a test on these scenes."""
    marked = [pytest.param(name, marks=as_root if name in MOUNTED else slow, id=name) for name in names]
    return pytest.mark.parametrize("scene", marked, indirect=True)


def of_scene(points: list[Point], request: pytest.FixtureRequest) -> list[Point]:
    """Return all points of a scene that stands for itself, every third of one that shares them with such a scene."""
    return points if request.node.callspec.id in EXHAUSTIVE else points[::3]


def kill(scene: Scene, job: dict[str, Any], point: Point) -> bool:
    """Lay the scene out, run the job and kill it there; says whether it got that far."""
    scene.fresh()
    run = scene.driver.kill(job, point)
    assert run.was_killed or run.code == 0, (point, run.traceback)
    return run.was_killed


@scenes(*EXHAUSTIVE, "delete, service at work", "database damaged", "two releases", *MOUNTED)
def test_a_rollback_killed_at_any_call_is_finished_or_undone(
    scene: Scene, request: pytest.FixtureRequest, tried: Callable[[int], None]
) -> None:
    """Whether the next command is a recover, another rollback, or a recover whose snapshot is lost meanwhile.

    A flush changes nothing that a kill could show, so it is no point here. The scenes that share most of their calls
    with another are killed at every third.
    """
    scene.fresh()
    job = scene.job("rollback")
    points = [point for point in scene.driver.record(job, scene.places) if not point.is_flush]
    assert len(points) > 120
    points = of_scene(points, request)
    killed, found = 0, set()
    for index, point in enumerate(points):
        killed += kill(scene, job, point)
        found.add(scene.check_in_turn(index, point))
    tried(len(points))
    # A service at work changes how often SQLite writes; without one every call is there again.
    assert killed == len(points) if scene.service is None else killed > 0.9 * len(points)
    assert found == ({"old"} if scene.outcomes == ("failed",) else {"old", "new"})


@scenes("wal, service at work", "database damaged", "rollback undone")
def test_a_recovery_killed_at_any_call_is_finished_by_the_next(
    scene: Scene, request: pytest.FixtureRequest, tried: Callable[[int], None]
) -> None:
    """A rollback is killed between journal and clean-up, and its recovery at one call after the other.

    Neighbouring calls leave nearly the same to recover. So the recovery with most to do is killed at each of its calls,
    in scenes that share them at every third, and of the others, after every third call, a seeded sample is.
    """
    scene.fresh()
    job, again = scene.job("rollback"), scene.job("recover")
    begun = [point for point in scene.driver.record(job, scene.places) if not point.is_flush]
    journalled: list[tuple[Point, list[Point]]] = []
    for point in begun[::3]:
        if kill(scene, job, point) and scene.project.pipeline.journal_path.exists():
            recovery = scene.driver.record(again, scene.places)
            journalled.append((point, [call for call in recovery if not call.is_flush]))
    assert len(journalled) > 8
    longest = max(journalled, key=lambda each: len(each[1]))
    chosen = [(longest[0], call) for call in of_scene(longest[1], request)]
    others = [(point, call) for point, recovery in journalled for call in recovery]
    chosen += random.Random(7).sample(others, min(20, len(others)))
    for point, call in chosen:
        kill(scene, job, point)
        scene.driver.kill(again, call)
        scene.check_recovered((point, "and then", call))
    tried(len(chosen))


@scenes("two releases", "two releases, service at work")
def test_a_prepare_killed_at_any_call_is_published_or_gone(scene: Scene, tried: Callable[[int], None]) -> None:
    """Manifest, snapshot and retention: the next command finds a whole release or none, and the state untouched.

    With a service at work it makes the same calls, and is killed at every third.
    """
    scene.fresh()
    job = scene.job("prepare", release_id="killed")
    points = [point for point in scene.driver.record(job, scene.places) if not point.is_flush]
    assert len(points) > 60
    points = points if scene.service is None else points[::3]
    for point in points:
        kill(scene, job, point)
        scene.check_prepare(point)
    tried(len(points))


@scenes("delete")
def test_an_audit_append_killed_at_any_call_leaves_one_chain(scene: Scene, tried: Callable[[int], None]) -> None:
    """The event is there or not, the chain holds, and the next append follows."""
    log = scene.project.pipeline.audit
    points = []
    for before in (0, 3):  # the first event of all, which makes the file, and a later one
        scene.lay_out()
        points = scene.driver.record(scene.job("append"), scene.places)
        for point in points:
            scene.lay_out()
            for _ in range(before):
                log.append("before", status="ok")
            scene.driver.kill(scene.job("append"), point)
            events = len(log.verify().events)
            assert events in (before, before + 1), point
            assert log.append("after", status="ok").seq == events + 1, point
            assert log.verify().intact, (point, log.verify().problems)
        tried(len(points))
    assert points


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scene", ["wal"], indirect=True)
def test_a_rollback_killed_at_a_few_calls_is_finished_or_undone(scene: Scene, tried: Callable[[int], None]) -> None:
    """A few of the same, so that the fast selection has it too: the journal, each exchange, the last write."""
    scene.fresh()
    job = scene.job("rollback")
    points = scene.driver.record(job, scene.places)
    chosen = [point for point in points if point.name.startswith("rename")][4:]
    for point in chosen:
        assert kill(scene, job, point)
        scene.check_rollback(point)
    tried(len(chosen))
    assert len(chosen) >= 8
