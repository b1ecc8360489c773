"""Everything that the page of a release tells, gathered from the pipeline folder. It reads, and changes nothing."""

from __future__ import annotations

from typing import Any

from release_tasks.archive.diff import compare
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.audit import AuditVerdict, Finding
from release_tasks.core.clock import timestamp
from release_tasks.core.errors import StageError, UsageError, describe_error
from release_tasks.core.records import Manifest
from release_tasks.report.html.audit_events import events_of, trail_of
from release_tasks.report.html.facts import facts_of
from release_tasks.report.html.gates import MOST_GATES, gates_of
from release_tasks.report.html.health import strips_of
from release_tasks.report.html.history import degraded_releases, history_of
from release_tasks.report.html.inventory import reference_of, snapshot_of
from release_tasks.report.html.notifications import text
from release_tasks.report.html.page import Differences, ReleasePage
from release_tasks.report.html.provenance import provenance_of
from release_tasks.report.html.rollback_options import way_back_of
from release_tasks.report.html.rollbacks import read_rollbacks, rollbacks_of
from release_tasks.report.html.timeline import course_of
from release_tasks.report.html.verdict import notices_of, verdict_of

__all__ = ["find_release", "gather"]

_MOST_DIFFERENCES = 200


def find_release(pipeline: Pipeline, release_id: str | None) -> ManifestFile:
    """Return the manifest of a release, readable or not; without an id the newest one.

    Raises UsageError when there is none.
    """
    files = pipeline.read_manifests()
    if not files:
        raise UsageError("There is no release to report on yet. `inv release.prepare` makes one.")
    if release_id is None:
        return files[-1]
    pipeline.manifest_path(release_id)
    found = next((file for file in files if file.release_id == release_id), None)
    if found is None:
        known = ", ".join(file.release_id for file in files[-5:])
        raise UsageError(
            f"There is no release {release_id!r}. The newest are: {known}. "
            "Type one of them, or leave --release-id out; `inv release.status` shows more."
        )
    return found


def gather(settings: Settings, file: ManifestFile) -> ReleasePage:
    """Read what there is to say of a release. What cannot be read is said on the page; nothing is raised for it."""
    pipeline = Pipeline(settings.release.root)
    manifest, files = file.manifest, pipeline.read_manifests()
    named = reference_of(pipeline, file)
    snapshot_id = named.snapshot_id if named is not None else None
    log, drills = _audit(pipeline), _drills(pipeline, snapshot_id)
    every = read_rollbacks(log.events)
    own = rollbacks_of(every, file.release_id, snapshot_id)
    concerning = events_of(log.events, file.release_id, snapshot_id, {r.rollback_id for r in own})
    snapshot = snapshot_of(pipeline, named)
    before = _release_before(files, manifest)
    audit = trail_of(log, concerning)
    degraded = degraded_releases(log.events)
    verdict = verdict_of(manifest, file.reason, own, concerning, file.release_id in degraded)
    checks = manifest.preflight.checks if manifest is not None else []
    return ReleasePage(
        release_id=file.release_id,
        app_name=text(manifest.app_name if manifest else settings.release.app.name, 100),
        version=text(manifest.app_version, 100) if manifest and manifest.app_version else None,
        commit=text(manifest.git_commit, 64) if manifest and manifest.git_commit else None,
        is_dirty=bool(manifest and manifest.git_dirty),
        prepared_at=text(manifest.generated_at, 40) if manifest else None,
        prepared_by=_prepared_by(concerning),
        generated_at=timestamp(),
        verdict=verdict,
        notices=notices_of(pipeline, files, file),
        facts=facts_of(manifest, snapshot, audit),
        course=course_of(manifest, concerning, drills, own),
        gates=gates_of(checks, pipeline.logs / file.release_id),
        more_gates=max(len(checks) - MOST_GATES, 0),
        health=strips_of(checks, concerning, own),
        snapshot=snapshot,
        differences=_differences(pipeline, before, manifest),
        way_back=way_back_of(pipeline, manifest, before, snapshot, own),
        history=history_of(files, every, _snapshots(pipeline), degraded, file.release_id, _log_problem(log)),
        audit=audit,
        provenance=provenance_of(settings, pipeline, file),
    )


def _audit(pipeline: Pipeline) -> AuditVerdict:
    try:
        return pipeline.audit.verify(pipeline.anchors())
    except (StageError, OSError) as error:
        return AuditVerdict(problems=[Finding(0, describe_error(error))])


def _drills(pipeline: Pipeline, snapshot_id: str | None) -> list[dict[str, Any]]:
    if snapshot_id is None:
        return []
    try:
        return [e for e in pipeline.drill_audit.verify().events if e.get("snapshotId") == snapshot_id]
    except OSError:  # the proof of the snapshot says so
        return []


def _snapshots(pipeline: Pipeline) -> set[str]:
    try:
        return {snapshot.snapshot_id for snapshot in pipeline.catalogue.published()[0]}
    except OSError:
        return set()


def _log_problem(log: AuditVerdict) -> str:
    return "" if log.intact else "The audit log is broken, so rollbacks may be missing here."


def _release_before(files: list[ManifestFile], manifest: Manifest | None) -> Manifest | None:
    """Return the newest ready release that was prepared before this one."""
    if manifest is None:
        return None
    older = [
        file.manifest
        for file in files
        if file.manifest is not None and file.manifest.status == "ready" and _age(file.manifest) < _age(manifest)
    ]
    return older[-1] if older else None


def _age(manifest: Manifest) -> tuple[int, str]:
    return manifest.sequence, manifest.generated_at


def _differences(pipeline: Pipeline, before: Manifest | None, manifest: Manifest | None) -> Differences:
    if before is None or manifest is None:
        return Differences(before=None)
    try:
        found = compare(pipeline, before.release_id, manifest.release_id)
    except (StageError, OSError) as error:
        return Differences(before=before.release_id, notes=[text(describe_error(error))])
    return Differences(
        before=before.release_id,
        rows=found.differences[:_MOST_DIFFERENCES],
        more=max(len(found.differences) - _MOST_DIFFERENCES, 0),
        notes=[text(note) for note in found.notes],
    )


def _prepared_by(events: list[dict[str, Any]]) -> str:
    prepared = [event for event in events if str(event.get("event")).startswith("prepare.")]
    return f"{text(prepared[-1].get('actor'), 64)}@{text(prepared[-1].get('host'), 64)}" if prepared else ""
