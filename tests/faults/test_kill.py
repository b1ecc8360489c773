"""SIGKILL at the entry of every system call that changes a disk leaves all old or all new, and no leftovers.

A first run records the calls. Then one run for each call is killed at that call. The stages run in children of one
process that has all imports done, on a filesystem in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.faults.marks import MOUNTS, NEEDS_STRACE
from tests.support.faults.scenario import (
    BlockedScenario,
    DeltaScenario,
    MakeScenarioProject,
    OverlayScenario,
    Scenario,
    change_config,
    damage_header,
)
from tests.support.faults.service import Service
from tests.support.faults.tracing import Driver, Point
from tests.support.project import Project

pytestmark = NEEDS_STRACE

slow = [pytest.mark.slow, pytest.mark.timeout(1500)]
as_root = [*slow, *MOUNTS]


def by_page(project: Project) -> Project:
    """Return the project with restores by page."""
    project.overrides["storage.restore_by_page"] = True
    return project


TWO = ("v1", "v2")
SCENARIOS: dict[str, Callable[[MakeScenarioProject, Driver, Callable[[], Service]], Scenario]] = {
    "wal": lambda project, driver, service: Scenario(project("wal"), driver),
    "wal, service writing": lambda project, driver, service: Scenario(project("wal"), driver, service=service()),
    "delete": lambda project, driver, service: Scenario(project("delete"), driver),
    "delete, service writing": lambda project, driver, service: Scenario(project("delete"), driver, service=service()),
    "by page, wal, service writing": lambda project, driver, service: Scenario(
        by_page(project("wal")), driver, service=service()
    ),
    "by page, delete, service writing": lambda project, driver, service: Scenario(
        by_page(project("delete")), driver, service=service()
    ),
    "database damaged": lambda project, driver, service: Scenario(project("delete"), driver, damage=damage_header),
    "two releases": lambda project, driver, service: Scenario(
        project("wal"), driver, damage=change_config, releases=TWO
    ),
    "two releases, service writing": lambda project, driver, service: Scenario(
        project("wal"), driver, damage=change_config, releases=TWO, service=service()
    ),
    "deltas": lambda project, driver, service: DeltaScenario(project("wal"), driver),
    "lower layer of an overlay": lambda project, driver, service: OverlayScenario(project("wal"), driver),
    "rollback undone": lambda project, driver, service: BlockedScenario(project("wal"), driver),
}
EXHAUSTIVE = ("wal", "wal, service writing", "delete")
BY_PAGE = ("by page, wal, service writing", "by page, delete, service writing")
MOUNTED = ("lower layer of an overlay", "rollback undone")


@pytest.fixture
def scenario(
    request: pytest.FixtureRequest,
    driver: Driver,
    make_scenario_project: MakeScenarioProject,
) -> Iterator[Scenario]:
    """The scenario of the test's parameter, ready for its first run."""

    def service() -> Service:
        started: Service = request.getfixturevalue("service")
        return started

    made = SCENARIOS[request.param](make_scenario_project, driver, service)
    made.restore_files()
    driver.warm_up(made.job("rollback"))
    yield made
    if made.service is not None:
        made.service.close_database()
    made.close()


def scenarios(*names: str) -> pytest.MarkDecorator:
    """Run a test on these scenarios."""
    marked = [pytest.param(name, marks=as_root if name in MOUNTED else slow, id=name) for name in names]
    return pytest.mark.parametrize("scenario", marked, indirect=True)


def points_to_kill(points: list[Point], request: pytest.FixtureRequest) -> list[Point]:
    """Return all points of an exhaustive scenario, and every third of the others: most of their points are the same."""
    return points if request.node.callspec.id in EXHAUSTIVE else points[::3]


def kill(scenario: Scenario, job: dict[str, Any], point: Point) -> bool:
    """Reset the scenario, run the job and kill it at the point; return whether it reached the point."""
    scenario.reset()
    run = scenario.driver.kill(job, point)
    assert run.was_killed or run.code == 0, (point, run.traceback)
    return run.was_killed


