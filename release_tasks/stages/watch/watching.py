"""The watch itself: look, judge, wait, until the time is over or the verdict stands; then answer it, once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attrs import evolve, field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import ReleaseConfig, Settings
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import ExitCode, Interrupted, StageFailed, UsageError, describe_error
from release_tasks.core.events import Emit, LookTaken, Noted, ignore, shielded
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Baseline, Manifest, RollbackOutcome
from release_tasks.core.units import show_duration
from release_tasks.stages.notifications.notification import Notice
from release_tasks.stages.notifications.sending import Notices
from release_tasks.stages.notifications.wording import about_degraded, about_failure, about_rollback
from release_tasks.stages.stage import stage
from release_tasks.stages.watch.judgement import Counts, Verdict, VerdictStatus, count, degradation, judge
from release_tasks.stages.watch.response import (
    Ground,
    Response,
    ground_of,
    record_degraded,
    record_finished,
    roll_back_once,
)
from release_tasks.stages.watch.samples import Sample, take_sample

__all__ = ["Clock", "WatchReport", "require_watchable", "watch_release"]

_STAGE = "release.watch"
_DID_NOT_GO_BACK = (ExitCode.NEGATIVE, ExitCode.LOCKED)
_SAMPLES_TOLD = 50
_WILL_NOT = "It will not be rolled back:"
_LONGEST_WAIT = 0.1  # a signal that another thread got is acted on when the main thread wakes up
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
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            time.sleep(min(left, _LONGEST_WAIT))


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
class _Degraded:
    """A verdict that is about to be answered; ``goes_back`` says that ``snapshot_id`` is rolled back to now."""

    release: Manifest | None
    reasons: list[str]
    snapshot_id: str | None
    goes_back: bool


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
    notices: Notices | None = None,
) -> WatchReport:
    """Watch a release after its deploy, as ``release.watch`` says, and judge it; roll back once if that is wanted.

    ``status`` of the report is ``healthy``, ``degraded`` or ``inconclusive``. Returns it also after Interrupted. Raises
    UsageError when there is nothing to ask or the watch is too short, StageFailed while an interrupted rollback waits
    to be finished: its state is no release to judge.
    """
    with stage(settings, _STAGE, notices, needs_assets=False) as sending:
        # Begun before the rollback, so that nobody learns of it only minutes later, and not waited for until after it.
        report = _watch(
            settings,
            clock=clock,
            emit=emit,
            on_degraded=lambda verdict: sending.announce(lambda: _about_degraded(settings, verdict)),
        )
        sending.announce(lambda: _about_response(settings, report))
    return report


def _watch(
    settings: Settings, *, clock: Clock | None, emit: Emit, on_degraded: Callable[[_Degraded], None]
) -> WatchReport:
    emit = shielded(emit)
    require_watchable(settings)
    config, pipeline, started_at = settings.release, Pipeline(settings.release.root), timestamp()
    if pipeline.has_journal() and current_holder(pipeline.root) is None:
        raise StageFailed("A rollback was interrupted and waits to be finished. Run `inv release.recover` first.")
    ground = ground_of(pipeline)
    diagnostics = _remarks(config, ground)
    for sentence in diagnostics:
        emit(Noted(sentence))
    baseline = ground.release.baseline if ground.release else None
    seen = _look_on(config, lambda: take_sample(config, baseline), clock or Clock(), emit)
    counts = count(seen.samples)
    verdict = judge(
        seen.samples, config.watch, watched=seen.watched, unseen=seen.unseen, is_cut_short=seen.stop is not None
    )
    if seen.stop is not None:  # whoever stops a watch wants nothing more of it
        response = Response(exit_code=seen.stop.exit_code)
    elif verdict.status == "degraded":
        # What was foretold has come, and is told as such.
        diagnostics = [sentence for sentence in diagnostics if not sentence.startswith(_WILL_NOT)]
        response = _answer(settings, pipeline, ground, verdict, seen, emit, on_degraded)
    else:
        response = Response(exit_code=ExitCode.DONE if verdict.status == "healthy" else ExitCode.NEGATIVE)
    diagnostics += response.diagnostics + _written_down(pipeline, ground, verdict, counts, response)
    return WatchReport(
        status=verdict.status,
        exit_code=int(response.exit_code),
        release_id=ground.release.release_id if ground.release else None,
        started_at=started_at,
        ended_at=timestamp(),
        samples=seen.samples[-_SAMPLES_TOLD:],
        counts=counts,
        reasons=verdict.reasons,
        baseline=baseline,
        rollback=response.outcome,
        diagnostics=diagnostics,
    )


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


def _look_on(config: ReleaseConfig, look: Callable[[], Sample], clock: Clock, emit: Emit) -> _Seen:
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
            sample = look()
            looked = clock.now()
            held_up = _unseen(looked - begun, longest)
            unseen += late + held_up
            samples.append(_marked(sample, late, held_up))
            emit(_told(samples[-1]))
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


def _told(sample: Sample) -> LookTaken:
    return LookTaken(
        time=sample.time,
        finding=sample.finding,
        health=sample.health,
        latency_ms=sample.latency_ms,
        why=sample.why,
        detail=sample.detail,
    )


def _unseen(took: float, allowed: float) -> float:
    """Return for how long nobody looked when ``took`` seconds are far more than ``allowed``, else 0."""
    return took if took > allowed + _GRACE else 0.0


def _marked(sample: Sample, late: float, held_up: float) -> Sample:
    """Say in a look for how long nobody looked; one in the middle of which the machine slept says nothing."""
    if held_up:
        told = f"the machine slept or was held up for {show_duration(round(held_up))} in the middle of this look"
        sample = evolve(sample, finding="unknown", why=[told])
    elif late:
        sample = evolve(sample, why=[*sample.why, f"nobody looked for {show_duration(round(late))} before"])
    return evolve(sample, unseen_ms=round((late + held_up) * 1000))


def _answer(
    settings: Settings,
    pipeline: Pipeline,
    ground: Ground,
    verdict: Verdict,
    seen: _Seen,
    emit: Emit,
    on_degraded: Callable[[_Degraded], None],
) -> Response:
    """Write the evidence down, then roll back if that is wanted; without the one there is not the other."""
    is_wanted = settings.release.watch.rollback
    is_acted_on = is_wanted and not ground.hindrance
    degraded = _Degraded(
        release=ground.release, reasons=verdict.reasons, snapshot_id=ground.snapshot_id, goes_back=is_acted_on
    )
    try:
        record_degraded(pipeline, ground, verdict, count(seen.samples), seen.samples, is_acted_on)
    except OSError as error:
        on_degraded(evolve(degraded, goes_back=False))
        told = f"The evidence could not be written down: {describe_error(error)}"
        return Response(diagnostics=[f"{told} Therefore it was not rolled back." if is_wanted else told])
    on_degraded(degraded)
    if is_wanted:
        return roll_back_once(settings, ground, emit)
    return Response(
        diagnostics=[f"To go back: inv release.rollback --snapshot {ground.snapshot_id}"] if ground.snapshot_id else []
    )


def _written_down(
    pipeline: Pipeline, ground: Ground, verdict: Verdict, counts: Counts, response: Response
) -> list[str]:
    """Write the last event, and say so if that is not possible: the verdict stands all the same."""
    try:
        with uninterrupted():
            record_finished(pipeline, ground, verdict, counts, response.outcome)
    except OSError as error:
        return [f"The end of this watch could not be written down: {describe_error(error)}"]
    return []


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


def _about_degraded(settings: Settings, verdict: _Degraded) -> Notice:
    return about_degraded(settings, verdict.release, verdict.reasons, verdict.snapshot_id, goes_back=verdict.goes_back)


def _about_response(settings: Settings, report: WatchReport) -> Notice | None:
    """Say how the rollback ended, or that there was none though one was wanted."""
    if report.rollback is not None:
        return about_rollback(settings, report.rollback, stage=_STAGE)
    is_wanted = report.status == "degraded" and settings.release.watch.rollback
    if not is_wanted or report.exit_code not in _DID_NOT_GO_BACK:
        return None
    sentence = "the release is degraded and was to be rolled back, but was not"
    return about_failure(
        settings, _STAGE, sentence, release_id=report.release_id, diagnostics=report.reasons + report.diagnostics
    )
