"""What follows from a verdict: the events that account for it, and the one rollback.

The snapshot of a release was taken before it was deployed, so it holds the state of the release before: that is where
a rollback goes. It goes there only while things stand as they did when the watch began, which is looked at again under
the lock; so of two watches, or of a watch and a person, one rolls back.
"""

from __future__ import annotations

import contextlib

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.codec import encode
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageError, describe_error
from release_tasks.core.events import Emit
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.records import Baseline, Manifest, RollbackOutcome
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_degraded
from release_tasks.stages.rollback.attempt import Precondition, precondition_now
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.watch.judgement import WatchVerdict, count
from release_tasks.stages.watch.samples import Sample

__all__ = ["Ground", "Response", "ground_of", "record_finished", "respond"]

_SAMPLES_IN_EVIDENCE = 10
_NO_ROLLBACK = "It was not rolled back:"
_SEE = "See what is live: inv release.status"


@frozen(kw_only=True)
class Ground:
    """What a watch stands on: the newest ready release and how things stood when it began."""

    release: Manifest | None
    standing: Precondition
    is_rolled_back: bool

    @property
    def release_id(self) -> str | None:
        """The watched release."""
        return self.release.release_id if self.release else None

    @property
    def baseline(self) -> Baseline | None:
        """How the service was when the release was prepared."""
        return self.release.baseline if self.release else None

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot of the state before the watched release."""
        return self.release.snapshot.snapshot_id if self.release and self.release.snapshot else None

    @property
    def hindrance(self) -> str:
        """Why this release could not be rolled back by a watch, known before it begins; empty when it could be."""
        if self.snapshot_id is None:
            return "There is no ready release here, so there is no snapshot to go back to."
        if self.is_rolled_back:
            return f"{self.snapshot_id} was restored already, and a watch never goes back twice."
        return ""


@frozen(kw_only=True)
class Response:
    """What followed from a verdict. ``exit_code`` is that of the whole watch."""

    outcome: RollbackOutcome | None = None
    exit_code: ExitCode = ExitCode.NEGATIVE
    diagnostics: list[str] = field(factory=list)


def ground_of(pipeline: Pipeline) -> Ground:
    """Return what a watch that begins now stands on."""
    release = pipeline.latest_ready()
    standing = precondition_now(pipeline)
    return Ground(release=release, standing=standing, is_rolled_back=_is_rolled_back(pipeline, release, standing))


def respond(
    settings: Settings,
    pipeline: Pipeline,
    ground: Ground,
    verdict: WatchVerdict,
    samples: list[Sample],
    stop: Interrupted | None,
    emit: Emit,
    sending: Notifications,
) -> Response:
    """Answer a verdict: for ``degraded`` write the evidence down, announce it, and roll back if that is wanted.

    Without the evidence there is no rollback. A watch that a signal ``stop`` has ended does nothing more. Nothing is
    raised.
    """
    if stop is not None:
        return Response(exit_code=stop.exit_code)
    if verdict.status != "degraded":
        return Response(exit_code=ExitCode.DONE if verdict.status == "healthy" else ExitCode.NEGATIVE)
    is_wanted = settings.release.watch.rollback
    is_acted_on = is_wanted and not ground.hindrance
    try:
        pipeline.audit.append(
            "watch.degraded",
            status="degraded",
            detail=verdict.reasons[0],
            release_id=ground.release_id,
            snapshot_id=ground.snapshot_id if is_acted_on else None,
            reasons=verdict.reasons,
            counts=encode(count(samples)),
            baseline=encode(ground.baseline) if ground.baseline else None,
            samples=[sample.evidence() for sample in samples[-_SAMPLES_IN_EVIDENCE:]],
            rollback=is_acted_on,
        )
        problem = None
    except OSError as error:
        problem = f"The evidence could not be written down: {describe_error(error)}"
    # Sending begins before the rollback, so that people do not learn of it only minutes later.
    is_rolled_back = is_acted_on and problem is None
    sending.announce(
        lambda: about_degraded(
            settings, ground.release, verdict.reasons, ground.snapshot_id, is_rolled_back=is_rolled_back
        )
    )
    if problem is not None:
        return Response(diagnostics=[f"{problem} Therefore it was not rolled back." if is_wanted else problem])
    if is_wanted:
        return _roll_back(settings, pipeline, ground, emit)
    back = f"To go back: inv release.rollback --snapshot {ground.snapshot_id}"
    return Response(diagnostics=[back] if ground.snapshot_id else [])


def _roll_back(settings: Settings, pipeline: Pipeline, ground: Ground, emit: Emit) -> Response:
    """Restore the state before the watched release, once, unless anything speaks against it. Nothing is raised."""
    if ground.hindrance:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {ground.hindrance}"])
    request = RollbackRequest(snapshot_id=ground.snapshot_id, only_while=ground.standing)
    by_hand = f"By hand: inv release.rollback --snapshot {ground.snapshot_id}"
    try:
        outcome = rollback(settings, request, emit, pipeline)
    except LockHeld as error:
        return Response(exit_code=ExitCode.LOCKED, diagnostics=[f"{_NO_ROLLBACK} {error.message}", by_hand])
    except Interrupted as stop:
        return Response(
            exit_code=stop.exit_code, diagnostics=[f"A signal ended the rollback; the live state is whole. {_SEE}"]
        )
    except StageError as error:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {error.message}", _SEE])
    if outcome.status == "failed":
        return Response(outcome=outcome, diagnostics=[_SEE])
    told = "State was restored, not code: put the code of the release before back, if that is not done."
    restarted = [told] if settings.release.restart.command is None else []
    return Response(outcome=outcome, diagnostics=[*restarted, "See that it is well: inv gate.api-health"])


def record_finished(
    pipeline: Pipeline, ground: Ground, verdict: WatchVerdict, samples: list[Sample], outcome: RollbackOutcome | None
) -> list[str]:
    """Write down how a watch ended; returns a sentence if that is not possible: the verdict stands all the same."""
    try:
        with uninterrupted():
            pipeline.audit.append(
                "watch.finished",
                status=verdict.status,
                detail=verdict.reasons[0],
                release_id=ground.release_id,
                counts=encode(count(samples)),
                rollback=outcome.status if outcome else None,
            )
    except OSError as error:
        return [f"The end of this watch could not be written down: {describe_error(error)}"]
    return []


def _is_rolled_back(pipeline: Pipeline, release: Manifest | None, standing: Precondition) -> bool:
    """Say whether the snapshot of ``release``, or one made from it, was the last to go live."""
    restored = standing.state.restored_snapshot_id if standing.state else None
    if release is None or release.snapshot is None or restored is None:
        return False
    if restored == release.snapshot.snapshot_id:
        return True
    with contextlib.suppress(StageError, OSError):
        return pipeline.catalogue.get(restored).release_id == release.release_id
    return False
