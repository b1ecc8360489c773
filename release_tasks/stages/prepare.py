"""Stage 2, prepare: write the manifest of a release, and take a verified snapshot of the state before it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from attrs import evolve

from release_tasks.archive.attestation.signing import signer_of
from release_tasks.archive.attestation.statement import Attester
from release_tasks.archive.capacity import capture_needs, shortages
from release_tasks.archive.capture import CaptureRequest, require_few_assets, unpublished_snapshot
from release_tasks.archive.parents import Parents
from release_tasks.archive.pipeline import MANIFEST_VERSION, Pipeline, manifest_bytes
from release_tasks.archive.retention import Retention, apply_retention
from release_tasks.assets.kinds import kind_of
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import MAX_BYTES
from release_tasks.core.clock import awake, compact, milliseconds_since, timestamp
from release_tasks.core.durable import make_new_directory, remove_durably, write_atomic
from release_tasks.core.errors import LockHeld, StageFailed, UsageError, describe_error, with_path
from release_tasks.core.events import Emit, StepBegan, ignore, shielded
from release_tasks.core.ids import require_id
from release_tasks.core.interrupt import uninterrupted
from release_tasks.core.lock import current_holder, run_lock
from release_tasks.core.printable import one_line
from release_tasks.core.records import (
    Artifact,
    Baseline,
    Manifest,
    Phase,
    PreflightReport,
    PreparedRelease,
    SnapshotMetadata,
    SnapshotReference,
)
from release_tasks.core.redact import Redactor
from release_tasks.core.regular import read_regular
from release_tasks.core.typed import typed
from release_tasks.service.application import (
    Application,
    default_release_id,
    describe_application,
    require_printable,
    require_showable_id,
)
from release_tasks.service.baseline import measure_baseline
from release_tasks.service.form import describe_form
from release_tasks.service.request import require_requests, shown_endpoint
from release_tasks.stages.first_deployment import (
    notes_on_first_release,
    require_first,
    require_no_release,
    suggest_first,
)
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_manifest
from release_tasks.stages.preflight.engine import PreflightRun, run_preflight
from release_tasks.stages.rollback.recovery import complete_interrupted
from release_tasks.stages.rollback.stores import require_own_stores
from release_tasks.stages.stage import stage
from release_tasks.stages.watch_command import watch_command

__all__ = ["begin_release", "prepare_release", "require_new_release_id"]

_STAGE = "release.prepare"
_ID_LENGTH = 96  # below the limit for ids, because the snapshot id extends it


def require_new_release_id(pipeline: Pipeline, release_id: str) -> None:
    """Raise UsageError unless ``release_id`` is valid and no ready release has it."""
    path = pipeline.manifest_path(require_id(release_id, "release id", _ID_LENGTH))
    taken = next((file for file in pipeline.read_manifests() if file.release_id == release_id), None)
    if taken is None:
        return
    if taken.manifest is None:
        raise UsageError(f"release id {release_id!r} is taken by an unreadable manifest ({taken.reason}): {path}.")
    if taken.manifest.status == "ready":
        when = taken.manifest.generated_at
        raise UsageError(f"release id {release_id!r} was prepared already, on {when}. Choose another --release-id.")


def begin_release(
    settings: Settings,
    release_id: str | None = None,
    *,
    first: bool = False,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> str:
    """Return the id for a new release: ``release_id``, or one made of version and time.

    First completes an interrupted rollback. Raises UsageError for an id that is taken, a signing key that cannot be
    used, or a ``first`` deployment that is not the first, LockHeld while another command runs, StageFailed when the
    rollback cannot be completed, or when name or version of the application are not one printable line.
    """
    pipeline = Pipeline(settings.release.root)
    require_own_stores(settings)
    with stage(settings, pipeline, _STAGE, notices, release_id=release_id):
        return _new_release_id(settings, pipeline, release_id, first, emit)


def prepare_release(
    settings: Settings,
    *,
    preflight: PreflightRun | None = None,
    release_id: str | None = None,
    first: bool = False,
    emit: Emit = ignore,
    notices: Notifications | None = None,
) -> PreparedRelease:
    """Publish the manifest of a release, with a verified snapshot of the state when nothing blocks it.

    Without ``preflight`` the gates are run first; ``status`` of the manifest is ``ready`` or ``blocked``. A failed
    capture blocks the release and does not raise. For the ``first`` deployment, gates that ask the service do not
    run, and required assets may be absent. Raises UsageError for an id that is taken, a signing key that cannot be
    used, or a deployment that is not the first, LockHeld while another command runs, StageFailed when an
    interrupted rollback cannot be completed or the pipeline folder cannot be read or written.
    """
    pipeline, emit = Pipeline(settings.release.root), shielded(emit)
    require_own_stores(settings)
    with stage(settings, pipeline, _STAGE, notices, release_id=release_id) as notifications:
        if preflight is None:
            new_id = _new_release_id(settings, pipeline, release_id, first, emit)
            logs = pipeline.logs / new_id if release_id is None else None
            preflight = run_preflight(settings, release_id=new_id, log_directory=logs, first=first, emit=emit)
        report, new_id = preflight.report, release_id or preflight.release_id
        attester = Attester.of(settings)
        first = preflight.first
        baseline = measure_baseline(settings.release) if report.passed and not first else None
        with _locked(pipeline, new_id) as written:
            if first:
                require_no_release(pipeline)
            application = describe_application(settings)
            draft = _draft(pipeline, report, new_id, baseline, application)
            draft = evolve(draft, first_deployment=first)
            blockers = _blockers(settings, report, may_lack_assets=first) or _shortages(settings, pipeline)
            blockers += [application.refusal] if application.refusal else []  # a gate may have written the version
            retention = Retention()
            if not blockers:
                try:
                    with (
                        _captured(settings, pipeline, draft, emit) as (ready, snapshot),
                        uninterrupted(),
                        _withdrawn_on_error(pipeline, ready),
                    ):
                        manifest = _write(pipeline, attester, ready, snapshot)
                        pipeline.record_published(manifest)
                        pipeline.catalogue.store.publish(snapshot.snapshot_id)
                    written.append(manifest)
                    retention = apply_retention(pipeline, settings.release.retention, [snapshot.snapshot_id])
                except (StageFailed, OSError) as error:
                    blockers.append(f"snapshot: {describe_error(error)}")
            if blockers:
                blockers += suggest_first(settings, pipeline, report) if not first else []
                written.append(_write_blocked(pipeline, attester, draft, blockers))
        manifest = PreparedRelease.of(written[-1], retention.removed, retention.notes)
        notifications.announce(lambda: about_manifest(settings, manifest))
    return manifest


def _new_release_id(settings: Settings, pipeline: Pipeline, release_id: str | None, first: bool, emit: Emit) -> str:
    holder = current_holder(pipeline.root)
    if holder is not None:  # checked here, before the gates run for minutes
        raise LockHeld(f"Another command is running: {holder}. When it is done, type: {typed('release.prepare')}")
    # Gates must not check a mixed state.
    complete_interrupted(settings, pipeline, _STAGE, emit)
    if first:
        require_first(settings, pipeline)
    require_printable(settings)
    new_id = release_id or _free_release_id(pipeline, default_release_id(describe_application(settings)))
    require_new_release_id(pipeline, new_id)
    require_showable_id(new_id, is_typed=release_id is not None)
    signer_of(settings)
    require_requests(settings.release)
    return new_id


def _free_release_id(pipeline: Pipeline, default: str) -> str:
    """Return ``default``, with a number as suffix when it is taken, and claim it by the folder of its logs.

    Several runs may choose at the same time, in the same second, or after the clock was put back.
    """
    taken = {file.release_id for file in pipeline.read_manifests()}
    return make_new_directory(pipeline.logs, default, taken).name


@contextlib.contextmanager
def _locked(pipeline: Pipeline, release_id: str) -> Iterator[list[Manifest]]:
    """Hold the lock for a block that prepares a release; the block appends the written manifest to the yielded list.

    First removes the leftovers of an interrupted prepare. An OSError becomes StageFailed; after the manifest is written
    it is dropped, because only the release of the lock failed.
    """
    written: list[Manifest] = []
    try:
        with with_path(pipeline.root / "lock"), run_lock(pipeline.root, _STAGE):
            if pipeline.has_journal():
                raise StageFailed(
                    f"A rollback was interrupted and is not finished. Run `{typed('release.recover')}` first."
                )
            require_new_release_id(pipeline, release_id)
            pipeline.clean_up()
            yield written
    except OSError as error:
        if not written:
            raise StageFailed(f"Release {release_id} was not prepared: {describe_error(error)}") from error


@contextlib.contextmanager
def _captured(
    settings: Settings, pipeline: Pipeline, draft: Manifest, emit: Emit
) -> Iterator[tuple[Manifest, SnapshotMetadata]]:
    """Capture the state, and yield the ready manifest and its snapshot, which is not published yet.

    A release exists once its manifest is written: after a crash between the manifest and the publication, the next
    command publishes the complete snapshot.
    """
    capture = CaptureRequest(
        snapshot_id=pipeline.catalogue.free_id(f"{draft.release_id}_snapshot_{compact()}"),
        release_id=draft.release_id,
        kind="release",
        retention_limit=settings.release.retention,
        audit=pipeline.audit.anchor(),
        parents=Parents(settings.project, settings.release.assets).record(),
    )
    started_at, started = timestamp(), awake.now()
    emit(StepBegan("capture", capture.snapshot_id))
    with unpublished_snapshot(pipeline.catalogue, settings.release.assets, capture, emit) as snapshot:
        captured = _phase("capture", started_at, started)
        for record in snapshot.assets:
            if not record.exists and settings.release.assets[record.key].required and not draft.first_deployment:
                raise StageFailed(f"{record.key} is required, but it was removed during the capture.")
        reference = SnapshotReference(
            snapshot_id=snapshot.snapshot_id, metadata_path=snapshot.metadata_path, digest=snapshot.digest
        )
        artifacts = [
            Artifact(id=each.key, path=str(asset.path), exists=each.exists, size=each.size, sha256=each.sha256)
            for key, asset in settings.release.assets.items()
            if (each := snapshot.asset(key)) is not None
        ]
        ready = evolve(draft, status="ready", snapshot=reference, artifacts=artifacts, phases=[*draft.phases, captured])
        notes = [note for record in snapshot.assets for note in kind_of(record).capture_notes(record)]
        notes += _warnings(settings, pipeline, draft.baseline)
        if draft.first_deployment:
            absent = [record.key for record in snapshot.assets if not record.exists]
            notes += notes_on_first_release(draft.preflight, absent)
        yield evolve(ready, diagnostics=ready.diagnostics + notes), snapshot


@contextlib.contextmanager
def _withdrawn_on_error(pipeline: Pipeline, ready: Manifest) -> Iterator[None]:
    """Withdraw manifest, latest.json and snapshot when one of them cannot be written, so that no reference dangles."""
    latest = pipeline.manifests / "latest.json"
    before = read_regular(latest, MAX_BYTES + 1) if latest.is_file() else None
    if before is not None and len(before) > MAX_BYTES:
        before = None  # no file of this package
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            _withdraw(pipeline, ready, before)
        raise


def _withdraw(pipeline: Pipeline, ready: Manifest, before: bytes | None) -> None:
    """Undo the publication of a release; the manifest first, because a release exists while its manifest does."""
    assert ready.snapshot is not None
    if any(file.manifest and file.manifest.snapshot == ready.snapshot for file in pipeline.read_manifests()):
        remove_durably(pipeline.manifest_path(ready.release_id))
    latest_ready = pipeline.latest_ready()
    if latest_ready is not None and latest_ready.snapshot == ready.snapshot:
        latest = pipeline.manifests / "latest.json"
        try:
            if before is None:
                remove_durably(latest)
            else:
                write_atomic(latest, before)
        except OSError:
            remove_durably(latest)  # no latest release is better than one without its snapshot
    catalogue, snapshot_id = pipeline.catalogue, ready.snapshot.snapshot_id
    if catalogue.path(snapshot_id).exists():
        os.rename(catalogue.path(snapshot_id), catalogue.store.partial_path(snapshot_id))
    remove_durably(pipeline.statement_path(ready.release_id))


def _blockers(settings: Settings, report: PreflightReport, *, may_lack_assets: bool) -> list[str]:
    """Return the reasons why the release is not ready, one sentence each."""
    blockers = [f"{check.id}: {check.detail}" for check in report.checks if check.blocks and not check.is_left_out]
    blockers += [
        f"{check.id}: was excluded, but a release requires all its gates"
        for check in report.checks
        if check.is_left_out and check.blocks
    ]
    if not report.passed and not blockers:
        blockers.append("preflight: did not pass")
    blockers += _shared_files(settings)
    said = {key for check in report.checks for key in check.diagnostics.get("missing", [])}
    for key, asset in settings.release.assets.items():
        blockers += asset.kind.capture_blockers(key, asset)
        try:
            os.lstat(asset.path)
        except (FileNotFoundError, NotADirectoryError):
            is_said = f"release.assets.{key}.{asset.kind.path_option}" in said
            if asset.required and not may_lack_assets and not is_said:
                blockers.append(f"{key}: {asset.path} is required but does not exist (release.assets.{key})")
        except OSError as error:
            blockers.append(f"{key}: {describe_error(error)}")
    return blockers


def _shared_files(settings: Settings) -> list[str]:
    """Return the assets that are the same file under two names, one sentence each: after a restore they are two."""
    seen: dict[tuple[int, int], str] = {}
    found = []
    for key, asset in settings.release.assets.items():
        with contextlib.suppress(OSError):
            info = os.stat(asset.path)
            other = seen.setdefault((info.st_dev, info.st_ino), key)
            if other != key:
                found.append(
                    f"{key}: {asset.path} is the same file as release.assets.{other}, by a link. "
                    f"Give release.assets.{key} a file of its own, or remove it."
                )
    return found


def _shortages(settings: Settings, pipeline: Pipeline) -> list[str]:
    """Return the limits of the pipeline's disk, or of the metadata, that the snapshot would exceed."""
    try:
        require_few_assets(settings.release.assets)
    except StageFailed as error:
        return [f"snapshot: {error.message}"]
    assets, catalogue = settings.release.assets, pipeline.catalogue
    found = shortages(capture_needs(catalogue.store.folder, assets, bases=catalogue.find_bases(assets)))
    return [f"snapshot: {problem} Nothing was copied." for problem in found]


