"""The rollback of a watch: its snapshot, its evidence, and the conditions that prevent it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from release_tasks.core.events import Emit, SampleTaken
from release_tasks.core.lock import run_lock
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.watch.watching import watch_release
from tests.support.project import Project
from tests.support.watched_service import MakeRelease, ReadEvents, SetClock, WatchedService, at_samples


@pytest.fixture
def failing(before: dict[str, Any], watched: Project, service: WatchedService, release: MakeRelease) -> Project:
    """Return a project whose release changed the state and is unhealthy; a watch may roll it back."""
    watched.overrides["watch"].update(rollback=True)
    release(watched)
    watched.damage()
    service.script = [503]
    return watched


@pytest.fixture
def before(watched: Project) -> dict[str, Any]:
    """Return the content of the state before the release."""
    return watched.content()


def after_sample(number: int, act: Callable[[], object]) -> Emit:
    """Call ``act`` between the sample of this number and the next."""
    seen: list[SampleTaken] = []

    def count(sample: SampleTaken) -> None:
        seen.append(sample)
        if len(seen) == number:
            act()

    return at_samples(count)


def latest_snapshot(project: Project) -> str:
    """Return the id of the snapshot of the latest ready release."""
    manifest = project.pipeline.latest_ready()
    assert manifest is not None and manifest.snapshot is not None
    return manifest.snapshot.snapshot_id


def names(events: ReadEvents, project: Project) -> list[str]:
    return [event["event"] for event in events(project)]


def test_it_rolls_back_once_to_the_state_before_the_release(
    before: dict[str, Any], failing: Project, service: WatchedService, clock: SetClock, events: ReadEvents
) -> None:
    """The state is restored, the log has the evidence before the rollback, and the exit code is 1."""
    service.script = [503, 503, 503, "ok"]
    report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, clock.time) == ("degraded", 1, 1020.0)
    assert report.rollback is not None and report.rollback.snapshot_id is not None
    assert (report.rollback.status, report.rollback.snapshot_id[:11]) == ("restored", "v1_snapshot")
    assert failing.content() == before
    assert names(events, failing) == [
        "prepare.ready",
        "prepare.published",
        "watch.degraded",
        "rollback.started",
        "snapshot.taken",
        "rollback.finished",
        "watch.finished",
    ]
    evidence, last = events(failing)[2], events(failing)[-1]
    assert (evidence["snapshotId"], evidence["rollback"]) == (report.rollback.snapshot_id, True)
    assert evidence["baseline"]["health"] == "ok"
    assert len(evidence["samples"]) == 3
    assert (last["status"], last["rollback"]) == ("degraded", "restored")
    assert "inv release.diagnose" in report.diagnostics[-1]  # the project has no health gate
    assert "but not the code" in report.diagnostics[0]


@pytest.mark.slow
def test_a_restored_but_unhealthy_service_is_failed(before: dict[str, Any], failing: Project, clock: SetClock) -> None:
    """The state is restored and the service stays unhealthy: `failed`, with the command to type."""
    report = watch_release(failing.settings, clock=clock)
    assert report.rollback is not None
    assert (report.rollback.status, report.exit_code) == ("failed", 1)
    assert failing.content() == before
    assert report.diagnostics == ["Check what is live: inv release.status"]


def test_only_degraded_rolls_back(
    failing: Project, service: WatchedService, clock: SetClock, events: ReadEvents
) -> None:
    """A healthy or inconclusive watch leaves the state alone."""
    for script in (["ok"], [*["ok"] * 18, 503]):
        service.script = script
        assert watch_release(failing.settings, clock=clock).rollback is None
    assert "rollback.started" not in names(events, failing)


@pytest.mark.slow
def test_a_release_is_rolled_back_at_most_once(failing: Project, clock: SetClock, events: ReadEvents) -> None:
    """A second watch of the same release changes nothing after the first has rolled back."""
    watch_release(failing.settings, clock=clock)
    failing.mcp.write_text("fixed manually")
    report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "was restored already, at " in report.diagnostics[0]
    assert "and watch rolls back at most once" in report.diagnostics[0]
    assert failing.mcp.read_text() == "fixed manually"
    assert names(events, failing).count("rollback.started") == 1


@pytest.mark.slow
def test_a_manual_rollback_during_the_watch_is_the_only_one(
    failing: Project, service: WatchedService, clock: SetClock, events: ReadEvents
) -> None:
    """An operator rolled back first: the restored state and later writes stay."""
    report = watch_release(
        failing.settings, clock=clock, emit=after_sample(2, lambda: rollback(failing.settings, RollbackRequest()))
    )
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "watch did not roll back: Another rollback ran meanwhile" in report.diagnostics[0]
    assert names(events, failing).count("rollback.started") == 1
    refused = next(event for event in events(failing) if event["event"] == "rollback.refused")
    assert (refused["status"], "meanwhile" in refused["detail"]) == ("refused", True)


def test_a_release_prepared_during_the_watch_is_not_rolled_back(
    failing: Project,
    service: WatchedService,
    clock: SetClock,
    release: MakeRelease,
    events: ReadEvents,
) -> None:
    """The new release may be the failing one, and it has another snapshot than the watched release."""
    failing.mcp.write_text("{}")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock, emit=after_sample(2, lambda: release(failing, "v2")))
    assert (report.release_id, report.status, report.rollback) == ("v1", "inconclusive", None)
    assert "Release v2 was prepared meanwhile" in report.reasons[0]
    assert (report.exit_code, failing.content()) == (1, live)
    assert "rollback.started" not in names(events, failing)


def test_a_damaged_snapshot_is_not_restored(failing: Project, clock: SetClock, events: ReadEvents) -> None:
    """The snapshot is verified before any change; the rollback is `failed` with the reason."""
    snapshot = latest_snapshot(failing)
    copy = failing.pipeline.catalogue.path(snapshot) / "assets" / "mcp" / "mcp.json"
    copy.write_text("{}")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock)
    assert report.rollback is not None
    assert (report.rollback.status, report.exit_code) == ("failed", 1)
    assert "is refused, nothing was changed" in report.rollback.diagnostics[0]
    assert failing.content() == live
    assert names(events, failing)[-2:] == ["rollback.refused", "watch.finished"]


def test_a_missing_snapshot_is_reported(failing: Project, clock: SetClock, events: ReadEvents) -> None:
    """The snapshot was removed: the watch restores no other snapshot."""
    catalogue = failing.pipeline.catalogue
    catalogue.path(latest_snapshot(failing)).rename(failing.folder / "elsewhere")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock)
    assert (report.exit_code, report.rollback) == (1, None)
    assert "watch did not roll back:" in report.diagnostics[0]
    assert failing.content() == live


def test_a_held_lock_ends_with_75(failing: Project, clock: SetClock, events: ReadEvents) -> None:
    """The message names the holder and the command to type later."""
    live = failing.content()
    with run_lock(failing.pipeline.root, "release.prepare"):
        report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 75, None)
    assert "is locked by 'release.prepare' (pid " in report.diagnostics[0]
    assert report.diagnostics[1].startswith("To roll back manually: inv release.rollback --snapshot v1_snapshot_")
    assert failing.content() == live
    assert names(events, failing)[-3:] == ["watch.degraded", "rollback.refused", "watch.finished"]


@pytest.mark.slow
def test_of_many_watches_one_rolls_back(
    failing: Project,
    service: WatchedService,
    events: ReadEvents,
    before: dict[str, Any],
) -> None:
    """All watches take the same samples and act at the same moment."""
    failing.overrides["watch"].update({"for": "20s", "interval": "20ms", "failures": 5})
    barrier = threading.Barrier(4)
    reports = []

    def one() -> None:
        is_first = True

        def together(sample: SampleTaken) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                barrier.wait(20)

        reports.append(watch_release(failing.settings, emit=at_samples(together)))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 4 and {report.status for report in reports} == {"degraded"}
    assert sum(report.rollback is not None for report in reports) == 1
    assert {report.exit_code for report in reports} <= {1, 75}
    assert names(events, failing).count("rollback.started") == 1
    assert failing.content() == before
