"""The content of the page of a release, read from the pipeline folder, which stays unchanged.

This module contains no HTML. The content may contain hostile text, which the templates escape.
"""

from __future__ import annotations

import platform
from typing import Any

from attrs import evolve, frozen

from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.diff import Comparison, compare_releases
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.provenance import Provenance
from release_tasks.config.schema import Settings
from release_tasks.core.audit import AuditFinding, AuditVerdict
from release_tasks.core.clock import timestamp
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageError, UsageError, describe_error
from release_tasks.core.records import Manifest
from release_tasks.core.typed import typed
from release_tasks.core.version import __version__
from release_tasks.report.html.gates import Gate, gates_of
from release_tasks.report.html.health import HealthStrip, strips_of
from release_tasks.report.html.history import (
    ReleaseHistory,
    degraded_releases,
    history_of,
    read_rollbacks,
    rollbacks_of,
)
from release_tasks.report.html.snapshot import RollbackOptions, Snapshot, reference_of, rollback_options_of, snapshot_of
from release_tasks.report.html.timeline import Timeline, timeline_of
from release_tasks.report.html.verdict import Fact, ReleaseVerdict, facts_of, verdict_of, warnings_of
from release_tasks.report.values import actor_of, text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["ReleasePage", "find_release", "gather"]

_ATTESTED = {
    "signed": "The statement of this release matches and is signed with a trusted key.",
    "unchecked": "The statement of this release matches. It is signed, but no key is configured to check that.",
    "unsigned": "The statement of this release matches. It is not signed.",
    "none": "This release has no statement.",
    "damaged": "The statement does not match this release.",
}


@frozen(kw_only=True)
class ReleasePage:
    """The content of the page of one release. Times are RFC 3339 in UTC.

    ``differences`` compares it with the latest ready release before it, None without one. ``events`` are its audit
    events, oldest first. ``manifest_digest`` is the reason for a missing digest unless ``is_digested``. ``attested``
    is the verdict on its statement. ``versions`` are the versions of the software that made the page.
    """

    file: ManifestFile
    app_name: str
    prepared_by: str
    generated_at: str
    verdict: ReleaseVerdict
    warnings: list[str]
    facts: list[Fact]
    timeline: Timeline
    gates: list[Gate]
    health: list[HealthStrip]
    snapshot: Snapshot | None
    differences: Comparison | None
    rollback_options: RollbackOptions
    history: ReleaseHistory
    audit: AuditVerdict
    events: list[dict[str, Any]]
    manifest_path: str
    manifest_digest: str
    is_digested: bool
    attested: tuple[Meaning, str, list[str]]
    versions: dict[str, str]


def find_release(pipeline: Pipeline, release_id: str | None) -> ManifestFile:
    """Return the manifest of a release, readable or not; the latest one without an id.

    Raises UsageError when there is none.
    """
    files = pipeline.read_manifests()
    if not files:
        raise UsageError(f"There is no release to report on yet. Prepare one: `{typed('release.prepare')}`.")
    if release_id is None:
        return files[-1]
    return pipeline.find_manifest(release_id)