def _draft(
    pipeline: Pipeline, report: PreflightReport, release_id: str, baseline: Baseline | None, application: Application
) -> Manifest:
    """Return the manifest without a snapshot, as ``blocked``."""
    started = [check.started_at for check in report.checks if check.started_at]
    completed = [check.completed_at for check in report.checks if check.completed_at]
    phases = []
    if started and completed:
        phases = [
            Phase(
                name="preflight",
                started_at=min(started),
                completed_at=max(completed),
                duration_ms=report.duration_ms,
            )
        ]
    return Manifest(
        manifest_version=MANIFEST_VERSION,
        release_id=release_id,
        generated_at=timestamp(),
        sequence=pipeline.next_sequence(),
        app_name=application.name,
        app_version=application.version,
        git_commit=application.git_commit,
        git_dirty=application.git_dirty,
        status="blocked",
        preflight=report,
        snapshot=None,
        artifacts=[],
        diagnostics=[application.problem] if application.problem else [],
        manifest_path=str(pipeline.manifest_path(release_id)),
        baseline=baseline,
        phases=phases,
    )


def _phase(name: str, started_at: str, started: float) -> Phase:
    """Return a phase that ends now; ``started`` is a reading of the awake clock."""
    duration_ms = milliseconds_since(started)
    return Phase(name=name, started_at=started_at, completed_at=timestamp(), duration_ms=duration_ms)


