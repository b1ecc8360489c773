"""The watch itself: look, judge, wait, until the time is over or the verdict stands; then answer it, once."""

from __future__ import annotations

import math
import time

from attrs import evolve, field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import ReleaseConfig, Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import ExitCode, Interrupted, StageFailed, UsageError
from release_tasks.core.events import Emit, Noted, ignore, shielded
from release_tasks.core.interrupt import wait_for
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Baseline, RollbackOutcome
from release_tasks.core.units import show_duration
from release_tasks.stages.notifications.notification import Notification
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_failure, about_rollback
from release_tasks.stages.stage import stage
from release_tasks.stages.watch.judgement import Counts, VerdictStatus, count, degradation, judge
from release_tasks.stages.watch.response import Ground, ground_of, record_finished, respond
from release_tasks.stages.watch.samples import Sample, take_sample

__all__ = ["Clock", "WatchReport", "require_watchable", "watch_release"]

_STAGE = "release.watch"
_SAMPLES_TOLD = 50
_WILL_NOT = "It will not be rolled back:"
_GRACE = 5.0  # seconds that a busy machine may be late without having slept
# Goes on while the machine sleeps: CLOCK_BOOTTIME on Linux; where there is none, on macOS, CLOCK_MONOTONIC does.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The time of a watch, in seconds; it cannot be set, and it goes on while the machine sleeps."""

    def now(self) -> float:
        """Return the time since some fixed moment."""
        return time.clock_gettime(_CLOCK)

    def wait(self, seconds: float) -> None:
        """Return once that much time has passed, asleep or awake."""
        wait_for(time.sleep, seconds, self.now)


@frozen(kw_only=True)
class WatchReport:
    """What a watch found and did, as ``--json`` prints it. ``samples`` are the newest ones."""

    status: VerdictStatus
    exit_code: int
    release_id: str | None
    started_at: str
    ended_at: str
    samples: list[Sample]
    counts: Counts
    reasons: list[str]
    baseline: Baseline | None
    rollback: RollbackOutcome | None = None
    diagnostics: list[str] = field(factory=list)


@frozen(kw_only=True)
class _Seen:
    """All looks of a watch. ``unseen`` and ``watched`` are in seconds; ``stop`` is the signal that ended it."""

    samples: list[Sample]
    watched: float
    unseen: float
    stop: Interrupted | None = None


