"""The watch against a real service: its samples, its end, and time that passed without samples."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from release_tasks.core import clock as wall
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Noted, SampleTaken
from release_tasks.core.interrupt import interruptible
from release_tasks.core.records import Pressure
from release_tasks.stages.watch.watching import Clock, WatchReport, watch_release
from tests.support.project import Project
from tests.support.watched_service import MakeRelease, ReadEvents, SetClock, WatchedService, at_samples


def findings(report: WatchReport) -> str:
    """One letter for each sample: ``o`` ok, ``b`` bad, ``u`` unknown."""
    return "".join(sample.finding[0] for sample in report.samples)


def test_a_service_that_stays_healthy_is_healthy(
    watched: Project,
    service: WatchedService,
    clock: SetClock,
    release: MakeRelease,
    events: ReadEvents,
) -> None:
    """The watch runs to its end, records every sample and compares with the baseline of the latest release."""
    manifest = release(watched)
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, report.release_id) == ("healthy", 0, "v1")
    assert (findings(report), report.counts.looks, clock.time) == ("o" * 19, 19, 1180.0)
    assert report.baseline is not None and report.baseline == manifest.baseline and report.baseline.health == "ok"
    assert report.rollback is None and report.diagnostics == []
    (finished,) = [event for event in events(watched) if event["event"].startswith("watch.")]
    assert (finished["event"], finished["status"], finished["releaseId"]) == ("watch.finished", "healthy", "v1")


def test_a_short_outage_passes(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """A short restart gives bad samples and no degraded verdict."""
    release(watched)
    service.script = [*["ok"] * 4, 503, *["ok"] * 4, "refused", "refused", "ok"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report)) == ("healthy", "oooob" + "oooo" + "bb" + "oooooooo")


NEVER_ROLLED_BACK: dict[str, tuple[dict[str, Any], str, str]] = {
    "a worker rests": ({"ok": True, "data": {"status": "ok", "heartbeat": {"running": False}}}, "healthy", "ok"),
    "an unknown word of a part": ({"status": "ok", "checks": {"mail": "sleeping"}}, "healthy", "ok"),
    "a part is down": ({"status": "ok", "checks": {"mail": "down"}}, "inconclusive", "degraded"),
    "no known form": ({"uptime": 1}, "inconclusive", "unknown"),
    "an unknown word": ({"status": "starting"}, "inconclusive", "unknown"),
}


@pytest.mark.parametrize("case", NEVER_ROLLED_BACK)
def test_an_answer_that_says_ok_or_nothing_is_no_reason_to_roll_back(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease, case: str
) -> None:
    """The answers were ok at prepare; each sample is as documented, for the whole watch."""
    body, status, health = NEVER_ROLLED_BACK[case]
    release(watched)
    watched.overrides["watch"].update(rollback=True)
    service.script = [body]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.rollback, report.counts.bad) == (status, None, 0)
    assert {sample.health for sample in report.samples} == {health}


def test_a_service_that_says_degraded_is_rolled_back(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """It said ok at prepare."""
    release(watched)
    watched.overrides["watch"].update(rollback=True)
    service.script = [{"status": "degraded", "checks": {"mail": "down"}}]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report)) == ("degraded", "bbb")
    assert report.rollback is not None


def test_a_flapping_service_is_degraded(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """Bad samples that never reach three in a row still exceed the error rate."""
    release(watched)
    service.script = [*["ok", 503] * 10, "ok"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code) == ("degraded", 1)
    assert "more than 30%" in report.reasons[0]


def test_three_consecutive_bad_samples_end_the_watch(
    watched: Project,
    service: WatchedService,
    clock: SetClock,
    release: MakeRelease,
    events: ReadEvents,
) -> None:
    """The watch ends early; the audit log has the evidence and no text of the service."""
    snapshot = release(watched).snapshot
    assert snapshot is not None
    service.script = ["ok", "ok", 503]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report), clock.time) == ("degraded", "oobbb", 1040.0)
    assert report.reasons[0] == "3 samples in a row were bad: health failed, HTTP 503."
    assert report.diagnostics == [f"To roll back: inv release.rollback --snapshot {snapshot.snapshot_id}"]
    degraded, finished = [event for event in events(watched) if event["event"].startswith("watch.")]
    assert (degraded["event"], degraded["reasons"]) == ("watch.degraded", report.reasons)
    assert degraded["counts"] == {"looks": 5, "ok": 2, "bad": 3, "unknown": 0}
    assert [sample["finding"] for sample in degraded["samples"]] == ["ok", "ok", "bad", "bad", "bad"]
    assert (degraded["samples"][4]["httpStatus"], degraded["rollback"]) == (503, False)
    assert "private" not in str(degraded) + str(finished)
    assert "a private message" in report.samples[-1].detail


@pytest.mark.slow
def test_a_service_that_is_many_times_slower_is_degraded(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """Latency is compared with the median at prepare time and has a lower limit."""
    watched.overrides["watch"].update(latency_floor="100ms", latency_factor=1)
    release(watched)
    service.on_request = lambda number: time.sleep(0.6)
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.counts.looks) == ("degraded", 3)
    assert "health took " in report.reasons[0] and " ms before the release" in report.reasons[0]


def test_only_pressure_that_grew_counts(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """Dead letters from before the release do not count; one more does."""
    watched.overrides["reliability.url"] = f"{service.base}/reliability"
    pressure = service.pressure = {"totalDeadLetters": 7, "totalRejected": 50}
    baseline = release(watched).baseline
    assert baseline is not None and baseline.pressure == Pressure(
        queued=0, failed=0, dead_letters=7, rejected_callbacks=50
    )
    assert watch_release(watched.settings, clock=clock).status == "healthy"
    service.on_request = lambda number: pressure.update(totalDeadLetters=8)
    report = watch_release(watched.settings, clock=clock)
    assert report.status == "degraded"
    assert "8 dead letters (limit 0)" in report.reasons[0]


def test_degraded_as_before_is_healthy(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """A service that was degraded at prepare time is compared with that status."""
    service.script = ["degraded"]
    release(watched)
    assert watch_release(watched.settings, clock=clock).status == "healthy"
    service.script = ["ok"]
    release(watched, "v2")
    service.script = ["degraded"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.release_id) == ("degraded", "v2")
    assert "it was ok before the release" in report.reasons[0]


def test_an_unreachable_reliability_endpoint_alone_is_inconclusive(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """Every sample is unknown, so the watch has no verdict and rolls nothing back."""
    watched.overrides.update({"reliability.url": f"{service.base}/reliability", "health.url": None})
    watched.overrides["watch"].update(rollback=True)
    release(watched)
    service.pressure = None
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, findings(report)) == ("inconclusive", 1, "u" * 19)
    assert report.rollback is None


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["silent", "dribble"])
def test_a_hanging_request_ends_with_its_timeout(
    watched: Project, service: WatchedService, release: MakeRelease, trouble: str
) -> None:
    """By the real clock, the watch ends within its duration plus one timeout."""
    watched.overrides["watch"] = {"for": "500ms", "interval": "100ms"}
    watched.overrides.update({"reliability.url": f"{service.base}/reliability", "reliability.timeout": "3s"})
    watched.overrides["health.timeout"] = "3s"
    release(watched)
    service.script, service.pressure = [trouble], "silent"
    started = time.monotonic()
    report = watch_release(watched.settings)
    assert 3.0 <= time.monotonic() - started < 5.9
    assert (findings(report), report.status) == ("b", "inconclusive")
    assert report.samples[0].health == "unreachable"


def test_samples_before_and_after_suspend_are_not_consecutive(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """Two bad samples before the machine was suspended and two after do not count as four in a row."""
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, 503, 503, "ok"]
    clock.suspends = {5: 60.0}
    report = watch_release(watched.settings, clock=clock)
    assert findings(report)[:8] == "ooobbbbo"
    assert report.samples[5].unseen_ms == 60_000
    assert "no sample was taken for 1m before this one" in report.samples[5].why
    assert (report.status, report.counts.bad) == ("healthy", 4)


def test_a_suspend_while_a_sample_is_displayed_is_detected(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The suspend falls between a sample and the wait after it."""
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, 503, 503, "ok"]
    shown: list[object] = []

    def show(sample: SampleTaken) -> None:
        shown.append(sample)
        clock.time += 60.0 if len(shown) == 5 else 0.0

    report = watch_release(watched.settings, clock=clock, emit=at_samples(show))
    assert findings(report)[:8] == "ooobbbbo"
    assert report.samples[5].unseen_ms >= 50_000