def gather(settings: Settings, file: ManifestFile) -> ReleasePage:
    """Read the content of the page of a release. The page reports what cannot be read; nothing is raised for it."""
    import apsw

    pipeline = Pipeline(settings.release.root)
    provenance = Provenance(settings, pipeline)
    release_id, manifest, files = file.release_id, file.manifest, pipeline.read_manifests()
    checks = manifest.preflight.checks if manifest is not None else []
    reference = reference_of(pipeline, file)
    snapshot_id = reference.snapshot_id if reference is not None else None
    snapshot = snapshot_of(provenance, pipeline, reference)
    refusals = provenance.release_refusals(manifest) if manifest is not None else []
    if snapshot is not None and snapshot.is_restorable and refusals:
        finding = f"Its release does not agree with its records: {text('; '.join(refusals), 500)}."
        snapshot = evolve(snapshot, tone="bad", finding=finding, is_restorable=False)
    try:
        audit = pipeline.audit.verify(pipeline.anchors())
    except (StageError, OSError) as error:
        audit = AuditVerdict(problems=[AuditFinding(0, describe_error(error))])
    problem = "" if audit.intact else "The audit log is broken, so rollbacks may be missing here."
    rollbacks = read_rollbacks(audit.events)
    own = rollbacks_of(rollbacks, release_id, snapshot_id)
    rollback_ids = {rollback.rollback_id for rollback in own}
    events = [
        event
        for event in audit.events
        if event.get("releaseId") == release_id
        or (snapshot_id is not None and snapshot_id in (event.get("snapshotId"), event.get("requestedSnapshot")))
        or (isinstance(event.get("rollbackId"), str) and event["rollbackId"] in rollback_ids)
    ]
    prepared = [event for event in events if str(event.get("event")).startswith("prepare.")]
    degraded = degraded_releases(audit.events)
    before = _release_before(files, manifest)
    try:
        published = {snapshot.snapshot_id for snapshot in pipeline.catalogue.published()[0]}
    except OSError:
        published = set()
    path = pipeline.manifest_path(release_id)
    try:
        digest, is_digested = sha256_file(path), True
    except OSError as error:
        digest, is_digested = text(describe_error(error)) or "unknown", False
    versions = {"release-tasks": __version__, "Python": platform.python_version(), "SQLite": apsw.sqlitelibversion()}
    if manifest is not None:
        versions["manifest format"] = str(manifest.manifest_version)
    return ReleasePage(
        file=file,
        app_name=text(manifest.app_name if manifest else settings.release.app.name, 100),
        prepared_by=actor_of(prepared[-1]) if prepared else "",
        generated_at=timestamp(),
        verdict=verdict_of(file, own, events, release_id in degraded),
        warnings=warnings_of(pipeline, files, file),
        facts=facts_of(manifest, snapshot, audit, len(events)),
        timeline=timeline_of(manifest, events, _drills(pipeline, snapshot_id), own),
        gates=gates_of(checks, pipeline.logs / release_id),
        health=strips_of(checks, events, own),
        snapshot=snapshot,
        differences=_differences(settings, before, manifest),
        rollback_options=rollback_options_of(provenance, pipeline, manifest, before, snapshot, own),
        history=history_of(files, rollbacks, published, degraded, problem),
        audit=audit,
        events=events,
        manifest_path=str(path),
        manifest_digest=digest,
        is_digested=is_digested,
        attested=_attested(settings, pipeline, release_id),
        versions=versions,
    )


def _drills(pipeline: Pipeline, snapshot_id: str | None) -> list[dict[str, Any]]:
    if snapshot_id is None:
        return []
    try:
        return [e for e in pipeline.drill_audit.verify().events if e.get("snapshotId") == snapshot_id]
    except OSError:  # the restore test of the snapshot reports this error
        return []


def _release_before(files: list[ManifestFile], manifest: Manifest | None) -> Manifest | None:
    """Return the latest ready release that was prepared before this one."""
    if manifest is None:
        return None
    age = (manifest.sequence, manifest.generated_at)
    ready = [found for file in files if (found := file.manifest) is not None and found.status == "ready"]
    return next((other for other in reversed(ready) if (other.sequence, other.generated_at) < age), None)


def _differences(settings: Settings, before: Manifest | None, manifest: Manifest | None) -> Comparison | None:
    if before is None or manifest is None:
        return None
    try:
        return compare_releases(settings, before.release_id, manifest.release_id)
    except (StageError, OSError) as error:
        return Comparison(before=before.release_id, after=manifest.release_id, notes=[describe_error(error)])


def _attested(settings: Settings, pipeline: Pipeline, release_id: str) -> tuple[Meaning, str, list[str]]:
    try:
        verdicts = verify_attestations(settings, pipeline)
    except (StageError, OSError) as error:
        return "warn", f"The statement of this release was not checked: {text(describe_error(error), 500)}", []
    missing = AttestationVerdict(release_id=release_id, status="none")
    verdict = next((found for found in verdicts if found.release_id == release_id), missing)
    findings = [text(finding, 500) for finding in verdict.findings[:5]]
    return meaning_of(verdict.status), _ATTESTED[verdict.status], findings
