"""A watch is about one release: a newer one that is prepared meanwhile ends it, and it never rolls that one back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from release_tasks.core.errors import ExitCode, StageFailed, UsageError
from release_tasks.core.lock import run_lock
from release_tasks.stages.watch.response import watch_context
from release_tasks.stages.watch.watching import watch_release
from tests.support.project import Project
from tests.support.watched_service import MakeRelease, ReadEvents, SetClock, WatchedService, at_samples

NEWER = "Release B was prepared meanwhile, so this watch of release A ended without a verdict or a rollback."


@pytest.fixture
def bad(watched: Project, service: WatchedService, release: MakeRelease) -> Project:
    """Return a project with release A, which is watched with a rollback, and a service that is down from now on."""
    watched.overrides["watch"] |= {"rollback": True, "failures": 3}
    release(watched, "A")
    watched.damage_rows()
    service.script = [500]
    return watched


@pytest.mark.parametrize("moment", [0, 1, 2, 3])
def test_a_newer_release_ends_the_watch(
    bad: Project, clock: SetClock, release: MakeRelease, events: ReadEvents, moment: int
) -> None:
    """B is prepared before the watch or after any of its samples: exit 1, B is named, and nothing is restored."""
    count = [0]

    def prepare_newer(_: object) -> None:
        count[0] += 1
        if count[0] == moment:
            release(bad, "B")

    if moment == 0:
        release(bad, "B")
    live = bad.content()
    report = watch_release(bad.settings, release_id="A", clock=clock, emit=at_samples(prepare_newer))
    assert (report.status, report.exit_code, report.release_id) == ("inconclusive", ExitCode.NEGATIVE, "A")
    assert report.reasons == [NEWER]
    assert (report.rollback, report.counts.looks) == (None, moment)
    assert bad.content() == live
    assert "rollback.started" not in [event["event"] for event in events(bad)]


def test_a_release_that_is_prepared_just_before_the_rollback_cancels_it(
    bad: Project, clock: SetClock, release: MakeRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The precondition is checked under the lock: B came between the verdict and the lock."""
    live = bad.content()
    name = "release_tasks.stages.rollback.attempt.run_lock"

    def prepare_first(*arguments: Any) -> AbstractContextManager[object]:
        monkeypatch.setattr(name, run_lock)
        release(bad, "B")
        return run_lock(*arguments)

    monkeypatch.setattr(name, prepare_first)
    report = watch_release(bad.settings, release_id="A", clock=clock)
    assert (report.status, report.exit_code, report.rollback) == ("degraded", ExitCode.NEGATIVE, None)
    assert "Release B was prepared meanwhile" in report.diagnostics[0]
    assert bad.content() == live


@pytest.mark.slow
def test_a_blocked_release_is_not_newer(bad: Project, clock: SetClock, release: MakeRelease) -> None:
    """Nothing was deployed, so the watch goes on, and rolls A back."""
    bad.overrides["assets"] = {**bad.raw["assets"], "absent": {"file": "state/absent"}}
    with pytest.raises(AssertionError):
        release(bad, "B")
    del bad.overrides["assets"]
    report = watch_release(bad.settings, release_id="A", clock=clock)
    assert report.status == "degraded"
    assert report.rollback is not None
    assert report.rollback.snapshot_id == watch_context(bad.settings, bad.pipeline).snapshot_id


def test_unknown_blocked_and_unreadable_releases_are_refused(bad: Project, release: MakeRelease) -> None:
    """Exit code 2 with the known ids; 1 for a manifest that cannot be read."""
    with pytest.raises(UsageError, match=r"There is no release 'C'\. The latest releases are A\."):
        watch_release(bad.settings, release_id="C")
    with pytest.raises(UsageError, match="not a valid id"):
        watch_release(bad.settings, release_id="../A")
    bad.pipeline.manifest_path("A").write_text("{")
    with pytest.raises(StageFailed, match="The manifest of A cannot be read"):
        watch_release(bad.settings, release_id="A")
