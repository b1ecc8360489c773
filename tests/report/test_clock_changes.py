"""What people look at stays right when the wall clock was set between two commands, or within one."""

from __future__ import annotations

import io

import pytest
from attrs import evolve

from release_tasks.archive.status import release_status
from release_tasks.core.events import Event, StepBegan
from release_tasks.report.html.page import ReleasePage, find_release, gather
from release_tasks.report.html.render import render
from release_tasks.report.screen import Screen
from release_tasks.report.status import overview, show_overview
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.prepare import prepare_release
from tests.support.clocks import HOUR, YEAR, WallClock
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project
from tests.support.rollback import roll_back


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


def overview_lines(project: Project) -> list[str]:
    out = io.StringIO()
    screen = Screen(out)
    screen.terminal = evolve(screen.terminal, width=100)
    found = release_status(project.settings)
    show_overview(screen, found, overview(project.settings, 10, found))
    return out.getvalue().splitlines()


def page_of(project: Project) -> ReleasePage:
    return gather(project.settings, find_release(project.pipeline, "v1"))


@pytest.mark.parametrize("seconds", [HOUR, YEAR])
def test_age_of_a_time_in_the_future_is_unknown(project: Project, wall: WallClock, seconds: float) -> None:
    """The release was prepared with the clock ahead; status says so, and its age is null."""
    wall.set(seconds)
    prepare(project.settings, passed_preflight(), "v1")
    wall.set(0)
    assert overview_lines(project)[0].startswith("READY  v1 (1.0), prepared in the future (was the clock changed?);")
    assert overview(project.settings, 10)["current"]["ageSeconds"] is None
    assert "in the future (was the clock changed?)" in render(page_of(project)).decode()
    wall.set(seconds + 2)
    assert 0 <= overview(project.settings, 10)["current"]["ageSeconds"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-YEAR, -HOUR, HOUR, YEAR])
def test_phases_have_measured_durations(project: Project, wall: WallClock, seconds: float) -> None:
    """The clock is set during the gates and again before the capture; bars and total are as without that."""
    project.overrides["gates"] = {"slow": {"command": "sleep 0.4"}, "fast": {"command": "true"}}

    def set_clock(event: Event) -> None:
        wall.set(0 if isinstance(event, StepBegan) and event.name == "capture" else seconds)

    run = run_preflight(project.settings, release_id="v1", emit=set_clock)
    manifest = prepare_release(project.settings, preflight=run, emit=set_clock)
    assert manifest.status == "ready"
    assert all(phase.duration_ms is not None and 0 <= phase.duration_ms < 60_000 for phase in manifest.phases)
    timeline = page_of(project).timeline
    assert [bar.name for bar in timeline.bars] == ["preflight", "slow", "fast", "capture", "publish"]
    assert 0.4 <= timeline.seconds < 60
    assert all(bar.begin >= 0 and bar.begin + bar.length <= 1.001 for bar in timeline.bars)
    assert timeline.bars[1].seconds >= 0.4


@pytest.mark.parametrize("seconds", [-YEAR, -HOUR, HOUR, YEAR])
def test_rollbacks_are_listed_in_the_order_of_the_log(project: Project, wall: WallClock, seconds: float) -> None:
    """The clock is set during the first rollback: both have their real duration, and the first one comes first."""
    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.snapshot is not None
    project.damage()

    def set_clock(event: Event) -> None:
        if isinstance(event, StepBegan) and event.name == "swap":
            wall.set(seconds)

    first = roll_back(project, manifest.snapshot.snapshot_id, emit=set_clock)
    second = roll_back(project, first.safety_snapshot_id)
    third = roll_back(project, manifest.snapshot.snapshot_id)
    assert {outcome.status for outcome in (first, second, third)} == {"restored"}
    page = page_of(project)
    steps = page.timeline.steps
    assert len(steps) == 2
    assert steps[0].at < steps[1].at if seconds > 0 else steps[0].at > steps[1].at
    assert all(step.seconds is not None and step.seconds < 60 for step in steps)
    assert page.history.longest_seconds is not None and page.history.longest_seconds < 60
