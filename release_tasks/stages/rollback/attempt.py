"""One attempt at a rollback: the lock around it, what is recovered before it, and the record of how it ended early."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig
from release_tasks.config.schema import Settings
from release_tasks.core.clock import compact, timestamp
from release_tasks.core.errors import (
    Interrupted,
    LockHeld,
    StageError,
    StageFailed,
    UsageError,
    describe_error,
    with_path,
)
from release_tasks.core.events import Emit, StepBegan, shielded
from release_tasks.core.lock import run_lock
from release_tasks.core.records import RollbackOutcome, RollbackState
from release_tasks.stages.rollback.recorder import Recorder, record_refusal
from release_tasks.stages.rollback.recovery import recover_locked

__all__ = [
    "GO_ON",
    "Overtaken",
    "Precondition",
    "RollbackAttempt",
    "RollbackEnded",
    "RollbackRequest",
    "apply_retention",
    "attempt",
    "precondition_now",
]

GO_ON = "Restart and health were not reached: restart the service and see that it is well."


class Overtaken(StageError):
    """Something was prepared or restored since a rollback was decided on (exit 1); nothing live was touched."""


@frozen(kw_only=True)
class Precondition:
    """The newest ready release, the sequences of releases and the rollback state, when a rollback was decided on."""

    release_id: str | None
    lineage: str
    state: RollbackState | None


def precondition_now(pipeline: Pipeline) -> Precondition:
    """Return what holds now, for a rollback that may be decided on before it has the lock."""
    latest = pipeline.latest_ready()
    return Precondition(
        release_id=latest.release_id if latest else None, lineage=pipeline.lineage(), state=pipeline.known_state()
    )


@frozen(kw_only=True)
class RollbackRequest:
    """What was typed. ``wait`` is how many seconds to wait for another run's lock.

    ``only_while`` makes the request void once anything was prepared or restored since.
    """

    snapshot_id: str | None = None
    force: bool = False
    wait: float = 0.0
    only_while: Precondition | None = None


class RollbackEnded(Exception):
    """The attempt ended before its last step, and that is on record; ``outcome`` says how."""

    def __init__(self, outcome: RollbackOutcome) -> None:
        super().__init__(outcome.status)
        self.outcome = outcome


@frozen(kw_only=True)
class RollbackAttempt:
    """What every step of a rollback works with. ``lineage`` is how far releases had come when it began."""

    settings: Settings
    request: RollbackRequest
    pipeline: Pipeline
    emit: Emit
    started_at: str
    lineage: str
    rollback_id: str = field(factory=lambda: f"{compact()}-{secrets.token_hex(3)}")

    @property
    def assets(self) -> Mapping[str, AssetConfig]:
        """The configured assets."""
        return self.settings.release.assets

    @property
    def recorder(self) -> Recorder:
        """What writes the audit events and the state of this attempt."""
        return Recorder(pipeline=self.pipeline, rollback_id=self.rollback_id, lineage=self.lineage)


@contextlib.contextmanager
def attempt(settings: Settings, pipeline: Pipeline, request: RollbackRequest, emit: Emit) -> Iterator[RollbackAttempt]:
    """Hold the lock, finish what an interrupted run left, and let the block restore; every attempt is recorded.

    Raises RollbackEnded for one that failed, with its outcome. UsageError, LockHeld, Overtaken and Interrupted are
    recorded as refusals and re-raised.
    """
    started_at, emit = timestamp(), shielded(emit)
    has_lock = is_over = False
    try:
        with with_path(pipeline.root / "lock"), run_lock(pipeline.root, "release.rollback", request.wait):
            has_lock = True
            try:
                emit(StepBegan("recover"))
                recover_locked(settings, pipeline, emit)
                _require_unchanged(pipeline, request.only_while)
                yield RollbackAttempt(
                    settings=settings,
                    request=request,
                    pipeline=pipeline,
                    emit=emit,
                    started_at=started_at,
                    lineage=pipeline.lineage(),
                )
                is_over = True
            except (StageFailed, OSError) as error:
                outcome = _failed(pipeline, request, started_at, error)
                record_refusal(pipeline, request.snapshot_id, "failed", describe_error(error))
                apply_retention(settings, pipeline)
                raise RollbackEnded(outcome) from error
            except (UsageError, LockHeld, Overtaken, Interrupted) as error:
                record_refusal(pipeline, request.snapshot_id, "refused", str(error))
                raise
    except OSError as error:
        # The lock itself: it cannot be taken, or not be given back once all is done.
        if not is_over:
            outcome = _failed(pipeline, request, started_at, error)
            _record_without_lock(pipeline, request, "failed", describe_error(error))
            raise RollbackEnded(outcome) from error
    except (LockHeld, Interrupted) as error:
        if not has_lock:
            _record_without_lock(pipeline, request, "refused", str(error))
        raise


def _require_unchanged(pipeline: Pipeline, before: Precondition | None) -> None:
    """Raise Overtaken where something was prepared or restored since ``before``."""
    if before is None:
        return
    now = precondition_now(pipeline)
    if now.release_id != before.release_id or pipeline.was_prepared_since(before.lineage):
        raise Overtaken(f"Release {now.release_id} was prepared meanwhile, so this rollback was given up.")
    if now.state != before.state:
        last = f" ({now.state.status}, snapshot {now.state.snapshot_id})" if now.state else ""
        raise Overtaken(f"Another rollback was at work meanwhile{last}, so this one was given up.")


def _record_without_lock(pipeline: Pipeline, request: RollbackRequest, status: str, detail: str) -> None:
    """Write into the audit log alone: the state is the other run's to write."""
    with contextlib.suppress(OSError):
        pipeline.audit.append("rollback.refused", status=status, detail=detail, requestedSnapshot=request.snapshot_id)


def _failed(
    pipeline: Pipeline, request: RollbackRequest, started_at: str, error: StageFailed | OSError
) -> RollbackOutcome:
    sentences = [describe_error(error)]
    state = pipeline.known_state()
    if state is not None and state.status == "in_progress" and state.restored:
        sentences.append(f"Snapshot {state.snapshot_id} is live. {GO_ON}")
    return RollbackOutcome(
        status="failed",
        snapshot_id=request.snapshot_id,
        started_at=started_at,
        completed_at=timestamp(),
        diagnostics=sentences,
    )


def apply_retention(settings: Settings, pipeline: Pipeline) -> None:
    """Remove the snapshots that are not kept; what cannot be removed now is removed another time."""
    with contextlib.suppress(OSError):
        pipeline.catalogue.retain(settings.release.retention, pipeline.protected_snapshots())
