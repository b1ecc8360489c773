"""The watch against a real service: what it sees, when it ends, and what it makes of time that it did not see."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from release_tasks.core import clock as wall
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Noted
from release_tasks.core.interrupt import interruptible
from release_tasks.core.records import Pressure
from release_tasks.stages.watch.watching import Clock, watch_release
from tests.support.faults.telling import at_looks


def findings(report):
    return "".join(sample.finding[0] for sample in report.samples)


def test_a_service_that_stays_well_is_healthy(watched, service, clock, release, events):
    """The whole time passes, every look is on record, and the baseline is that of the newest release."""
    manifest = release(watched)
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, report.release_id) == ("healthy", 0, "v1")
    assert (findings(report), report.counts.looks, clock.time) == ("o" * 19, 19, 1180.0)
    assert report.baseline == manifest.baseline and report.baseline.health == "ok"
    assert report.rollback is None and report.diagnostics == []
    (finished,) = [event for event in events(watched) if event["event"].startswith("watch.")]
    assert (finished["event"], finished["status"], finished["releaseId"]) == ("watch.finished", "healthy", "v1")


def test_one_bad_look_of_many_passes(watched, service, clock, release):
    """A restart of a moment is seen, and no more than that."""
    release(watched)
    service.script = [*["ok"] * 4, 503, *["ok"] * 4, "refused", "refused", "ok"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report)) == ("healthy", "oooob" + "oooo" + "bb" + "oooooooo")


def test_a_flapping_service_does_not_pass(watched, service, clock, release):
    """Never three in a row, and degraded all the same."""
    release(watched)
    service.script = [*["ok", 503] * 10, "ok"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code) == ("degraded", 1)
    assert "more than 30%" in report.reasons[0]


def test_three_bad_looks_in_a_row_end_it_at_once(watched, service, clock, release, events):
    """Minutes before its time is over, with the evidence on record and nothing that the service wrote."""
    manifest = release(watched)
    service.script = ["ok", "ok", 503]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, findings(report), clock.time) == ("degraded", "oobbb", 1040.0)
    assert report.reasons[0] == "3 samples in a row were bad: health failed, HTTP 503."
    assert report.diagnostics == [f"To roll back: inv release.rollback --snapshot {manifest.snapshot.snapshot_id}"]
    degraded, finished = [event for event in events(watched) if event["event"].startswith("watch.")]
    assert (degraded["event"], degraded["reasons"]) == ("watch.degraded", report.reasons)
    assert degraded["counts"] == {"looks": 5, "ok": 2, "bad": 3, "unknown": 0}
    assert [look["finding"] for look in degraded["samples"]] == ["ok", "ok", "bad", "bad", "bad"]
    assert (degraded["samples"][4]["httpStatus"], degraded["rollback"]) == (503, False)
    assert "private" not in str(degraded) + str(finished)
    assert "a private message" in report.samples[-1].detail


@pytest.mark.slow
def test_a_service_that_is_many_times_slower_is_degraded(watched, service, clock, release):
    """By the median of prepare time, above a floor."""
    watched.overrides["watch"].update(latency_floor="100ms", latency_factor=1)
    release(watched)
    service.on_look = lambda number: time.sleep(0.6)
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.counts.looks) == ("degraded", 3)
    assert "health took " in report.reasons[0] and " ms before the release" in report.reasons[0]


def test_only_pressure_that_grew_counts(watched, service, clock, release):
    """Dead letters of last year are no fault of this release; one more is."""
    watched.overrides["reliability.url"] = f"{service.base}/reliability"
    service.pressure = {"totalDeadLetters": 7, "totalRejected": 50}
    manifest = release(watched)
    assert manifest.baseline.pressure == Pressure(queued=0, failed=0, dead_letters=7, rejected_callbacks=50)
    assert watch_release(watched.settings, clock=clock).status == "healthy"
    service.on_look = lambda number: service.pressure.update(totalDeadLetters=8)
    report = watch_release(watched.settings, clock=clock)
    assert report.status == "degraded"
    assert "8 messages given up (limit 0)" in report.reasons[0]


def test_degraded_as_before_is_healthy(watched, service, clock, release):
    """A service that was degraded when the release was prepared is judged by that."""
    service.script = ["degraded"]
    release(watched)
    assert watch_release(watched.settings, clock=clock).status == "healthy"
    service.script = ["ok"]
    release(watched, "v2")
    service.script = ["degraded"]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.release_id) == ("degraded", "v2")
    assert "it was ok before the release" in report.reasons[0]


def test_reliability_alone_that_cannot_be_reached_is_inconclusive(watched, service, clock, release):
    """No look said anything, so nothing is known, and nothing is done."""
    watched.overrides.update({"reliability.url": f"{service.base}/reliability", "health.url": None})
    watched.overrides["watch"].update(rollback=True)
    release(watched)
    service.pressure = None
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, findings(report)) == ("inconclusive", 1, "u" * 19)
    assert report.rollback is None


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["silent", "dribble"])
def test_a_look_that_hangs_is_over_with_its_timeout(watched, service, release, trouble):
    """The watch ends within its time and one timeout, by the real clock."""
    watched.overrides["watch"] = {"for": "500ms", "interval": "100ms"}
    watched.overrides.update({"reliability.url": f"{service.base}/reliability", "reliability.timeout": "3s"})
    watched.overrides["health.timeout"] = "3s"
    release(watched)
    service.script, service.pressure = [trouble], "silent"
    began = time.monotonic()
    report = watch_release(watched.settings)
    assert 3.0 <= time.monotonic() - began < 5.9
    assert (findings(report), report.status) == ("b", "inconclusive")
    assert report.samples[0].health == "unreachable"


def test_looks_before_and_after_a_sleep_are_not_consecutive(watched, service, clock, release):
    """Two bad looks before the machine slept and two after it are no four."""
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, 503, 503, "ok"]
    clock.sleeps = {5: 60.0}
    report = watch_release(watched.settings, clock=clock)
    assert findings(report)[:8] == "ooobbbbo"
    assert report.samples[5].unseen_ms == 60_000
    assert "no sample was taken for 1m before this one" in report.samples[5].why
    assert (report.status, report.counts.bad) == ("inconclusive", 4)
    assert "4 bad" in report.reasons[0]


def test_a_sleep_while_a_look_is_shown_is_noticed_too(watched, service, clock, release):
    """Between a look and the wait after it."""
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, 503, 503, "ok"]
    shown: list[object] = []

    def show(sample):
        shown.append(sample)
        clock.time += 60.0 if len(shown) == 5 else 0.0

    report = watch_release(watched.settings, clock=clock, emit=at_looks(show))
    assert findings(report)[:8] == "ooobbbbo"
    assert report.samples[5].unseen_ms >= 50_000


def test_a_sleep_while_the_last_look_is_shown_counts_as_unseen(watched, service, clock, release):
    """The rest of the time is over when the machine wakes up."""
    release(watched)
    shown: list[object] = []

    def show(sample):
        shown.append(sample)
        clock.time += 3600.0 if len(shown) == 6 else 0.0

    report = watch_release(watched.settings, clock=clock, emit=at_looks(show))
    assert (report.status, report.exit_code) == ("inconclusive", 1)
    assert report.reasons[0].startswith("No sample was taken for ")


def test_a_look_that_hangs_beyond_the_end_is_no_sleep(watched, service, clock, release):
    """Its time was allowed to it, and nothing of it counts as unseen."""
    watched.overrides["health.timeout"] = "60s"
    watched.overrides["watch"].update({"for": "65s"})
    release(watched)
    last = service.looks + 7

    def hang(number: int) -> None:
        clock.time += 55.0 if number == last else 0.0

    service.on_look = hang
    report = watch_release(watched.settings, clock=clock)
    assert (findings(report), report.samples[-1].unseen_ms, report.status) == ("ooooooo", 0, "healthy")


def test_a_machine_that_slept_through_it_has_seen_nothing(watched, service, clock, release):
    """Woken after the time is over, it looks once more and has no verdict."""
    release(watched)
    clock.sleeps = {7: 3600.0}
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, findings(report)) == ("inconclusive", 1, "o" * 8)
    assert report.reasons[0].startswith("No sample was taken for 1h of ")


def test_a_sleep_in_the_middle_of_a_look_makes_it_void(watched, service, clock, release):
    """Its request failed because the machine slept, which says nothing of the service."""
    release(watched)
    service.script = [*["ok"] * 5, "refused", "ok"]
    first = service.looks

    def sleep(number: int) -> None:
        clock.time += 90.0 if number == first + 6 else 0.0

    service.on_look = sleep
    report = watch_release(watched.settings, clock=clock)
    assert findings(report)[4:7] == "ouo"
    assert report.samples[5].unseen_ms == 90_000
    assert "during this sample" in report.samples[5].why[0]


def test_a_sleep_after_the_last_look_counts_as_unseen(watched, service, clock, release):
    """The machine slept in the very last wait, so the end of the watch was not seen."""
    watched.overrides["watch"].update({"for": "65s"})
    release(watched)
    clock.sleeps = {7: 600.0}
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.counts.looks) == ("inconclusive", 7)


def test_a_wall_clock_that_is_set_back_changes_nothing(watched, service, clock, release, monkeypatch):
    """Times are told by the wall clock, and nothing is measured by it."""
    release(watched)
    moments = (datetime(2026, 1, 1, tzinfo=timezone.utc) - timedelta(hours=n) for n in range(10_000))
    monkeypatch.setattr(wall, "now", lambda: next(moments))
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.counts.looks) == ("healthy", 19)
    assert report.ended_at < report.started_at


def test_the_clock_goes_on_by_itself():
    """The real clock waits as long as it says, and cannot be set."""
    clock = Clock()
    began, real = clock.now(), time.monotonic()
    clock.wait(0.25)
    assert clock.now() - began >= 0.25
    assert time.monotonic() - real < 8
    clock.wait(-1)


def test_without_a_release_it_watches_and_says_so(watched, service, clock, events):
    """Nothing was prepared: there is a verdict, by what stands for itself, and nothing to go back to."""
    watched.overrides["watch"].update(rollback=True)
    told: list[str] = []
    report = watch_release(
        watched.settings, clock=clock, emit=lambda event: told.append(str(event)) if isinstance(event, Noted) else None
    )
    assert (report.status, report.release_id, report.baseline) == ("healthy", None, None)
    assert "no baseline to compare with" in report.diagnostics[0]
    assert "no snapshot to roll back to" in report.diagnostics[1]
    assert told == report.diagnostics
    service.script = [503]
    report = watch_release(watched.settings, clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", 1, None)
    assert "watch did not roll back: There is no ready release" in report.diagnostics[-1]
    assert sum("no snapshot to roll back to" in sentence for sentence in report.diagnostics) == 1
    assert [event["event"] for event in events(watched)] == ["watch.finished", "watch.degraded", "watch.finished"]


def test_a_release_without_a_baseline_is_watched_and_that_is_said(watched, service, clock, release):
    """Prepared when no endpoint was configured: health decides alone, and `degraded` cannot be told."""
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
    ("overrides", "sentence"),
    [
        ({"health.url": None}, "set release.health.url"),
        ({"watch": {"for": "30s", "interval": "10s"}}, "takes 3 samples, but release.watch.min_samples requires 5"),
        ({"watch": {"rollback": True}, "assets": {}}, "release.assets is empty"),
    ],
)
def test_what_cannot_be_watched_is_refused(watched, overrides, sentence):
    """Before the first look, with the key to set."""
    watched.overrides.update(overrides)
    with pytest.raises(UsageError, match=sentence):
        watch_release(watched.settings)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_verdict(watched, service, release, number, code, events):
    """In the middle of a look that hangs; the end is on record, and a failing release is left to whoever stopped it."""
    watched.overrides["watch"].update({"rollback": True, "interval": "50ms"})
    watched.overrides["health.timeout"] = "30s"
    release(watched)
    service.script = ["ok", "ok", "ok", 503, 503, "silent"]
    silent = service.looks + 6
    at_it = threading.Event()
    service.on_look = lambda look: at_it.set() if look == silent else None

    def stop() -> None:
        assert at_it.wait(20)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with interruptible():
        report = watch_release(watched.settings)
    assert time.monotonic() - began < 10
    assert (report.status, report.exit_code, findings(report)) == ("inconclusive", code, "ooobb")
    assert report.reasons[0].startswith("A signal ended the watch after")
    assert report.rollback is None
    assert [event["event"] for event in events(watched)][-1] == "watch.finished"


def test_only_the_newest_looks_are_told(watched, service, clock, release):
    """Fifty of them; all are counted."""
    watched.overrides["watch"].update({"for": "10m"})
    release(watched)
    report = watch_release(watched.settings, clock=clock)
    assert (len(report.samples), report.counts.looks) == (50, 61)


def test_a_log_that_cannot_be_written_changes_no_verdict(watched, service, clock, release, monkeypatch):
    """It is said; and what could not be put on record is not acted on."""
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
