"""The drill itself: a snapshot is restored by the code of the rollback, into a scratch folder, and looked at there."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import define, evolve, field

from release_tasks.archive import legacy
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.config.gateway import child_environment
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageFailed, UsageError, describe_error
from release_tasks.core.events import Emit, StepBegan, ignore, shielded, within
from release_tasks.core.process.command import tool_environment
from release_tasks.core.records import SnapshotMetadata
from release_tasks.stages.drill.boot import Service, boot
from release_tasks.stages.drill.outcome import (
    AssetCheck,
    BootOutcome,
    DatabaseCheck,
    DrillOutcome,
    NotProved,
    check_assets,
    check_databases,
    check_plugins,
)
from release_tasks.stages.drill.scratch import (
    copy_snapshot,
    is_short_of_room,
    require_room,
    require_safe_parent,
    scratch_folder,
)
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.stage import require_assets

__all__ = ["run_drill", "service_of"]

_GATEWAY = "the embedded gateway"
_MOST_DETAIL = 2000  # characters of a sentence that go into the log


def run_drill(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    boot: bool = False,
    scratch: Path | None = None,
    emit: Emit = ignore,
) -> DrillOutcome:
    """Rehearse a rollback, to the newest release snapshot unless one is named, with nothing live touched.

    With ``boot`` the service is started on what was restored, as ``release.drill`` says. The scratch folder is made in
    ``scratch`` instead of the pipeline folder. ``status`` of the outcome is ``passed`` or ``failed``. Takes no lock of
    the pipeline, and writes to drill-audit.log alone. Raises UsageError for a snapshot that does not exist, a folder
    that is part of the state, and a service that cannot be started, Interrupted after a signal; nothing is left then,
    and no event is written.
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
        with _still_there(pipeline.catalogue, rehearsal.snapshot):
            rehearsal.run(parent)
    except (StageFailed, OSError) as error:
        rehearsal.problems.append(describe_error(error))
        is_conclusive = not isinstance(error, (NotProved, OSError))
    outcome = rehearsal.outcome(round((time.monotonic() - started) * 1000))
    try:
        _write_down(pipeline, outcome, rehearsal.snapshot, is_conclusive)
    except OSError as error:
        told = f"{describe_error(error)} What the drill found could not be written down, so nothing is proved."
        return evolve(outcome, status="failed", diagnostics=[told, *outcome.diagnostics])
    return outcome


@define
class _Rehearsal:
    """One drill at work: what it found so far. ``run`` reads like the rollback that it rehearses."""

    settings: Settings
    wanted_id: str | None
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
        """Verify, copy, restore, compare, restore again, boot. Raises StageFailed or OSError; nothing is left."""
        assert self.snapshot is not None
        snapshot_id = self.snapshot.snapshot_id
        with scratch_folder(self.settings.project, parent) as scratch:
            self.emit(StepBegan("verify", snapshot_id))
            self.require_whole(self.snapshot)
            source = self.pipeline.catalogue
            require_room(scratch.folder, source.path(snapshot_id), self.snapshot)
            self.emit(StepBegan("copy"))
            settings = scratch.settings(self.settings)
            copy_snapshot(source, Pipeline(settings.release.root).catalogue, snapshot_id, self.emit)
            self.restore(settings, self.snapshot)
            self.look(settings, self.snapshot)
            if not self.problems:
                self.repeat(settings, snapshot_id)
            if self.service is not None and not self.problems:
                self.emit(StepBegan("boot", self.service.shown))
                live = [asset.path for asset in self.settings.release.assets.values()]
                self.boot = boot(self.service, scratch, settings, live, self.emit)
                if not self.boot.passed:
                    self.problems.append(f"The service, started with {self.service.shown!r}: {self.boot.detail}.")

    def require_whole(self, snapshot: SnapshotMetadata) -> None:
        """Refuse what a rollback would refuse, before anything is copied."""
        if legacy.is_legacy(snapshot):
            raise StageFailed(
                f"Snapshot {snapshot.snapshot_id} was taken by an older tool and has no digests, so nothing can be "
                "proved of it."
            )
        remains = [
            record.key for record in snapshot.assets if record.damaged and record.key in self.settings.release.assets
        ]
        if remains:
            raise StageFailed(
                f"Snapshot {snapshot.snapshot_id} holds only remains of {', '.join(remains)}, which was damaged then."
            )
        require_intact(self.pipeline.catalogue, snapshot, self.emit)
        if not any(snapshot.asset(key) for key in self.settings.release.assets):
            raise StageFailed(f"Snapshot {snapshot.snapshot_id} holds none of the assets in release.assets.")

    def restore(self, settings: Settings, snapshot: SnapshotMetadata) -> None:
        """Roll back, in the scratch folder, to where nothing is yet."""
        request = RollbackRequest(snapshot_id=snapshot.snapshot_id)
        outcome = rollback(settings, request, within("rollback", self.emit))
        if outcome.status != "restored":
            trouble = NotProved if is_short_of_room(settings.project, snapshot) else StageFailed
            raise trouble(f"It could not be restored: {' '.join(outcome.diagnostics)}")
        self.notes += outcome.diagnostics

    def look(self, settings: Settings, snapshot: SnapshotMetadata) -> None:
        """Compare what was restored with the metadata, and examine every database."""
        self.emit(StepBegan("compare"))
        self.assets = check_assets(snapshot, settings.release.assets)
        self.problems += [f"{check.key}: {check.detail}." for check in self.assets if check.status == "failed"]
        self.emit(StepBegan("integrity_check"))
        self.databases = check_databases(snapshot, settings.release.assets)
        self.problems += [f"{check.key}: {check.integrity}" for check in self.databases if check.integrity != "ok"]
        for key, examined in check_plugins(snapshot, settings.release.assets).items():
            self.problems += [f"{key}: {problem}." for problem in examined.problems]
            if examined.unchecked is not None and not examined.problems:
                self.notes.append(f"{key} was restored as recorded, and not checked further: {examined.unchecked}.")

    def repeat(self, settings: Settings, snapshot_id: str) -> None:
        """Roll back once more: with all in place there must be nothing to do."""
        outcome = rollback(settings, RollbackRequest(snapshot_id=snapshot_id))
        if outcome.status != "noop":
            told = " ".join(outcome.diagnostics)
            self.problems.append(
                f"A second rollback should find nothing to do, and it was {outcome.status}. {told}".strip()
            )

    def outcome(self, duration_ms: int) -> DrillOutcome:
        """Return the verdict."""
        return DrillOutcome(
            status="failed" if self.problems else "passed",
            snapshot_id=self.snapshot.snapshot_id if self.snapshot else self.wanted_id,
            digest=(self.snapshot.digest or None) if self.snapshot else None,
            assets=self.assets,
            databases=self.databases,
            boot=self.boot,
            duration_ms=duration_ms,
            diagnostics=self.problems + self.notes,
        )


