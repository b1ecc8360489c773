"""The drill: restore a snapshot into a scratch folder with the code of the rollback, and check the result."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import define, evolve, field

from release_tasks.archive import legacy
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.archive.verify import require_intact
from release_tasks.config.endpoint import Question, RequestConfig
from release_tasks.config.gateway import child_environment
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed, UsageError, describe_error
from release_tasks.core.events import Emit, StepBegan, ignore, shielded, within
from release_tasks.core.process.command import tool_environment
from release_tasks.core.process.python import module_line
from release_tasks.core.records import SnapshotMetadata
from release_tasks.core.redact import Redactor
from release_tasks.core.typed import typed
from release_tasks.service.request import require_request
from release_tasks.stages.drill.boot import Service, boot
from release_tasks.stages.drill.outcome import (
    AssetCheck,
    BootOutcome,
    DatabaseCheck,
    DrillOutcome,
    Inconclusive,
    check_assets,
    check_databases,
    check_plugins,
)
from release_tasks.stages.drill.questions import boot_questions
from release_tasks.stages.drill.scratch import (
    copy_snapshot,
    is_short_of_space,
    require_safe_parent,
    require_space,
    scratch_folder,
)
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.outcome import NOT_ASKED
from release_tasks.stages.stage import require_assets

__all__ = ["run_drill", "service_of"]

_GATEWAY = "the embedded gateway"
_MAX_DETAIL = 2000  # characters of a message in the audit log


def run_drill(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    boot: bool = False,
    scratch: Path | None = None,
    emit: Emit = ignore,
) -> DrillOutcome:
    """Rehearse a rollback to ``snapshot_id``, or to the latest release snapshot; touches nothing live.

    With ``boot``, the service is started on the restored state as configured in ``release.drill``. ``scratch`` is the
    parent of the scratch folder, instead of the pipeline folder. ``status`` of the outcome is ``passed`` or ``failed``.
    Takes no lock of the pipeline, and writes only to drill-audit.log. Raises UsageError for an unknown snapshot, a
    ``scratch`` that does not exist or is inside the live state, and a service that cannot be started; Interrupted after
    a signal. In these cases the scratch folder is removed and no event is written.
    """
    started = time.monotonic()
    pipeline = Pipeline(settings.release.root)
    service = service_of(settings) if boot else None
    parent = pipeline.drills if scratch is None else require_safe_parent(settings, scratch)
    require_assets(settings)
    rehearsal = _Rehearsal(settings, snapshot_id, service, pipeline, shielded(emit))
    is_conclusive = True
    try:
        rehearsal.snapshot = pipeline.catalogue.find(snapshot_id)
        with _inconclusive_if_removed(pipeline.catalogue, rehearsal.snapshot):
            rehearsal.run(parent)
    except (StageFailed, OSError) as error:
        rehearsal.problems.append(describe_error(error))
        is_conclusive = not isinstance(error, (Inconclusive, OSError))
    outcome = rehearsal.outcome(round((time.monotonic() - started) * 1000))
    try:
        _record(pipeline, outcome, rehearsal.snapshot, is_conclusive)
    except OSError as error:
        message = (
            f"{describe_error(error)} The result was not recorded, so the snapshot does not count as restore-tested."
        )
        return evolve(outcome, status="failed", diagnostics=[message, *outcome.diagnostics])
    return outcome


@define
class _Rehearsal:
    """One drill and its findings so far. ``run`` has the steps of the drill in order."""

    settings: Settings
    requested_id: str | None
    service: Service | None
    pipeline: Pipeline
    emit: Emit
    snapshot: SnapshotMetadata | None = None
    assets: list[AssetCheck] = field(factory=list)
    databases: list[DatabaseCheck] = field(factory=list)
    boot: BootOutcome | None = None
    problems: list[str] = field(factory=list)
    notes: list[str] = field(factory=list)

    def run(self, parent: Path) -> None:
        """Verify, copy, restore, compare, restore again and boot in a temporary folder. Raises StageFailed, OSError."""
        assert self.snapshot is not None
        snapshot_id = self.snapshot.snapshot_id
        with scratch_folder(self.settings.project, parent) as scratch:
            self.emit(StepBegan("verify", snapshot_id))
            self.require_restorable(self.snapshot)
            source = self.pipeline.catalogue
            require_space(scratch.folder, source.path(snapshot_id), self.snapshot)
            self.emit(StepBegan("copy"))
            settings = scratch.settings(self.settings)
            copy_snapshot(source, Pipeline(settings.release.root).catalogue, self.snapshot, self.emit)
            self.restore(settings, self.snapshot)
            self.examine(settings, self.snapshot)
            if not self.problems:
                self.repeat(settings, self.snapshot)
            if self.service is not None and not self.problems:
                self.emit(StepBegan("boot", self.service.shown))
                self.notes += self.service.notes
                live = [asset.path for asset in self.settings.release.assets.values()]
                self.boot = boot(
                    self.service, scratch, settings, live, self.emit, self.pipeline.baseline_of(self.snapshot)
                )
                if not self.boot.passed:
                    self.problems.append(
                        f"The service, started with {self.service.shown!r}, failed: {self.boot.detail}."
                    )

    def require_restorable(self, snapshot: SnapshotMetadata) -> None:
        """Raise StageFailed for a snapshot that a rollback would refuse, before anything is copied."""
        if legacy.is_legacy(snapshot):
            raise StageFailed(
                f"Snapshot {snapshot.snapshot_id} was taken by an older tool and has no digests, so it cannot be "
                "test-restored."
            )
        remains = [
            record.key for record in snapshot.assets if record.damaged and record.key in self.settings.release.assets
        ]
        if remains:
            raise StageFailed(
                f"Snapshot {snapshot.snapshot_id} contains only remains of {', '.join(remains)}, which was damaged."
            )
        require_intact(self.pipeline.catalogue, snapshot, self.emit)
        provenance = Provenance(self.settings, self.pipeline)
        command = typed("release.rollback", "--snapshot", snapshot.snapshot_id, "--unverified")
        provenance.require(snapshot, requested=self.requested_id, command=command)
        if self.requested_id is None:
            provenance.require_latest(snapshot)
        if not any(snapshot.asset(key) for key in self.settings.release.assets):
            raise StageFailed(f"Snapshot {snapshot.snapshot_id} contains no asset of release.assets.")

    def restore(self, settings: Settings, snapshot: SnapshotMetadata) -> None:
        """Roll back in the scratch folder, which has no assets yet."""
        request = RollbackRequest(snapshot_id=snapshot.snapshot_id)
        outcome = rollback(settings, request, within("rollback", self.emit))
        if outcome.status != "restored":
            failure = Inconclusive if is_short_of_space(settings.project, snapshot) else StageFailed
            raise failure(f"The test restore failed: {' '.join(outcome.diagnostics)}")
        self.notes += [line for line in outcome.diagnostics if line != NOT_ASKED]  # the boot asks

    def examine(self, settings: Settings, snapshot: SnapshotMetadata) -> None:
        """Compare the restored assets with the metadata, and check every database."""
        self.emit(StepBegan("compare"))
        self.assets = check_assets(snapshot, settings.release.assets)
        self.problems += [f"{check.key}: {check.detail}." for check in self.assets if check.status == "failed"]
        self.emit(StepBegan("integrity_check"))
        self.databases = check_databases(snapshot, settings.release.assets)
        self.problems += [f"{check.key}: {check.integrity}" for check in self.databases if check.has_failed]
        self.notes += [f"{check.key}: {check.integrity}" for check in self.databases if check.is_unchecked]
        for key, examined in check_plugins(snapshot, settings.release.assets).items():
            self.problems += [f"{key}: {problem}." for problem in examined.problems]
            if examined.unchecked is not None and not examined.problems:
                self.notes.append(f"{key} was restored as recorded, and not checked further: {examined.unchecked}.")

    def repeat(self, settings: Settings, snapshot: SnapshotMetadata) -> None:
        """Roll back a second time, which must be a ``noop``; it compares copies of the databases."""
        outcome = rollback(settings, RollbackRequest(snapshot_id=snapshot.snapshot_id))
        if outcome.status == "failed" and is_short_of_space(settings.project, snapshot):
            raise Inconclusive(f"The second rollback failed: {' '.join(outcome.diagnostics)}")
        if outcome.status != "noop":
            details = " ".join(outcome.diagnostics)
            self.problems.append(f"A second rollback must be a noop, but it was {outcome.status}. {details}".strip())

    def outcome(self, duration_ms: int) -> DrillOutcome:
        """Return the verdict."""
        return DrillOutcome(
            status="failed" if self.problems else "passed",
            snapshot_id=self.snapshot.snapshot_id if self.snapshot else self.requested_id,
            digest=(self.snapshot.digest or None) if self.snapshot else None,
            assets=self.assets,
            databases=self.databases,
            boot=self.boot,
            duration_ms=duration_ms,
            diagnostics=self.problems + self.notes,
        )


@contextlib.contextmanager
def _inconclusive_if_removed(catalogue: Catalogue, snapshot: SnapshotMetadata) -> Iterator[None]:
    """Raise Inconclusive if the snapshot was removed during the block, whether the block succeeded or failed."""
    removed = Inconclusive(
        f"Snapshot {snapshot.snapshot_id} was removed during the drill, for instance by retention. "
        f"The drill has no result. Drill another snapshot: {typed('release.drill', '--snapshot', 'ID')}"
    )
    try:
        yield
    except (StageFailed, OSError) as error:
        if _is_gone(catalogue, snapshot):
            raise removed from error
        raise
    if _is_gone(catalogue, snapshot):
        raise removed


def _is_gone(catalogue: Catalogue, snapshot: SnapshotMetadata) -> bool:
    try:
        return catalogue.get(snapshot.snapshot_id).checksum != snapshot.checksum
    except UsageError:
        return True
    except StageFailed:  # it exists, but was altered
        return False


def _record(pipeline: Pipeline, outcome: DrillOutcome, snapshot: SnapshotMetadata | None, is_conclusive: bool) -> None:
    """Write one event to drill-audit.log; raises OSError."""
    pipeline.drill_audit.append(
        f"drill.{outcome.status}",
        status=outcome.status,
        detail=excerpt_line(outcome.diagnostics[0], _MAX_DETAIL) if outcome.status == "failed" else "restorable",
        release_id=snapshot.release_id if snapshot else None,
        snapshot_id=outcome.snapshot_id,
        digest=outcome.digest,
        conclusive=is_conclusive,
        checks={check.key: check.status for check in outcome.assets},
        integrity={check.key: excerpt_line(check.integrity) for check in outcome.databases},
        booted=outcome.boot.passed if outcome.boot else None,
        boot=excerpt_line(outcome.boot.detail, _MAX_DETAIL) if outcome.boot else None,
        durationMs=outcome.duration_ms,
    )


def service_of(settings: Settings) -> Service:
    """Return the service that ``--boot`` starts: the configured command, or the gateway if its database is an asset."""
    config = settings.release.drill
    require_request("release.health", settings.release.health)
    if config.command is not None:
        line = ["/bin/sh", "-c", config.command]
        questions, notes = boot_questions(settings.release)
        return Service(
            shown=Redactor.of_process().redact_text(config.command),
            arguments=lambda _, port: line,
            questions=questions,
            notes=notes,
            timeout=config.timeout,
            environment=tool_environment(),
        )
    if not any(asset.path == settings.gateway.database for asset in settings.release.assets.values()):
        raise UsageError(
            "--boot: no command is configured to start the service on restored state. Set release.drill.command (and "
            "release.drill.health), or omit --boot."
        )
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError("--boot: the embedded gateway needs the extra: pip install 'release-tasks[gateway]'")
    return Service(
        shown=_GATEWAY,
        arguments=_gateway_line,
        questions=[Question(url="http://127.0.0.1:{port}/health", request=RequestConfig(), expect=None)],
        timeout=config.timeout,
        environment=child_environment(),
    )


def _gateway_line(scratch: Settings, port: int) -> list[str]:
    line = module_line("release_tasks.gateway", "--root", str(scratch.gateway.root), "--port", str(port))
    # --rehearsal sends nothing: the live service has sent the queued messages of the snapshot, or will send them.
    return [*line, "--credentials", str(scratch.pairing.credentials), "--rehearsal"]
