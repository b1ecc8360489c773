"""The response to a verdict: audit events, and at most one rollback.

The snapshot of a release was taken before its deploy, so it contains the state of the previous release; the rollback
restores this snapshot. It does so only if the preconditions are unchanged since the start of the watch. They are
checked again under the lock, so that two watches, or a watch and a person, cannot both roll back.
"""

from __future__ import annotations

from attrs import evolve, field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.config.schema import Settings
from release_tasks.core.codec import encode
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageError, UsageError, describe_error
from release_tasks.core.events import Emit
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import Baseline, Manifest, RollbackOutcome
from release_tasks.core.typed import typed
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_degraded
from release_tasks.stages.preflight.gates.http import health_command
from release_tasks.stages.rollback.attempt import Precondition, precondition_now
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.watch.earlier import find_earlier_rollback
from release_tasks.stages.watch.judgement import WatchVerdict, count
from release_tasks.stages.watch.samples import Sample

__all__ = ["Response", "WatchContext", "record_finished", "respond", "watch_context"]

_SAMPLES_IN_EVIDENCE = 10
_NO_ROLLBACK = "watch did not roll back:"


@frozen(kw_only=True)
class WatchContext:
    """The start of a watch: the watched release, and the preconditions of a rollback at that time.

    ``earlier_rollback`` is the reason why the release counts as rolled back already, or empty.
    """

    release: Manifest | None
    precondition: Precondition
    earlier_rollback: str

    @property
    def release_id(self) -> str | None:
        """The watched release."""
        return self.release.release_id if self.release else None

    @property
    def baseline(self) -> Baseline | None:
        """The baseline of the watched release."""
        return self.release.baseline if self.release else None

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot of the state before the watched release."""
        return self.release.snapshot.snapshot_id if self.release and self.release.snapshot else None

    @property
    def blocker(self) -> str:
        """The reason why watch cannot roll back this release; empty when it can."""
        if self.snapshot_id is None:
            return "There is no ready release, so there is no snapshot to roll back to."
        if self.earlier_rollback:
            return f"{self.earlier_rollback}, and watch rolls back at most once."
        if self.release is not None and self.release.first_deployment:
            return (
                f"Release {self.release_id} was the first deployment, so a rollback would remove the state that it "
                "created, and no service would run. A person must decide that."
            )
        return ""


@frozen(kw_only=True)
class Response:
    """The response to a verdict. ``exit_code`` is the exit code of the whole watch."""

    outcome: RollbackOutcome | None = None
    exit_code: ExitCode = ExitCode.NEGATIVE
    diagnostics: list[str] = field(factory=list)


def watch_context(settings: Settings, pipeline: Pipeline, release_id: str | None = None) -> WatchContext:
    """Return the context of a watch that starts now, of the latest ready release or of ``release_id``.

    Raises UsageError for a release that does not exist or was blocked, StageFailed when its manifest is unreadable, or
    does not agree with the audit log or its statement: a rollback would follow it.
    """
    release = pipeline.latest_ready() if release_id is None else pipeline.get_manifest(release_id)
    if release is not None and release.status != "ready":
        raise UsageError(f"Release {release.release_id} is {release.status}, so it has no deploy to watch.")
    if release is not None:
        will_act = settings.release.watch.rollback
        records = Provenance(settings, pipeline)
        if _can_read(pipeline):  # else no evidence can be written to it either, and without it there is no rollback
            records.require_release(release, is_latest=release_id is None, may_lack_records=not will_act)
    # A release that was prepared before the watch started counts, too.
    precondition = evolve(precondition_now(pipeline), release_id=release.release_id if release is not None else None)
    earlier = find_earlier_rollback(pipeline, release) if release is not None else ""
    return WatchContext(release=release, precondition=precondition, earlier_rollback=earlier)


def _can_read(pipeline: Pipeline) -> bool:
    """Return whether the audit log can be read."""
    try:
        pipeline.audit.verify()
    except OSError:
        return False
    return True


def respond(
    settings: Settings,
    pipeline: Pipeline,
    context: WatchContext,
    verdict: WatchVerdict,
    samples: list[Sample],
    stop: Interrupted | None,
    emit: Emit,
    notifications: Notifications,
) -> Response:
    """Respond to a verdict: for ``degraded`` write the evidence, announce it, and roll back if configured.

    Does not roll back when the evidence cannot be written, and does nothing when the signal ``stop`` ended the watch.
    Does not raise.
    """
    if stop is not None:
        return Response(exit_code=stop.exit_code)
    if verdict.status != "degraded":
        return Response(exit_code=ExitCode.DONE if verdict.status == "healthy" else ExitCode.NEGATIVE)
    is_requested = settings.release.watch.rollback
    will_try = is_requested and not context.blocker
    try:
        pipeline.audit.append(
            "watch.degraded",
            status="degraded",
            detail=verdict.reasons[0],
            release_id=context.release_id,
            snapshot_id=context.snapshot_id if will_try else None,
            reasons=verdict.reasons,
            counts=encode(count(samples)),
            baseline=encode(context.baseline) if context.baseline else None,
            samples=[sample.evidence() for sample in samples[-_SAMPLES_IN_EVIDENCE:]],
            rollback=will_try,
        )
        problem = None
    except OSError as error:
        problem = f"The evidence could not be written to the audit log: {describe_error(error)}"
    # Announced before the rollback, which may take minutes.
    will_roll_back = will_try and problem is None
    notifications.announce(
        lambda: about_degraded(
            settings, context.release, verdict.reasons, context.snapshot_id, will_roll_back=will_roll_back
        )
    )
    if problem is not None:
        return Response(diagnostics=[f"{problem} Therefore watch did not roll back." if is_requested else problem])
    if is_requested:
        return _roll_back(settings, pipeline, context, emit)
    suggestion = f"To roll back: {typed('release.rollback', '--snapshot', context.snapshot_id)}"
    return Response(diagnostics=[suggestion] if context.snapshot_id else [])


def _roll_back(settings: Settings, pipeline: Pipeline, context: WatchContext, emit: Emit) -> Response:
    """Restore the state before the watched release, once, unless a blocker exists. Does not raise."""
    manually = f"To roll back manually: {typed('release.rollback', '--snapshot', context.snapshot_id)}"
    if context.blocker:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {context.blocker}", *([manually] if context.snapshot_id else [])])
    request = RollbackRequest(snapshot_id=context.snapshot_id, only_while=context.precondition)
    try:
        outcome = rollback(settings, request, emit, pipeline)
    except LockHeld as error:
        return Response(exit_code=ExitCode.LOCKED, diagnostics=[f"{_NO_ROLLBACK} {error.message}", manually])
    except Interrupted as stop:
        return Response(
            exit_code=stop.exit_code,
            diagnostics=[f"A signal ended the rollback; the live state is consistent. {_check_live()}"],
        )
    except StageError as error:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {error.message}", _check_live()])
    if outcome.status == "failed":
        return Response(outcome=outcome, diagnostics=[_check_live()])
    code = (
        "The state was restored, but not the code. Deploy the code of the previous release if it is not deployed yet."
    )
    notes = [code] if settings.release.restart.command is None else []
    return Response(outcome=outcome, diagnostics=[*notes, f"Check the health: {health_command(settings)}"])


def _check_live() -> str:
    return f"Check what is live: {typed('release.status')}"


def record_finished(
    pipeline: Pipeline,
    context: WatchContext,
    verdict: WatchVerdict,
    samples: list[Sample],
    outcome: RollbackOutcome | None,
) -> list[str]:
    """Write the result of a watch to the audit log; return a message if that fails: the verdict stays the same."""
    try:
        with uninterrupted():
            pipeline.audit.append(
                "watch.finished",
                status=verdict.status,
                detail=verdict.reasons[0],
                release_id=context.release_id,
                counts=encode(count(samples)),
                rollback=outcome.status if outcome else None,
            )
    except OSError as error:
        return [f"The result of this watch could not be written to the audit log: {describe_error(error)}"]
    return []