@contextlib.contextmanager
def _still_there(catalogue: Catalogue, snapshot: SnapshotMetadata) -> Iterator[None]:
    """Let a block that worked with a snapshot fail when that was removed meanwhile, whatever came of it."""
    gone = NotProved(
        f"Snapshot {snapshot.snapshot_id} went away during the drill: retention or somebody removed it. "
        "Nothing is proved; drill another one."
    )
    try:
        yield
    except (StageFailed, OSError) as error:
        if _is_gone(catalogue, snapshot):
            raise gone from error
        raise
    if _is_gone(catalogue, snapshot):
        raise gone


def _is_gone(catalogue: Catalogue, snapshot: SnapshotMetadata) -> bool:
    try:
        return catalogue.get(snapshot.snapshot_id).checksum != snapshot.checksum
    except UsageError:
        return True
    except StageFailed:  # it is there, and was altered
        return False


def _write_down(
    pipeline: Pipeline, outcome: DrillOutcome, snapshot: SnapshotMetadata | None, is_conclusive: bool
) -> None:
    """Leave one event in drill-audit.log; raises OSError."""
    pipeline.drill_audit.append(
        f"drill.{outcome.status}",
        status=outcome.status,
        detail=excerpt(outcome.diagnostics[0], _MOST_DETAIL) if outcome.status == "failed" else "restorable",
        release_id=snapshot.release_id if snapshot else None,
        snapshot_id=outcome.snapshot_id,
        digest=outcome.digest,
        conclusive=is_conclusive,
        checks={check.key: check.status for check in outcome.assets},
        integrity={check.key: excerpt(check.integrity) for check in outcome.databases},
        booted=outcome.boot.passed if outcome.boot else None,
        boot=excerpt(outcome.boot.detail, _MOST_DETAIL) if outcome.boot else None,
        durationMs=outcome.duration_ms,
    )


def service_of(settings: Settings) -> Service:
    """Return what ``--boot`` starts: the configured command, else the embedded gateway if its database is an asset."""
    config = settings.release.drill
    if config.command is not None:
        line = ["/bin/sh", "-c", config.command]
        return Service(
            shown=config.command,
            arguments=lambda _, port: line,
            health=config.health,
            timeout=config.timeout,
            environment=tool_environment(),
        )
    if not any(asset.path == settings.gateway.database for asset in settings.release.assets.values()):
        raise UsageError(
            "--boot: nothing says how to start the service on restored state. Set release.drill.command (and "
            "release.drill.health), or leave --boot out."
        )
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError("--boot: the embedded gateway needs the extra: pip install 'release-tasks[gateway]'")
    return Service(
        shown=_GATEWAY,
        arguments=_gateway_line,
        health="http://127.0.0.1:{port}/health",
        timeout=config.timeout,
        environment=child_environment(),
    )


def _gateway_line(scratch: Settings, port: int) -> list[str]:
    line = [sys.executable, "-m", "release_tasks.gateway", "--root", str(scratch.gateway.root), "--port", str(port)]
    # Messages that waited in the snapshot went out long ago, or will from the live queue.
    return [*line, "--credentials", str(scratch.pairing.credentials), "--rehearsal"]