def test_a_suspend_while_a_sample_is_displayed_makes_the_watch_longer(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The watch has as much time left when the machine resumes as before."""
    release(watched)
    shown: list[object] = []

    def show(sample: SampleTaken) -> None:
        shown.append(sample)
        clock.time += 3600.0 if len(shown) == 6 else 0.0

    report = watch_release(watched.settings, clock=clock, emit=at_samples(show))
    assert (report.status, report.counts.looks) == ("healthy", 18)
    assert report.samples[6].why == ["no sample was taken for 3590s before this one"]


def test_a_request_that_hangs_beyond_the_end_is_not_a_suspend(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The request stays within its timeout, so its time counts as observed."""
    watched.overrides["health.timeout"] = "60s"
    watched.overrides["watch"].update({"for": "65s"})
    release(watched)
    last = service.requests + 7

    def hang(number: int) -> None:
        clock.time += 55.0 if number == last else 0.0

    service.on_request = hang
    report = watch_release(watched.settings, clock=clock)
    assert (findings(report), report.samples[-1].unseen_ms, report.status) == ("ooooooo", 0, "healthy")


def test_a_machine_suspended_for_most_of_the_watch_has_a_verdict(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """After it resumes, the watch takes the samples that are missing, without the one that was due in the gap."""
    release(watched)
    clock.suspends = {7: 3600.0}
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, findings(report)) == ("healthy", 0, "o" * 18)
    assert report.samples[7].unseen_ms == 3_600_000


def test_a_suspend_during_a_request_makes_the_sample_unknown(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The request failed because the machine was suspended, not because of the service."""
    release(watched)
    service.script = [*["ok"] * 5, "refused", "ok"]
    first = service.requests

    def suspend(number: int) -> None:
        clock.time += 90.0 if number == first + 6 else 0.0

    service.on_request = suspend
    report = watch_release(watched.settings, clock=clock)
    assert findings(report)[4:7] == "ouo"
    assert report.samples[5].unseen_ms == 90_000
    assert "during this sample" in report.samples[5].why[0]


def test_a_suspend_after_the_last_sample_is_followed_by_another_sample(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The machine was suspended in the last wait: the watch asks once more before its verdict."""
    watched.overrides["watch"].update({"for": "65s"})
    release(watched)
    clock.suspends = {7: 600.0}
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report)) == ("healthy", "o" * 8)