def watch_release(
    settings: Settings,
    *,
    clock: Clock | None = None,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> WatchReport:
    """Watch a release after its deploy, as ``release.watch`` says, and judge it; roll back once if that is wanted.

    ``status`` of the report is ``healthy``, ``degraded`` or ``inconclusive``. Returns it also after Interrupted. Raises
    UsageError when there is nothing to ask or the watch is too short, StageFailed while an interrupted rollback waits
    to be finished: its state is no release to judge.
    """
    config, pipeline, emit = settings.release, Pipeline(settings.release.root), shielded(emit)
    with stage(settings, pipeline, _STAGE, notices, needs_assets=False) as sending:
        started_at = timestamp()
        require_watchable(settings)
        if pipeline.has_journal() and current_holder(pipeline.root) is None:
            raise StageFailed("A rollback was interrupted and waits to be finished. Run `inv release.recover` first.")
        ground = ground_of(pipeline)
        remarks = _remarks(config, ground)
        for sentence in remarks:
            emit(Noted(sentence))
        seen = _look_on(config, ground.baseline, clock or Clock(), emit)
        verdict = judge(
            seen.samples, config.watch, watched=seen.watched, unseen=seen.unseen, is_cut_short=seen.stop is not None
        )
        response = respond(settings, pipeline, ground, verdict, seen.samples, seen.stop, emit, sending)
        if verdict.status == "degraded" and seen.stop is None:  # what was foretold is part of the response now
            remarks = [sentence for sentence in remarks if not sentence.startswith(_WILL_NOT)]
        problems = record_finished(pipeline, ground, verdict, seen.samples, response.outcome)
        report = WatchReport(
            status=verdict.status,
            exit_code=int(response.exit_code),
            release_id=ground.release_id,
            started_at=started_at,
            ended_at=timestamp(),
            samples=seen.samples[-_SAMPLES_TOLD:],
            counts=count(seen.samples),
            reasons=verdict.reasons,
            baseline=ground.baseline,
            rollback=response.outcome,
            diagnostics=remarks + response.diagnostics + problems,
        )
        sending.announce(lambda: _about_response(settings, pipeline, report))
    return report


def require_watchable(settings: Settings) -> None:
    """Raise UsageError when there is no endpoint to ask, nothing to roll back, or a watch too short for a verdict."""
    config, rules = settings.release, settings.release.watch
    if config.health.url is None and config.reliability.url is None:
        raise UsageError(
            "There is nothing to watch: set release.health.url or release.reliability.url, or type --health-url."
        )
    if rules.rollback and not config.assets:
        raise UsageError("--rollback has nothing to restore: release.assets names no state of the service.")
    looks = math.ceil(rules.for_ / rules.interval)
    if looks < rules.min_samples:
        raise UsageError(
            f"A watch of {show_duration(rules.for_)} with a look every {show_duration(rules.interval)} looks {looks} "
            f"times, and release.watch.min_samples asks for {rules.min_samples}. Type a longer --for or a shorter "
            "--interval."
        )


def _look_on(config: ReleaseConfig, baseline: Baseline | None, clock: Clock, emit: Emit) -> _Seen:
    """Look every interval until the time is over, the looks are degraded, or a signal comes."""
    rules = config.watch
    samples: list[Sample] = []
    unseen, stop = 0.0, None
    began = planned = clock.now()
    end = began + rules.for_
    longest = max(asked.timeout for asked in (config.health, config.reliability) if asked.url is not None)
    try:
        while True:
            late = _unseen(clock.now() - planned, rules.interval)
            begun = clock.now()
            sample = take_sample(config, baseline)
            looked = clock.now()
            held_up = _unseen(looked - begun, longest)
            unseen += late + held_up
            if held_up:
                slept = show_duration(round(held_up))
                why = [f"the machine slept or was held up for {slept} in the middle of this look"]
                sample = evolve(sample, finding="unknown", why=why)
            elif late:
                sample = evolve(sample, why=[*sample.why, f"nobody looked for {show_duration(round(late))} before"])
            sample = evolve(sample, unseen_ms=round((late + held_up) * 1000))
            samples.append(sample)
            emit(sample.event())
            planned = max(begun + rules.interval, looked)
            if degradation(samples, rules):
                break
            clock.wait(min(planned, end) - clock.now())
            if planned > end:
                unseen += _unseen(clock.now() - max(looked, end), rules.interval)
                break
    except Interrupted as signal:
        stop = signal
    return _Seen(samples=samples, watched=clock.now() - began, unseen=unseen, stop=stop)


def _unseen(took: float, allowed: float) -> float:
    """Return for how long nobody looked when ``took`` seconds are far more than ``allowed``, else 0."""
    return took if took > allowed + _GRACE else 0.0


def _remarks(config: ReleaseConfig, ground: Ground) -> list[str]:
    """Return what an operator should know before a watch begins."""
    told = []
    if ground.release is None:
        told.append("There is no ready release here, so there is nothing to compare the service with.")
    elif ground.release.baseline is None:
        told.append(
            f"Release {ground.release.release_id} was prepared without a look at the service, so there is nothing to "
            "compare it with."
        )
    if config.watch.rollback and ground.hindrance:
        told.append(f"{_WILL_NOT} {ground.hindrance}")
    return told


def _about_response(settings: Settings, pipeline: Pipeline, report: WatchReport) -> Notification | None:
    """Say how the rollback ended, or that there was none though one was wanted."""
    if report.rollback is not None:
        return about_rollback(settings, pipeline, report.rollback, stage=_STAGE)
    is_wanted = report.status == "degraded" and settings.release.watch.rollback
    if not is_wanted or report.exit_code not in (ExitCode.NEGATIVE, ExitCode.LOCKED):
        return None
    sentence = "the release is degraded and was to be rolled back, but was not"
    return about_failure(
        settings, _STAGE, sentence, release_id=report.release_id, diagnostics=report.reasons + report.diagnostics
    )
