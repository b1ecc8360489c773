"""Restore databases outside the locks of a rollback, in an undo or a recovery, and lose no commit.

The service may have written since the rollback held its locks. So a database is compared first, and what no snapshot
has goes into another safety snapshot, which is sealed under the lock.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from release_tasks.archive.attestation.signing import Signer
from release_tasks.archive.capture import CaptureRequest, publish_safety_snapshot, unpublished_snapshot
from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig, Hold, Scan
from release_tasks.assets.findings import Damaged
from release_tasks.assets.stored import stored_path
from release_tasks.assets.waiting import LockWait
from release_tasks.core.clock import compact
from release_tasks.core.events import Emit
from release_tasks.core.records import AssetRecord, DatabaseRestore, JournalStep, SnapshotMetadata
from release_tasks.stages.rollback.locking import locked

__all__ = ["held_again"]


@contextlib.contextmanager
def held_again(
    pipeline: Pipeline,
    assets: Mapping[str, AssetConfig],
    steps: list[JournalStep],
    source: SnapshotMetadata,
    known: Sequence[SnapshotMetadata],
    signer: Signer | None,
    emit: Emit,
) -> Iterator[Mapping[str, Hold]]:
    """Lock the databases of ``steps``, with the content of ``source`` written, while the block runs.

    Takes another safety snapshot, unless the snapshots ``known`` have the content of all of them. A database that can
    only be restored as a whole gets no lock here; its content goes into the safety snapshot too. Raises Busy,
    StageFailed, OSError; nothing live is changed then.
    """
    changing = {step.key: assets[step.key] for step in steps}
    folder = pipeline.catalogue.path(source.snapshot_id)
    records = {key: record for key in changing if (record := source.asset(key)) is not None}
    stored = {key: (record, stored_path(folder, record)) for key, record in records.items()}
    for with_copy in (False, True):
        with contextlib.ExitStack() as held:
            scans = _scans(held, changing, stored, emit)
            if with_copy:
                metadata = held.enter_context(_copied(pipeline, changing, scans, emit))
                live = {record.key: record for record in metadata.assets}
                scans = {key: scan for key, scan in scans.items() if not live[key].damaged}
            else:
                live = {
                    key: record for key, scan in scans.items() if (record := _compared(key, scan, emit)) is not None
                }
                if not all(key in live and _is_known(live[key], known) for key in changing):
                    continue
            wait = LockWait(max(asset.lock_wait for asset in changing.values()), emit)
            holds = held.enter_context(locked(assets, [s for s in steps if s.key in scans], stored, scans, wait))
            if with_copy:
                publish_safety_snapshot(pipeline.catalogue, metadata, scans, signer)
            elif [scan.seal(live[key]) for key, scan in scans.items()] != [live[key] for key in scans]:
                continue
            for hold in holds.values():
                hold.write()
            yield holds
            return


def _scans(
    held: contextlib.ExitStack,
    assets: Mapping[str, AssetConfig],
    stored: Mapping[str, tuple[AssetRecord, Path]],
    emit: Emit,
) -> dict[str, Scan]:
    scans: dict[str, Scan] = {}
    for key, asset in assets.items():
        found = held.enter_context(asset.kind.scanned(asset, *stored[key], emit)) if key in stored else None
        if found is not None and not isinstance(found, DatabaseRestore):
            held.callback(found.release)
            scans[key] = found
    return scans


def _compared(key: str, scan: Scan, emit: Emit) -> AssetRecord | None:
    """Return the record of a live asset without a copy of it; None for one that cannot be read."""
    with contextlib.suppress(Damaged):
        return scan.capture(AssetRecord(key=key, relative_path="", kind="sqlite", exists=True), None, emit)
    return None


def _is_known(live: AssetRecord, snapshots: Sequence[SnapshotMetadata]) -> bool:
    """Return whether one of the snapshots has this content."""
    records = [record for snapshot in snapshots if (record := snapshot.asset(live.key)) is not None]
    return any(record.content_digest == live.content_digest for record in records)


@contextlib.contextmanager
def _copied(
    pipeline: Pipeline, assets: Mapping[str, AssetConfig], scans: Mapping[str, Scan], emit: Emit
) -> Iterator[SnapshotMetadata]:
    """Capture these assets in a safety snapshot of their own, which the block publishes."""
    request = CaptureRequest(
        snapshot_id=pipeline.catalogue.free_id(f"safety_snapshot_{compact()}-{secrets.token_hex(3)}"),
        release_id=None,
        kind="safety",
        retention_limit=1,
        audit=pipeline.audit.anchor(),
        allow_damaged=True,
        scans=scans,
    )
    with unpublished_snapshot(pipeline.catalogue, assets, request, emit) as metadata:
        yield metadata
