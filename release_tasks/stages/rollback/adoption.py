"""Adoption of a snapshot of the older tool: capture it into a new snapshot, which has digests."""

from __future__ import annotations

import secrets
from pathlib import Path

from release_tasks.archive.attestation.signing import available_signer
from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_snapshot
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.directory import DIRECTORY
from release_tasks.assets.file import FILE
from release_tasks.config.schema import Settings
from release_tasks.core.clock import compact
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.typed import typed

__all__ = ["adopt_legacy", "require_forced"]


def require_forced(target: SnapshotMetadata, *, is_forced: bool) -> None:
    """Raise StageFailed for an older tool's snapshot unless the rollback is forced."""
    if not is_forced:
        raise StageFailed(
            f"Snapshot {target.snapshot_id} was taken by an older tool and has no digests, so it cannot be verified. "
            f"To restore it anyway: {typed('release.rollback', '--snapshot', target.snapshot_id, '--force')}"
        )


def adopt_legacy(
    settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, *, emit: Emit = ignore
) -> SnapshotMetadata:
    """Capture an older tool's snapshot into a new snapshot and return the new one.

    Raises StageFailed when a database in the snapshot fails its integrity check.
    """
    verdict = verify_snapshot(pipeline.catalogue, target)
    if verdict.findings:
        raise StageFailed(f"Snapshot {target.snapshot_id} is refused, nothing was changed: {verdict.findings[0]}.")
    folder = pipeline.catalogue.path(target.snapshot_id)
    # Match assets by their path below the project, or by key: the older tool used other keys.
    by_path = {settings.project / r.relative_path.removeprefix("assets/"): r for r in reversed(target.assets)}
    stored = {
        key: _stored_asset(asset, record, folder)
        for key, asset in settings.release.assets.items()
        if (record := by_path.get(asset.path) or target.asset(key)) is not None
    }
    if not stored:
        raise StageFailed(f"Snapshot {target.snapshot_id} contains no asset of release.assets.")
    request = CaptureRequest(
        snapshot_id=f"adopted_{target.snapshot_id[:80]}_{compact()}-{secrets.token_hex(3)}",
        release_id=target.release_id,
        kind="safety",
        retention_limit=settings.release.retention,
        audit=pipeline.audit.anchor(),
    )
    return capture_snapshot(pipeline.catalogue, stored, request, emit, available_signer(settings))


def _stored_asset(asset: AssetConfig, record: AssetRecord, folder: Path) -> AssetConfig:
    stored = folder / record.relative_path
    if not record.exists:
        stored = folder / "assets" / ".absent" / asset.path.name
    if asset.plugin is None:
        return asset.at(stored)
    # The stored copy is not live state, and a rollback does not need the plugin.
    return (DIRECTORY if stored.is_dir() else FILE).asset(stored, required=asset.required)
