"""The loop of a watch: sample, judge and wait, until the time is over or the verdict is final; then respond once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attrs import evolve, field, frozen

from release_tasks.archive.attestation.signing import trusted_keys
from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import ReleaseConfig, Settings
from release_tasks.core.clock import LONGEST_GAP, awake, timestamp, uptime
from release_tasks.core.errors import ExitCode, Interrupted, StageFailed, UsageError
from release_tasks.core.events import Emit, Noted, ignore, shielded
from release_tasks.core.interrupt import wait_for
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Baseline, RollbackOutcome
from release_tasks.core.typed import typed
from release_tasks.core.units import show_duration
from release_tasks.service.request import require_requests
from release_tasks.stages.notifications.notification import Notification
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_failure, about_rollback
from release_tasks.stages.stage import stage
from release_tasks.stages.watch.judgement import Counts, VerdictStatus, count, degradation, judge, superseded
from release_tasks.stages.watch.response import WatchContext, record_finished, respond, watch_context
from release_tasks.stages.watch.samples import Sample, take_sample

__all__ = ["Clock", "WatchReport", "require_watchable", "watch_release"]

_STAGE = "release.watch"
_MAX_SAMPLES = 50  # in the report
_WILL_NOT = "watch will not roll back:"
_GRACE_PERIOD = 5.0  # seconds of delay on a busy machine that do not count as sleep


class Clock:
    """The clock of a watch, in seconds: monotonic, and it includes the time in which the machine sleeps."""

    def now(self) -> float:
        """Return the seconds since a fixed point in time."""
        return uptime()

    def wait(self, seconds: float, is_over: Callable[[], object] = bool) -> None:
        """Wait for ``seconds``, including the time in which the machine sleeps, or until ``is_over`` returns true."""

        def attempt(slice_: float) -> object:
            time.sleep(slice_)
            return is_over()

        wait_for(attempt, seconds, self.now)


@frozen(kw_only=True)
class WatchReport:
    """The result of a watch, as ``--json`` prints it. ``samples`` has the latest ones."""

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
class _Series:
    """All samples of a watch. ``watched`` is its length in seconds.

    ``stop`` is the signal that ended it, ``newer`` the release whose prepare ended it.
    """

    samples: list[Sample]
    watched: float
    stop: Interrupted | None = None
    newer: str = ""


def watch_release(
    settings: Settings,
    *,
    release_id: str | None = None,
    clock: Clock | None = None,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> WatchReport:
    """Watch a release after its deploy and judge it; roll back once if ``release.watch.rollback`` is set.

    ``status`` of the report is ``healthy``, ``degraded`` or ``inconclusive``. Returns a report after Interrupted, too.
    Raises UsageError when no endpoint is configured or the watch is too short, and StageFailed when an interrupted
    rollback is not finished: the state may be mixed then.
    """
    config, pipeline, emit = settings.release, Pipeline(settings.release.root), shielded(emit)
    with stage(settings, pipeline, _STAGE, notices, needs_assets=False) as notifications:
        started_at = timestamp()
        require_watchable(settings)
        if pipeline.has_journal() and current_holder(pipeline.root) is None:
            raise StageFailed(
                f"A rollback was interrupted and is not finished. Run `{typed('release.recover')}` first."
            )
        context = watch_context(settings, pipeline, release_id)
        notes = _notes(config, context)
        for note in notes:
            emit(Noted(note))
        series = _sample_until_done(
            config, context.baseline, clock or Clock(), emit, lambda: pipeline.newer_than(context.release_id)
        )
        verdict = judge(series.samples, config.watch, watched=series.watched, is_cut_short=series.stop is not None)
        if series.newer:
            verdict = superseded(context.release_id, series.newer)
        response = respond(settings, pipeline, context, verdict, series.samples, series.stop, emit, notifications)
        if verdict.status == "degraded" and series.stop is None:  # the response repeats this note
            notes = [note for note in notes if not note.startswith(_WILL_NOT)]
        problems = record_finished(pipeline, context, verdict, series.samples, response.outcome)
        report = WatchReport(
            status=verdict.status,
            exit_code=int(response.exit_code),
            release_id=context.release_id,
            started_at=started_at,
            ended_at=timestamp(),
            samples=series.samples[-_MAX_SAMPLES:],
            counts=count(series.samples),
            reasons=verdict.reasons,
            baseline=context.baseline,
            rollback=response.outcome,
            diagnostics=notes + response.diagnostics + problems,
        )
        notifications.announce(lambda: _about_response(settings, pipeline, report))
    return report


def require_watchable(settings: Settings) -> None:
    """Raise UsageError without an endpoint, an asset or a key that a rollback needs, or with too little time."""
    config, rules = settings.release, settings.release.watch
    if not config.is_watchable:
        raise UsageError(
            "There is nothing to watch: set release.health.url or release.reliability.url, or type --health-url."
        )
    require_requests(config)
    if rules.rollback and not config.assets:
        raise UsageError("--rollback has nothing to restore: release.assets is empty.")
    if rules.rollback:
        trusted_keys(settings)  # the rollback would be refused after the watch
    expected = math.ceil(rules.for_ / rules.interval)
    if expected < rules.min_samples:
        raise UsageError(
            f"A watch of {show_duration(rules.for_)} with a sample every {show_duration(rules.interval)} takes "
            f"{expected} samples, but release.watch.min_samples requires {rules.min_samples}. Type a longer --for or a "
            "shorter --interval."
        )


def _sample_until_done(
    config: ReleaseConfig, baseline: Baseline | None, clock: Clock, emit: Emit, newer: Callable[[], str]
) -> _Series:
    """Take a sample every interval until the time is over, the samples are degraded, or a signal arrives.

    Ends at once when ``newer`` returns the id of a release that was prepared meanwhile: its deploy may follow, and the
    samples would be about that one.

    A gap, in which the machine slept or this process was suspended, makes the watch end later by its length.
    """
    rules = config.watch
    samples: list[Sample] = []
    stop = None
    started = planned = clock.now()
    end = started + rules.for_
    asked = [(config.health.timeout, config.questions), (config.reliability.timeout, config.reliability.url)]
    longest = max(timeout for timeout, endpoint in asked if endpoint)
    try:
        while not newer():
            sampling_started = clock.now()
            gap_before = _unseen(sampling_started - planned, rules.interval)
            end += max(sampling_started - planned - LONGEST_GAP, 0.0)
            skipped = awake.skipped()
            sample = take_sample(config, baseline)
            sampled = clock.now()
            gap_within = _unseen(sampled - sampling_started, longest)
            end += max(gap_within, awake.skipped() - skipped)
            if gap_within and sample.finding != "ok":
                why = [f"the machine slept or was delayed for {show_duration(round(gap_within))} during this sample"]
                sample = evolve(sample, finding="unknown", why=why)
            elif gap_before or gap_within:
                gap = show_duration(round(gap_before or gap_within))
                sample = evolve(sample, why=[*sample.why, f"no sample was taken for {gap} before this one"])
            sample = evolve(sample, unseen_ms=round((gap_before + gap_within) * 1000))
            samples.append(sample)
            emit(sample.event())
            planned = max(sampling_started + rules.interval, sampled)
            if degradation(samples, rules):
                break
            clock.wait(min(planned, end) - clock.now(), newer)
            if planned > end and clock.now() - max(sampled, end) <= LONGEST_GAP:
                break
    except Interrupted as signal:
        stop = signal
    return _Series(samples=samples, watched=clock.now() - started, stop=stop, newer="" if stop else newer())


def _unseen(took: float, allowed: float) -> float:
    """Return ``took`` if it exceeds ``allowed`` by more than the grace period, else 0; all in seconds."""
    return took if took > allowed + _GRACE_PERIOD else 0.0


def _notes(config: ReleaseConfig, context: WatchContext) -> list[str]:
    """Return the notes to show before a watch starts."""
    notes = []
    if context.release is None:
        notes.append("There is no ready release, so there is no baseline to compare with.")
    elif context.release.baseline is None:
        notes.append(f"Release {context.release.release_id} was prepared without a baseline to compare with.")
    if config.watch.rollback and context.blocker:
        notes.append(f"{_WILL_NOT} {context.blocker}")
    return notes


def _about_response(settings: Settings, pipeline: Pipeline, report: WatchReport) -> Notification | None:
    """Report the result of the rollback, or that a requested rollback did not happen."""
    if report.rollback is not None:
        return about_rollback(settings, pipeline, report.rollback, stage=_STAGE)
    is_requested = report.status == "degraded" and settings.release.watch.rollback
    if not is_requested or report.exit_code not in (ExitCode.NEGATIVE, ExitCode.LOCKED):
        return None
    message = "the release is degraded, but the requested rollback did not happen"
    return about_failure(
        settings, _STAGE, message, release_id=report.release_id, diagnostics=report.reasons + report.diagnostics
    )
