"""The one rollback of a watch: where it goes, on what evidence, and everything that keeps it from happening."""

from __future__ import annotations

import threading

import pytest

from release_tasks.core.lock import run_lock
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.watch.watching import watch_release
from tests.support.faults.telling import at_looks


@pytest.fixture
def failing(watched, service, release):
    """Return a project with a release that was deployed, changed the state and fails; a watch may roll it back."""
    watched.overrides["watch"].update(rollback=True)
    watched.before = watched.content()
    release(watched)
    watched.damage()
    service.script = [503]
    return watched


def at(number, act):
    """Make something that acts between the look of this number and the next."""
    seen = []

    def look(taken):
        seen.append(taken)
        if len(seen) == number:
            act()

    return at_looks(look)


def names(events, project):
    return [event["event"] for event in events(project)]


def test_it_rolls_back_once_to_the_state_before_the_release(failing, service, clock, events):
    """State is back, the evidence stands in the log before the rollback, and the watch ends with 1."""
    service.script = [503, 503, 503, "ok"]
    report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, clock.time) == ("degraded", 1, 1020.0)
    assert (report.rollback.status, report.rollback.snapshot_id[:11]) == ("restored", "v1_snapshot")
    assert failing.content() == failing.before
    assert names(events, failing) == [
        "prepare.ready",
        "watch.degraded",
        "rollback.started",
        "rollback.finished",
        "watch.finished",
    ]
    evidence, last = events(failing)[1], events(failing)[-1]
    assert (evidence["snapshotId"], evidence["rollback"]) == (report.rollback.snapshot_id, True)
    assert evidence["baseline"]["health"] == "ok"
    assert len(evidence["samples"]) == 3
    assert (last["status"], last["rollback"]) == ("degraded", "restored")
    assert "inv gate.api-health" in report.diagnostics[-1]
    assert "but not the code" in report.diagnostics[0]


def test_a_rollback_on_which_health_fails_is_told_as_it_is(failing, clock):
    """The state is back, the service is not: failed, with what to look at."""
    report = watch_release(failing.settings, clock=clock)
    assert (report.rollback.status, report.exit_code) == ("failed", 1)
    assert failing.content() == failing.before
    assert report.diagnostics == ["Check what is live: inv release.status"]


def test_healthy_and_inconclusive_never_roll_back(failing, service, clock, events):
    """Only `degraded` does."""
    for script in (["ok"], [*["ok"] * 18, 503]):
        service.script = script
        assert watch_release(failing.settings, clock=clock).rollback is None
    assert "rollback.started" not in names(events, failing)


def test_it_never_rolls_back_twice(failing, clock, events):
    """A second watch of the same release, after the first has gone back, leaves everything alone."""
    watch_release(failing.settings, clock=clock)
    failing.mcp.write_text("mended by hand")
    report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "was restored already, and watch rolls back at most once" in report.diagnostics[0]
    assert failing.mcp.read_text() == "mended by hand"
    assert names(events, failing).count("rollback.started") == 1


def test_a_rollback_by_hand_during_the_watch_is_the_only_one(failing, service, clock, events):
    """Somebody was faster: what they restored, and what was written since, stays."""
    report = watch_release(
        failing.settings, clock=clock, emit=at(2, lambda: rollback(failing.settings, RollbackRequest()))
    )
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "watch did not roll back: Another rollback ran meanwhile" in report.diagnostics[0]
    assert names(events, failing).count("rollback.started") == 1
    refused = next(event for event in events(failing) if event["event"] == "rollback.refused")
    assert (refused["status"], "meanwhile" in refused["detail"]) == ("refused", True)


def test_a_release_that_was_prepared_during_the_watch_is_left_alone(failing, service, clock, release, events):
    """What fails may be the new one, and its snapshot is not that of the watched one."""
    failing.mcp.write_text("{}")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock, emit=at(2, lambda: release(failing, "v2")))
    assert (report.release_id, report.status, report.rollback) == ("v1", "degraded", None)
    assert "Release v2 was prepared meanwhile" in report.diagnostics[0]
    assert failing.content() == live
    assert "rollback.started" not in names(events, failing)


def test_a_damaged_snapshot_is_not_restored(failing, clock, events):
    """Verified before anything is touched; failed, and said."""
    snapshot = failing.pipeline.latest_ready().snapshot.snapshot_id
    copy = failing.pipeline.catalogue.path(snapshot) / "assets" / "mcp" / "mcp.json"
    copy.write_text("{}")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock)
    assert (report.rollback.status, report.exit_code) == ("failed", 1)
    assert "is refused, nothing was changed" in report.rollback.diagnostics[0]
    assert failing.content() == live
    assert names(events, failing)[-2:] == ["rollback.refused", "watch.finished"]


def test_a_snapshot_that_is_gone_is_said(failing, clock, events):
    """Somebody removed it: nothing is restored in its place."""
    catalogue = failing.pipeline.catalogue
    catalogue.path(failing.pipeline.latest_ready().snapshot.snapshot_id).rename(failing.folder / "elsewhere")
    live = failing.content()
    report = watch_release(failing.settings, clock=clock)
    assert (report.exit_code, report.rollback) == (1, None)
    assert "watch did not roll back:" in report.diagnostics[0]
    assert failing.content() == live


def test_a_run_that_holds_the_lock_is_not_waited_for(failing, clock, events):
    """75, who holds it, and the command for later."""
    live = failing.content()
    with run_lock(failing.pipeline.root, "release.prepare"):
        report = watch_release(failing.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 75, None)
    assert "is locked by 'release.prepare' (pid " in report.diagnostics[0]
    assert report.diagnostics[1].startswith("To roll back manually: inv release.rollback --snapshot v1_snapshot_")
    assert failing.content() == live
    assert names(events, failing)[-3:] == ["watch.degraded", "rollback.refused", "watch.finished"]


@pytest.mark.slow
def test_of_many_watches_one_rolls_back(failing, service, events, release):
    """All see the same, and act at the same moment."""
    failing.overrides["watch"].update({"for": "20s", "interval": "20ms", "failures": 5})
    barrier = threading.Barrier(4)
    reports = []

    def one() -> None:
        is_first = True

        def together(sample):
            nonlocal is_first
            if is_first:
                is_first = False
                barrier.wait(20)

        reports.append(watch_release(failing.settings, emit=at_looks(together)))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 4 and {report.status for report in reports} == {"degraded"}
    assert sum(report.rollback is not None for report in reports) == 1
    assert {report.exit_code for report in reports} <= {1, 75}
    assert names(events, failing).count("rollback.started") == 1
    assert failing.content() == failing.before
