"""Capture the live state before it is replaced, so that the rollback can itself be rolled back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from release_tasks.archive.attestation.signing import available_signer
from release_tasks.archive.capacity import capture_needs, shortages
from release_tasks.archive.capture import CaptureRequest, publish_safety_snapshot, survey_asset, unpublished_snapshot
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.findings import Busy, Damaged
from release_tasks.core.errors import DiskFull, StageFailed, describe_error
from release_tasks.core.events import StepBegan, ignore
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.stages.rollback.attempt import RollbackAttempt
from release_tasks.stages.rollback.safety import advise_without_safety
from release_tasks.stages.rollback.scanning import Scans

__all__ = ["live_records", "publish", "safety_copy"]


@contextlib.contextmanager
def safety_copy(run: RollbackAttempt, target: SnapshotMetadata, scans: Scans) -> Iterator[SnapshotMetadata | None]:
    """Capture the live state, so that the rollback can itself be rolled back; the block publishes the snapshot.

    Yields None for a rollback without a safety snapshot. Raises StageFailed with the numbers and the command to type
    when the disk has no space for it.
    """
    if run.request.without_safety:
        yield None
        return
    run.emit(StepBegan("safety snapshot"))
    request = CaptureRequest(
        snapshot_id=f"safety_snapshot_{run.rollback_id}",
        release_id=None,
        kind="safety",
        retention_limit=run.settings.release.retention,
        audit=run.pipeline.audit.anchor(),
        parents=run.parents.record(run.closed_parents),
        allow_damaged=True,
        scans=scans.opened,
    )
    advice = f"Nothing live was changed. {advise_without_safety(target)}"
    needs = capture_needs(run.pipeline.catalogue.store.folder, run.assets, "the safety copy")
    if problems := shortages(needs):
        raise StageFailed(f"{' '.join(problems)} {advice}")
    with contextlib.ExitStack() as captured:
        try:
            capture = unpublished_snapshot(run.pipeline.catalogue, run.assets, request, run.emit)
            metadata = captured.enter_context(capture)
        except Busy as error:
            raise StageFailed(f"{error.message} {run.request.longer_wait}") from error
        except (StageFailed, OSError) as error:
            if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in DiskFull.errnos):
                raise StageFailed(f"{describe_error(error)} {advice}") from error
            raise
        yield metadata


def live_records(run: RollbackAttempt, safety: SnapshotMetadata | None, scans: Scans) -> dict[str, AssetRecord]:
    """Return the live state of each asset by key: from its safety copy, else whether it exists and can be read."""
    if safety is not None:
        return {captured.key: captured for captured in safety.assets}
    return {
        key: survey_asset(key, asset) if key not in scans.opened else _compare(key, asset, scans)
        for key, asset in run.assets.items()
    }


def _compare(key: str, asset: AssetConfig, scans: Scans) -> AssetRecord:
    """Return the record of a database without a copy of it."""
    relative = f"assets/{key}/{asset.path.name}"
    record = AssetRecord(key=key, relative_path=relative, kind=asset.kind.records_as, exists=True)
    try:
        return scans.opened[key].capture(record, None, ignore)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        scans.opened.pop(key).release()
        return survey_asset(key, asset)


def publish(run: RollbackAttempt, safety: SnapshotMetadata | None, scans: Scans) -> SnapshotMetadata | None:
    """Complete the safety copies of the locked databases, publish the safety snapshot, return its final metadata."""
    if safety is None:
        return None
    return publish_safety_snapshot(run.pipeline.catalogue, safety, scans.opened, available_signer(run.settings))
