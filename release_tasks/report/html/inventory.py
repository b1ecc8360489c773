"""The snapshot of a release: read and digested again, asset by asset, with what a drill has proved of it."""

from __future__ import annotations

from release_tasks.archive import legacy
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.restore_tests import Proof, proofs
from release_tasks.archive.verify import SnapshotVerdict, verify_snapshot
from release_tasks.core.errors import StageError, StageFailed, UsageError, describe_error
from release_tasks.core.records import AssetRecord, SnapshotMetadata, SnapshotReference
from release_tasks.report.html.notifications import text
from release_tasks.report.html.page import Asset, Snapshot, Tone

__all__ = ["reference_of", "snapshot_of"]

_MOST_ASSETS = 100
_MOST_FINDINGS = 20
_VERIFIED: dict[str, tuple[Tone, str]] = {
    "verified": ("good", "Every byte was digested again for this page, and is as it was recorded."),
    "damaged": ("bad", "Digested again for this page, and not as it was recorded. A rollback to it is refused."),
    "unverifiable": ("warn", "Taken by an older tool, without digests: there is nothing to verify it by."),
}


def reference_of(pipeline: Pipeline, file: ManifestFile) -> SnapshotReference | None:
    """Return which snapshot belongs to a release; of one whose manifest cannot be read, what the catalogue says."""
    if file.manifest is not None:
        return file.manifest.snapshot
    try:
        published, _ = pipeline.catalogue.published()
    except OSError:
        return None
    own = [found for found in published if found.kind == "release" and found.release_id == file.release_id]
    if not own:
        return None
    return SnapshotReference(snapshot_id=own[-1].snapshot_id, metadata_path=own[-1].metadata_path)


def snapshot_of(pipeline: Pipeline, named: SnapshotReference | None) -> Snapshot | None:
    """Return the snapshot that ``named`` names, verified byte by byte; None when there is none."""
    if named is None:
        return None
    try:
        metadata = pipeline.catalogue.get(named.snapshot_id)
        verdict = verify_snapshot(pipeline.catalogue, metadata)
    except UsageError:
        gone = "It is not there any more: retention removed it, or somebody did."
        return _without(pipeline, named, gone, tone="warn", is_there=False)
    except (StageFailed, OSError) as error:
        return _without(pipeline, named, describe_error(error), tone="bad", is_there=True)
    return _read(pipeline, named, metadata, verdict)


def _without(pipeline: Pipeline, named: SnapshotReference, finding: str, *, tone: Tone, is_there: bool) -> Snapshot:
    return Snapshot(
        snapshot_id=named.snapshot_id,
        folder=str(pipeline.catalogue.path(named.snapshot_id)),
        is_there=is_there,
        tone=tone,
        finding=text(finding),
        digest=text(named.digest, 64),
    )


def _read(
    pipeline: Pipeline, named: SnapshotReference, metadata: SnapshotMetadata, verdict: SnapshotVerdict
) -> Snapshot:
    tone, finding = _VERIFIED[verdict.status]
    findings = [text(str(finding), 500) for finding in verdict.findings[:_MOST_FINDINGS]]
    is_altered = bool(named.digest) and named.digest != metadata.digest
    if is_altered:
        tone, finding = "bad", "It is not the snapshot that the manifest names: their digests differ."
    damaged = {finding.key: finding.what for finding in verdict.findings}
    proof_tone, proof, proof_at = _proof(pipeline, metadata)
    return Snapshot(
        snapshot_id=metadata.snapshot_id,
        folder=str(pipeline.catalogue.path(metadata.snapshot_id)),
        is_there=True,
        tone=tone,
        finding=finding,
        created_at=text(metadata.created_at, 40),
        size=sum(asset.size for asset in metadata.assets),
        digest=text(metadata.digest, 64),
        assets=[_asset(record, damaged, verdict.status) for record in metadata.assets[:_MOST_ASSETS]],
        more_assets=max(len(metadata.assets) - _MOST_ASSETS, 0),
        findings=findings,
        is_restorable=verdict.status != "damaged" and not is_altered,
        needs_force=legacy.is_legacy(metadata),
        proof_tone=proof_tone,
        proof=proof,
        proof_at=proof_at,
    )


def _proof(pipeline: Pipeline, metadata: SnapshotMetadata) -> tuple[Tone, str, str | None]:
    try:
        proved = proofs(pipeline)
    except (StageError, OSError) as error:
        return "bad", text(describe_error(error)), None
    if proved.problem:
        return "bad", text(proved.problem), None
    proof = proved.by_snapshot.get(metadata.snapshot_id)
    if proof is None:
        return "warn", "Nobody has seen it come back yet.", None
    return _told(proof)


def _told(proof: Proof) -> tuple[Tone, str, str | None]:
    at = text(proof.at, 40)
    if proof.status != "passed":
        return "bad", f"Its last drill failed: {text(proof.detail, 500)}", at
    if proof.booted:
        return "good", "A drill restored it into a scratch folder, and a service got healthy on it.", at
    return "good", "A drill restored it into a scratch folder, and every asset came back as recorded.", at


def _asset(record: AssetRecord, damaged: dict[str, str], status: str) -> Asset:
    tone: Tone = "good" if status == "verified" else "quiet"
    finding = "as recorded" if status == "verified" else "not verified"
    if record.key in damaged:
        finding, tone = text(damaged[record.key], 300), "bad"
    elif record.damaged:
        finding, tone = "remains of a damaged asset", "warn"
    elif not record.exists:
        finding, tone = "absent, and absent after a restore", "quiet"
    elif record.plugin_problem is not None:
        finding, tone = f"a plain copy: {text(record.plugin_problem, 300)}", "warn"
    return Asset(
        key=text(record.key, 128),
        kind=record.kind if record.plugin is None else f"{record.kind}, captured by {text(record.plugin, 128)}",
        exists=record.exists,
        size=record.size,
        mode="" if record.mode is None else f"{record.mode & 0o7777:04o}",
        sha256=text(record.sha256, 64) if record.sha256 else None,
        content_digest=text(record.content_digest, 64) if record.content_digest else None,
        entries=len(record.entries) if record.entries is not None else None,
        tone=tone,
        finding=finding,
    )
