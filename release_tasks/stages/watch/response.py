"""What follows from a verdict: the events that account for it, and the one rollback.

The snapshot of a release was taken before it was deployed, so it holds the state of the release before: that is where
a rollback goes. It goes there only while things stand as they did when the watch began, which is looked at again under
the lock; so of two watches, or of a watch and a person, one rolls back.
"""

from __future__ import annotations

import contextlib
from typing import Any

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.codec import encode
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageError
from release_tasks.core.events import Emit
from release_tasks.core.records import Manifest, RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.precondition import Standing, standing_of
from release_tasks.stages.watch.judgement import Counts, Verdict
from release_tasks.stages.watch.samples import Sample

__all__ = ["Ground", "Response", "ground_of", "record_degraded", "record_finished", "roll_back_once"]

_SAMPLES_IN_EVIDENCE = 10
_NO_ROLLBACK = "It was not rolled back:"


@frozen(kw_only=True)
class Ground:
    """What a watch stands on: the newest ready release and how things stood when it began."""

    release: Manifest | None
    standing: Standing
    is_rolled_back: bool

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
    """What was done about a degraded release. ``exit_code`` is that of the whole watch."""

    outcome: RollbackOutcome | None = None
    exit_code: ExitCode = ExitCode.NEGATIVE
    diagnostics: list[str] = field(factory=list)


def ground_of(pipeline: Pipeline) -> Ground:
    """Return what a watch that begins now stands on."""
    release = pipeline.latest_ready()
    standing = standing_of(pipeline)
    return Ground(release=release, standing=standing, is_rolled_back=_is_rolled_back(pipeline, release, standing))


def roll_back_once(settings: Settings, ground: Ground, emit: Emit) -> Response:
    """Restore the state before the watched release, unless anything speaks against it. Nothing is raised."""
    if ground.hindrance:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {ground.hindrance}"])
    request = RollbackRequest(snapshot_id=ground.snapshot_id, only_while=ground.standing)
    by_hand = f"By hand: inv release.rollback --snapshot {ground.snapshot_id}"
    try:
        outcome = rollback(settings, request, emit)
    except LockHeld as error:
        return Response(exit_code=ExitCode.LOCKED, diagnostics=[f"{_NO_ROLLBACK} {error.message}", by_hand])
    except Interrupted as stop:
        told = "A signal ended the rollback; the live state is whole. See what is live: inv release.status"
        return Response(exit_code=stop.exit_code, diagnostics=[told])
    except StageError as error:
        return Response(diagnostics=[f"{_NO_ROLLBACK} {error.message}", "See what is live: inv release.status"])
    return Response(outcome=outcome, diagnostics=_next(settings, outcome))


def record_degraded(
    pipeline: Pipeline, ground: Ground, verdict: Verdict, counts: Counts, samples: list[Sample], is_acted_on: bool
) -> None:
    """Write down why a release is degraded, before anything is done about it; raises OSError."""
    pipeline.audit.append(
        "watch.degraded",
        status="degraded",
        detail=verdict.reasons[0],
        release_id=ground.release.release_id if ground.release else None,
        snapshot_id=ground.snapshot_id if is_acted_on else None,
        reasons=verdict.reasons,
        counts=encode(counts),
        baseline=_baseline(ground),
        samples=[sample.evidence() for sample in samples[-_SAMPLES_IN_EVIDENCE:]],
        rollback=is_acted_on,
    )


def record_finished(
    pipeline: Pipeline, ground: Ground, verdict: Verdict, counts: Counts, outcome: RollbackOutcome | None
) -> None:
    """Write down how a watch ended; raises OSError."""
    pipeline.audit.append(
        "watch.finished",
        status=verdict.status,
        detail=verdict.reasons[0],
        release_id=ground.release.release_id if ground.release else None,
        counts=encode(counts),
        rollback=outcome.status if outcome else None,
    )


def _next(settings: Settings, outcome: RollbackOutcome) -> list[str]:
    if outcome.status == "failed":
        return ["See what is live: inv release.status"]
    told = []
    if settings.release.restart.command is None:
        told.append("State was restored, not code: put the code of the release before back, if that is not done.")
    return [*told, "See that it is well: inv gate.api-health"]


def _is_rolled_back(pipeline: Pipeline, release: Manifest | None, standing: Standing) -> bool:
    """Say whether the snapshot of ``release``, or one made from it, was the last to go live."""
    restored = standing.state.restored_snapshot_id if standing.state else None
    if release is None or release.snapshot is None or restored is None:
        return False
    if restored == release.snapshot.snapshot_id:
        return True
    with contextlib.suppress(StageError, OSError):
        return pipeline.catalogue.get(restored).release_id == release.release_id
    return False


def _baseline(ground: Ground) -> dict[str, Any] | None:
    baseline = ground.release.baseline if ground.release else None
    return encode(baseline) if baseline else None
