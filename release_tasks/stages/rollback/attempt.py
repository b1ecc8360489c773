"""The context of a rollback: the lock, the recovery before it, and the audit record of an early end."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.retention import apply_retention
from release_tasks.assets.base import AssetConfig
from release_tasks.config.schema import Settings
from release_tasks.core.clock import awake, compact, timestamp
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
from release_tasks.core.records import RollbackOutcome, RollbackState, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.stages.first_deployment import notes_on_rollback_to_first
from release_tasks.stages.rollback.hooks import ServiceHooks
from release_tasks.stages.rollback.plan import notes_on_verdict
from release_tasks.stages.rollback.recorder import Recorder, record_refusal
from release_tasks.stages.rollback.recovery import recover_locked
from release_tasks.stages.rollback.start_gate import StartGate, closed_gate

__all__ = [
    "NOT_RESTARTED",
    "Precondition",
    "RollbackAttempt",
    "RollbackEnded",
    "RollbackRequest",
    "Superseded",
    "after_retention",
    "attempt",
    "precondition_now",
]

NOT_RESTARTED = "Restart and health were not reached: restart the service and check its health."


class Superseded(StageError):
    """A release was prepared, or a rollback ran, since the decision to roll back (exit 1); nothing live was changed."""


@frozen(kw_only=True)
class Precondition:
    """The latest ready release, the lineage and the rollback state at the decision to roll back."""

    release_id: str | None
    lineage: str
    state: RollbackState | None


def precondition_now(pipeline: Pipeline) -> Precondition:
    """Return the current precondition, for a rollback that is decided on before it holds the lock."""
    latest = pipeline.latest_ready()
    return Precondition(
        release_id=latest.release_id if latest else None, lineage=pipeline.lineage(), state=pipeline.known_state()
    )


@frozen(kw_only=True)
class RollbackRequest:
    """The arguments of a rollback. ``wait`` is the time in seconds to wait for the lock.

    ``only_while`` refuses the request when a release was prepared or a rollback ran since that precondition;
    ``release_id`` refuses it when another release than this one is the latest. ``unverified`` restores a snapshot
    whose records are incomplete.
    """

    snapshot_id: str | None = None
    force: bool = False
    wait: float = 0.0
    without_safety: bool = False
    unverified: bool = False
    only_while: Precondition | None = None
    release_id: str | None = None

    @property
    def command(self) -> str:
        """The command that repeats the request."""
        flags = [
            ("--force", self.force),
            ("--without-safety", self.without_safety),
            ("--unverified", self.unverified),
        ]
        words = ["--snapshot", self.snapshot_id] if self.snapshot_id is not None else []
        return typed("release.rollback", *words, *(flag for flag, is_given in flags if is_given))

    @property
    def longer_wait(self) -> str:
        """The advice after a lock of a database that another process held too long."""
        return f"Nothing live was changed. To wait longer: {self.command} --lock-wait 2m"

    @property
    def is_automatic(self) -> bool:
        """Whether a watch requests the rollback, after it decided on it without the lock."""
        return self.only_while is not None


class RollbackEnded(Exception):
    """The attempt ended before its last step; ``outcome`` is the result.

    The attempt was recorded, unless the audit log could not be written.
    """

    def __init__(self, outcome: RollbackOutcome) -> None:
        super().__init__(outcome.status)
        self.outcome = outcome


@frozen(kw_only=True)
class RollbackAttempt:
    """The data that every step of a rollback uses. ``lineage`` identifies the latest release at its start.

    ``started`` is the start in seconds of the awake clock. ``closed_parents`` are the folders above assets that their
    owner could not use, with their modes; ``created_parents`` are those that this attempt created. ``record_notes`` say
    which records of the snapshot are missing.
    """

    settings: Settings
    request: RollbackRequest
    pipeline: Pipeline
    emit: Emit
    started_at: str
    lineage: str
    rollback_id: str
    gate: StartGate
    hooks: ServiceHooks
    closed_parents: dict[Path, int]
    created_parents: list[Path] = field(factory=list)
    record_notes: list[str] = field(factory=list)
    started: float = field(factory=awake.now)

    @property
    def assets(self) -> Mapping[str, AssetConfig]:
        """The configured assets."""
        return self.settings.release.assets

    @property
    def parents(self) -> Parents:
        """The folders above the assets."""
        return Parents(self.settings.project, self.assets)

    def notes_on(self, target: SnapshotMetadata, *, has_changes: bool) -> list[str]:
        """Return notes on ``target``: an equal one was typed, it is before the first deployment, an earlier is good."""
        notes = self.record_notes + self.pipeline.catalogue.note_on(self.request.snapshot_id, target)
        notes += notes_on_rollback_to_first(self.settings, self.pipeline, target)
        return notes + notes_on_verdict(self.pipeline, target, has_changes=has_changes)

    @property
    def recorder(self) -> Recorder:
        """The recorder for the audit events and the state of this attempt."""
        return Recorder(
            pipeline=self.pipeline, rollback_id=self.rollback_id, lineage=self.lineage, started=self.started
        )


@contextlib.contextmanager
def attempt(settings: Settings, pipeline: Pipeline, request: RollbackRequest, emit: Emit) -> Iterator[RollbackAttempt]:
    """Hold the lock and recover an interrupted rollback for a block that restores; every attempt is recorded.

    Raises RollbackEnded with the outcome of a failed attempt. UsageError, LockHeld, Superseded and Interrupted are
    recorded as refusals and re-raised.
    """
    started_at, emit = timestamp(), shielded(emit)
    rollback_id = f"{compact()}-{secrets.token_hex(3)}"
    has_lock = is_finished = False
    root = pipeline.root
    try:
        with (
            with_path(root / "lock"),
            run_lock(root, "release.rollback", request.wait, emit) as lock,
            closed_gate(root, lock, rollback_id) as gate,
        ):
            has_lock = True
            try:
                emit(StepBegan("recover"))
                recover_locked(settings, pipeline, emit, unverified=request.unverified)
                _require_unchanged(pipeline, request.only_while)
                _require_latest(settings, pipeline, request)
                with Parents(settings.project, settings.release.assets).made_accessible() as closed_parents:
                    yield RollbackAttempt(
                        settings=settings,
                        request=request,
                        pipeline=pipeline,
                        emit=emit,
                        started_at=started_at,
                        lineage=pipeline.lineage(),
                        rollback_id=rollback_id,
                        gate=gate,
                        hooks=ServiceHooks(settings, pipeline.logs / rollback_id, emit),
                        closed_parents=closed_parents,
                    )
                is_finished = True
            except (StageFailed, OSError) as error:
                outcome = _failed(pipeline, request, started_at, error)
                record_refusal(pipeline, request.snapshot_id, "failed", describe_error(error))
                raise RollbackEnded(after_retention(settings, pipeline, outcome)) from error
            except (UsageError, LockHeld, Superseded, Interrupted) as error:
                record_refusal(pipeline, request.snapshot_id, "refused", str(error))
                raise
    except OSError as error:
        # The lock could not be acquired, or not be released after the rollback.
        if not is_finished:
            outcome = _failed(pipeline, request, started_at, error)
            _record_without_lock(pipeline, request, "failed", describe_error(error))
            raise RollbackEnded(outcome) from error
    except (LockHeld, Interrupted) as error:
        if not has_lock:
            _record_without_lock(pipeline, request, "refused", str(error))
        raise


def after_retention(settings: Settings, pipeline: Pipeline, outcome: RollbackOutcome) -> RollbackOutcome:
    """Apply retention, and return the outcome with what it removed."""
    found = apply_retention(pipeline, settings.release.retention)
    return evolve(outcome, removed_snapshots=found.removed, diagnostics=outcome.diagnostics + found.notes)


def _require_unchanged(pipeline: Pipeline, before: Precondition | None) -> None:
    """Raise Superseded if a release was prepared or a rollback ran since ``before``."""
    if before is None:
        return
    now = precondition_now(pipeline)
    if now.release_id != before.release_id or pipeline.was_prepared_since(before.lineage):
        raise Superseded(f"Release {now.release_id} was prepared meanwhile, so this rollback was cancelled.")
    if now.state != before.state:
        last = f" ({now.state.status}, snapshot {now.state.snapshot_id})" if now.state else ""
        raise Superseded(f"Another rollback ran meanwhile{last}, so this rollback was cancelled.")


def _require_latest(settings: Settings, pipeline: Pipeline, request: RollbackRequest) -> None:
    """Raise Superseded if another release than that of the request is the latest: the rollback would undo it, too."""
    if request.release_id is None:
        return
    recorded = Provenance(settings, pipeline).latest_release
    newer = pipeline.newer_than(request.release_id)
    if not newer and recorded is not None and recorded[0] != request.release_id:
        newer = recorded[0]
    if newer:
        raise Superseded(
            f"Release {newer} was prepared meanwhile, so the rollback of {request.release_id} was cancelled. "
            f"To undo both: {typed('release.rollback', '--snapshot', request.snapshot_id)}"
        )


def _record_without_lock(pipeline: Pipeline, request: RollbackRequest, status: str, detail: str) -> None:
    """Write to the audit log only: without the lock, the state belongs to the other command."""
    with contextlib.suppress(OSError):
        pipeline.audit.append("rollback.refused", status=status, detail=detail, requestedSnapshot=request.snapshot_id)


def _failed(
    pipeline: Pipeline, request: RollbackRequest, started_at: str, error: StageFailed | OSError
) -> RollbackOutcome:
    diagnostics = [describe_error(error)]
    state = pipeline.known_state()
    if state is not None and state.status == "in_progress" and state.restored:
        diagnostics.append(f"Snapshot {state.snapshot_id} is live. {NOT_RESTARTED}")
    return RollbackOutcome(
        status="failed",
        snapshot_id=request.snapshot_id,
        started_at=started_at,
        completed_at=timestamp(),
        diagnostics=diagnostics,
    )