def _warnings(settings: Settings, pipeline: Pipeline, baseline: Baseline | None) -> list[str]:
    """Return what an operator should know of a ready release, one sentence each."""
    return _health_warnings(settings, baseline) + _verdict_warnings(settings, pipeline)


def _health_warnings(settings: Settings, baseline: Baseline | None) -> list[str]:
    """Return a note when the health of the service cannot be read, so that a rollback cannot tell whether it is up."""
    if baseline is None or baseline.health != "unknown":
        return []
    url = shown_endpoint(str(settings.release.health.url), settings.release.health)
    form = describe_form(baseline.form) if baseline.form is not None else "something else each time"
    result = "can only compare this form" if baseline.form is not None else "will end failed"
    return [
        f"Health at {url} answers {form}, which does not say whether the service is healthy: a rollback {result}, and "
        "a watch has no verdict. Set release.health.expect to what a healthy answer has."
    ]


def _verdict_warnings(settings: Settings, pipeline: Pipeline) -> list[str]:
    """Return a note when the release before this one has no verdict."""
    with contextlib.suppress(OSError):
        if before := pipeline.verdicts().unjudged_release:
            command = watch_command(settings)
            return [f"Release {before} was never judged, so its state may be bad. After a deploy: {command}"]
    return []


def _write(
    pipeline: Pipeline, attester: Attester, manifest: Manifest, snapshot: SnapshotMetadata | None = None
) -> Manifest:
    """Write the audit event, then the manifest with the log's anchor; return the manifest as written.

    The attestation is written before the manifest, so that every release has one.
    """
    started_at, started = timestamp(), awake.now()
    redact = Redactor.of_process().redact_text
    manifest = evolve(manifest, diagnostics=[redact(text) for text in manifest.diagnostics])
    anchor = pipeline.audit.append(
        f"prepare.{manifest.status}",
        status=manifest.status,
        detail=manifest.diagnostics[0] if manifest.diagnostics else "",
        release_id=manifest.release_id,
        snapshot_id=manifest.snapshot.snapshot_id if manifest.snapshot else None,
        digest=manifest.snapshot.digest if manifest.snapshot else None,
        checksum=snapshot.checksum if snapshot else None,
        **({"firstDeployment": True} if manifest.first_deployment else {}),
    )
    pipeline.set_aside(manifest.release_id)
    phases = [*manifest.phases, _phase("publish", started_at, started)]
    manifest = evolve(
        manifest,
        audit=anchor,
        phases=phases,
        attestation=attester.reference,
        diagnostics=list(map(one_line, manifest.diagnostics)),
    )
    folder = pipeline.catalogue.store.partial_path(snapshot.snapshot_id) if snapshot is not None else None
    pipeline.write_statement(manifest.release_id, attester.line(manifest, manifest_bytes(manifest), snapshot, folder))
    pipeline.write_manifest(manifest)
    return manifest


def _write_blocked(pipeline: Pipeline, attester: Attester, draft: Manifest, blockers: list[str]) -> Manifest:
    artifacts = [
        Artifact(id=key, path=str(asset.path), exists=os.path.lexists(asset.path))
        for key, asset in attester.settings.release.assets.items()
    ]
    blocked = evolve(draft, artifacts=artifacts, diagnostics=blockers + draft.diagnostics)
    try:
        return _write(pipeline, attester, blocked)
    except OSError as error:
        raise StageFailed(
            f"Release {draft.release_id} is blocked ({blockers[0].rstrip('.')}), "
            f"and its manifest cannot be written: {describe_error(error)}"
        ) from error