@scenarios(*EXHAUSTIVE, "delete, service writing", *BY_PAGE, "database damaged", "two releases", *MOUNTED)
def test_rollback_killed_at_any_call_is_finished_or_undone(
    scenario: Scenario, request: pytest.FixtureRequest, report_points: Callable[[int], None]
) -> None:
    """The next command is a recover, another rollback, or a recover after the snapshot is lost.

    A kill cannot show a missing flush, so flushes are not points here.
    """
    scenario.reset()
    job = scenario.job("rollback")
    points = [point for point in scenario.driver.record(job, scenario.folders) if not point.is_flush]
    assert len(points) > 120
    points = points_to_kill(points, request)
    killed, states = 0, set()
    for index, point in enumerate(points):
        killed += kill(scenario, job, point)
        states.add(scenario.check_in_turn(index, point))
    report_points(len(points))
    # A service changes the number of SQLite's writes. Without a service every run makes the same calls.
    assert killed == len(points) if scenario.service is None else killed > 0.9 * len(points)
    assert states == ({"old"} if scenario.outcomes == ("failed",) else {"old", "new"})


@scenarios("wal, service writing", "database damaged", "rollback undone")
def test_recovery_killed_at_any_call_is_finished_by_the_next(
    scenario: Scenario, request: pytest.FixtureRequest, report_points: Callable[[int], None]
) -> None:
    """A rollback is killed while its journal exists, and then its recovery is killed at its calls.

    Kills at neighbouring calls leave nearly the same work to recover. Therefore only every third kill of the rollback
    is tried; the longest recovery is killed at all its points, the others at a seeded sample.
    """
    scenario.reset()
    job, again = scenario.job("rollback"), scenario.job("recover")
    calls = [point for point in scenario.driver.record(job, scenario.folders) if not point.is_flush]
    journalled: list[tuple[Point, list[Point]]] = []
    for point in calls[::3]:
        if kill(scenario, job, point) and scenario.project.pipeline.journal_path.exists():
            recovery = scenario.driver.record(again, scenario.folders)
            journalled.append((point, [call for call in recovery if not call.is_flush]))
    assert len(journalled) > 8
    longest = max(journalled, key=lambda each: len(each[1]))
    chosen = [(longest[0], call) for call in points_to_kill(longest[1], request)]
    others = [(point, call) for point, recovery in journalled for call in recovery]
    chosen += random.Random(7).sample(others, min(20, len(others)))
    for point, call in chosen:
        kill(scenario, job, point)
        scenario.driver.kill(again, call)
        scenario.check_recovered((point, "and then", call))
    report_points(len(chosen))


@scenarios("two releases", "two releases, service writing", "deltas")
def test_prepare_killed_at_any_call_publishes_a_whole_release_or_none(
    scenario: Scenario, request: pytest.FixtureRequest, report_points: Callable[[int], None]
) -> None:
    """Manifest, snapshot and retention are complete after the next command, or absent; the state is unchanged.

    With a service the calls are the same, so every third is tried.
    """
    scenario.reset()
    job = scenario.job("prepare", release_id="killed")
    points = [point for point in scenario.driver.record(job, scenario.folders) if not point.is_flush]
    assert len(points) > 60
    points = points if scenario.service is None else points[::3]
    calls = {point.name for point in points}
    assert request.node.callspec.id != "deltas" or ({"link", "linkat"} & calls and {"unlink", "unlinkat"} & calls)
    for point in points:
        kill(scenario, job, point)
        scenario.check_prepare(point)
    report_points(len(points))


@scenarios("delete")
def test_audit_append_killed_at_any_call_leaves_one_chain(
    scenario: Scenario, report_points: Callable[[int], None]
) -> None:
    """The event is present or absent, the chain is intact, and the next append continues it."""
    log = scenario.project.pipeline.audit

    def restore(before: int) -> None:
        scenario.restore_files()
        log.path.unlink(missing_ok=True)
        for _ in range(before):
            log.append("before", status="ok")

    points = []
    for before in (0, 3):  # the first event, which creates the file, and a later event
        restore(before)
        points = scenario.driver.record(scenario.job("append"), scenario.folders)
        for point in points:
            restore(before)
            scenario.driver.kill(scenario.job("append"), point)
            events = len(log.verify().events)
            assert events in (before, before + 1), point
            assert log.append("after", status="ok").seq == events + 1, point
            assert log.verify().intact, (point, log.verify().problems)
        report_points(len(points))
    assert points


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scenario", ["wal"], indirect=True)
def test_rollback_killed_at_some_calls_is_finished_or_undone(
    scenario: Scenario, report_points: Callable[[int], None]
) -> None:
    """The journal, each exchange and the last write: some of the points above, for the fast selection."""
    scenario.reset()
    job = scenario.job("rollback")
    points = scenario.driver.record(job, scenario.folders)
    chosen = [point for point in points if point.name.startswith("rename")][4:]
    for point in chosen:
        assert kill(scenario, job, point)
        scenario.check_rollback(point)
    report_points(len(chosen))
    assert len(chosen) >= 8