def test_a_wall_clock_set_back_does_not_change_the_verdict(
    watched: Project,
    service: WatchedService,
    clock: SetClock,
    release: MakeRelease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wall clock only labels times; durations use the monotonic clock."""
    release(watched)
    moments = (datetime(2026, 1, 1, tzinfo=timezone.utc) - timedelta(hours=n) for n in range(10_000))
    monkeypatch.setattr(wall, "now", lambda: next(moments))
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.counts.looks) == ("healthy", 19)
    assert report.ended_at < report.started_at


def test_the_real_clock_is_monotonic() -> None:
    """The real clock waits for the given time and accepts a negative wait."""
    clock = Clock()
    started, real = clock.now(), time.monotonic()
    clock.wait(0.25)
    assert clock.now() - started >= 0.25
    assert time.monotonic() - real < 8
    clock.wait(-1)


def test_without_a_release_the_watch_judges_without_a_baseline(
    watched: Project, service: WatchedService, clock: SetClock, events: ReadEvents
) -> None:
    """There is a verdict from absolute rules, a note about the missing baseline, and no snapshot to restore."""
    watched.overrides["watch"].update(rollback=True)
    notes: list[str] = []
    report = watch_release(
        watched.settings, clock=clock, emit=lambda event: notes.append(str(event)) if isinstance(event, Noted) else None
    )
    assert (report.status, report.release_id, report.baseline) == ("healthy", None, None)
    assert "no baseline to compare with" in report.diagnostics[0]
    assert "no snapshot to roll back to" in report.diagnostics[1]
    assert notes == report.diagnostics
    service.script = [503]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "watch did not roll back: There is no ready release" in report.diagnostics[-1]
    assert sum("no snapshot to roll back to" in line for line in report.diagnostics) == 1
    assert [event["event"] for event in events(watched)] == ["watch.finished", "watch.degraded", "watch.finished"]


def test_a_release_without_a_baseline_is_watched_by_health_alone(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The release was prepared without an endpoint: health alone decides, and `degraded` health is inconclusive."""
    url = watched.overrides.pop("health.url")
    release(watched)
    watched.overrides["health.url"] = url
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.baseline) == ("healthy", None)
    assert report.diagnostics[0].startswith("Release v1 was prepared without a baseline")
    service.script = ["degraded"]
    report = watch_release(watched.settings, clock=clock)
    assert report.status == "inconclusive"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"health.url": None}, "set release.health.url"),
        ({"watch": {"for": "30s", "interval": "10s"}}, "takes 3 samples, but release.watch.min_samples requires 5"),
        ({"watch": {"rollback": True}, "assets": {}}, "release.assets is empty"),
    ],
)
def test_a_configuration_that_cannot_be_watched_is_refused(
    watched: Project, overrides: dict[str, Any], message: str
) -> None:
    """The refusal comes before the first sample and names the key to set."""
    watched.overrides.update(overrides)
    with pytest.raises(UsageError, match=message):
        watch_release(watched.settings)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_verdict(
    watched: Project,
    service: WatchedService,
    release: MakeRelease,
    number: signal.Signals,
    code: int,
    events: ReadEvents,
) -> None:
    """The signal comes during a hanging request: the end is recorded, and the watch does not roll back."""
    watched.overrides["watch"].update({"rollback": True, "interval": "50ms"})
    watched.overrides["health.timeout"] = "30s"
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, "silent"]
    silent = service.requests + 6
    hangs = threading.Event()
    service.on_request = lambda number: hangs.set() if number == silent else None

    def stop() -> None:
        assert hangs.wait(20)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    started = time.monotonic()
    with interruptible():
        report = watch_release(watched.settings)
    assert time.monotonic() - started < 10
    assert (report.status, report.exit_code, findings(report)) == ("inconclusive", code, "ooobb")
    assert report.reasons[0].startswith("A signal ended the watch after")
    assert report.rollback is None
    assert [event["event"] for event in events(watched)][-1] == "watch.finished"


def test_only_the_latest_samples_are_reported(
    watched: Project, service: WatchedService, clock: SetClock, release: MakeRelease
) -> None:
    """The report has fifty samples and counts all of them."""
    watched.overrides["watch"].update({"for": "10m"})
    release(watched)
    report = watch_release(watched.settings, clock=clock)
    assert (len(report.samples), report.counts.looks) == (50, 61)


def test_an_unwritable_log_does_not_change_the_verdict(
    watched: Project,
    service: WatchedService,
    clock: SetClock,
    release: MakeRelease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure is reported, and a verdict without an audit event causes no rollback."""
    watched.overrides["watch"].update(rollback=True)
    release(watched)
    before = watched.content()
    log = watched.pipeline.audit.path
    log.rename(log.with_suffix(".old"))
    log.mkdir()
    assert "could not be written to the audit log" in watch_release(watched.settings, clock=clock).diagnostics[0]
    service.script = [503]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.rollback) == ("degraded", None)
    assert "Therefore watch did not roll back." in report.diagnostics[0]
    assert watched.content() == before
