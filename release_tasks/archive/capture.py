"""Live state into a new snapshot that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.seal import sealed, snapshot_digest
from release_tasks.archive.verify import strays
from release_tasks.assets.base import AssetConfig, Damaged
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import encode
from release_tasks.core.durable import fsync_directory, fsync_tree, make_private_directory, remove_tree, write_atomic
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Emit, Event, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import FORMAT_VERSION, AssetRecord, AuditAnchor, SnapshotMetadata

__all__ = [
    "CaptureRequest",
    "capture_asset",
    "capture_snapshot",
    "filled_snapshot",
    "sealed_safety",
    "unpublished_snapshot",
]

_CAPTURE_THREADS = 2


@frozen(kw_only=True)
class CaptureRequest:
    """What a new snapshot is to be called and for whom it is taken."""

    snapshot_id: str
    release_id: str | None
    kind: Literal["release", "safety"]
    retention_limit: int
    audit: AuditAnchor | None = None
    allow_damaged: bool = False  # a safety snapshot keeps the remains of a database instead of refusing them


def capture_snapshot(
    catalogue: Catalogue, assets: Mapping[str, AssetConfig], request: CaptureRequest, emit: Emit = ignore
) -> SnapshotMetadata:
    """Capture every asset and publish the snapshot; returns its metadata once all of it is on disk.

    Raises StageFailed or OSError when an asset cannot be captured; nothing is left then.
    """
    with unpublished_snapshot(catalogue, assets, request, emit) as metadata:
        catalogue.store.publish(metadata.snapshot_id)
    return metadata


@contextlib.contextmanager
def unpublished_snapshot(
    catalogue: Catalogue, assets: Mapping[str, AssetConfig], request: CaptureRequest, emit: Emit = ignore
) -> Iterator[SnapshotMetadata]:
    """Capture every asset, flushed, under a name that no reader takes for a snapshot.

    The block decides: ``publish`` of the store makes it one, and an exception removes it. Raises StageFailed or
    OSError when an asset cannot be captured.
    """

    def capture(partial: Path) -> list[AssetRecord]:
        records = _capture_side_by_side(assets, partial, request.allow_damaged, emit)
        for stray in strays(partial, records):  # a plugin may have lost its way
            raise StageFailed(f"{stray} was written into the snapshot, and belongs to no asset.")
        return records

    with filled_snapshot(catalogue, capture, request) as metadata:
        yield metadata


def sealed_safety(
    catalogue: Catalogue, metadata: SnapshotMetadata, assets: Mapping[str, AssetConfig]
) -> SnapshotMetadata:
    """Complete a safety snapshot while the assets are locked, and publish it; returns its metadata as it is then.

    Raises StageFailed or OSError when it cannot be completed; it is not published then.
    """
    partial = catalogue.store.partial_path(metadata.snapshot_id)
    records = [
        assets[record.key].kind.seal_safety(assets[record.key], record, partial / record.relative_path)
        for record in metadata.assets
    ]
    if records != metadata.assets:
        metadata = sealed(evolve(metadata, assets=records, digest=snapshot_digest(records)))
        fsync_tree(partial)
        write_atomic(partial / "metadata.json", pretty_bytes(encode(metadata)))
    catalogue.store.publish(metadata.snapshot_id)
    return metadata


@contextlib.contextmanager
def filled_snapshot(
    catalogue: Catalogue, fill: Callable[[Path], list[AssetRecord]], request: CaptureRequest
) -> Iterator[SnapshotMetadata]:
    """Do the same with whatever ``fill`` lays below the folder that it is given; it returns the records of that."""
    make_private_directory(catalogue.store.folder)
    partial = catalogue.store.partial_path(request.snapshot_id)
    remove_tree(partial)
    try:
        os.mkdir(partial, 0o700)
        os.mkdir(partial / "assets", 0o700)
        records = fill(partial)
        metadata = sealed(
            SnapshotMetadata(
                format_version=FORMAT_VERSION,
                snapshot_id=request.snapshot_id,
                release_id=request.release_id,
                kind=request.kind,
                created_at=timestamp(),
                sequence=catalogue.next_sequence(),
                retention_limit=request.retention_limit,
                digest=snapshot_digest(records),
                assets=records,
                metadata_path=str(catalogue.path(request.snapshot_id) / "metadata.json"),
                audit=request.audit,
            )
        )
        fsync_tree(partial)
        write_atomic(partial / "metadata.json", pretty_bytes(encode(metadata)))
        fsync_directory(catalogue.store.folder)
        yield metadata
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(partial)
        raise


def _capture_side_by_side(
    assets: Mapping[str, AssetConfig], partial: Path, allow_damaged: bool, emit: Emit
) -> list[AssetRecord]:
    """Capture databases and files at the same time; returns the records in configured order."""
    is_cancelled = threading.Event()

    def tell(event: Event) -> None:
        if is_cancelled.is_set():
            raise StageFailed("The capture was given up.")
        emit(event)

    if emit is not ignore:  # all sizes first, so that the time left can be shown; without a display they are not needed
        for key, asset in assets.items():
            size = 0
            with contextlib.suppress(OSError):
                size = asset.kind.size(asset)
            emit(BytesMoved("capture", key, 0, size))
    with ThreadPoolExecutor(_CAPTURE_THREADS) as pool:
        captures = [
            pool.submit(capture_asset, key, asset, partial, emit=tell, allow_damaged=allow_damaged)
            for key, asset in assets.items()
        ]

        def has_ended(seconds: float) -> bool:
            done, running = wait(captures, timeout=seconds, return_when=FIRST_EXCEPTION)
            return not running or any(capture.exception() for capture in done)

        try:
            wait_for(has_ended)
            return [capture.result() for capture in captures if capture.done()]
        finally:
            is_cancelled.set()
            for capture in captures:
                capture.cancel()


def capture_asset(
    key: str, asset: AssetConfig, snapshot: Path, *, emit: Emit = ignore, allow_damaged: bool = False
) -> AssetRecord:
    """Copy one asset below ``snapshot`` and return its record; an absent asset is recorded as absent.

    With ``allow_damaged`` what cannot be read as an asset of its kind is kept byte for byte.
    """
    kind = asset.kind
    relative = f"assets/{key}/{asset.path.name}"
    record = AssetRecord(key=key, relative_path=relative, kind=kind.records_as, exists=False)
    try:
        info = os.lstat(asset.path)
    except FileNotFoundError:
        return record
    copy = snapshot / relative
    os.mkdir(copy.parent, 0o700)
    record = evolve(record, mode=stat.S_IMODE(info.st_mode))
    if not allow_damaged:
        return kind.capture(asset, record, copy, emit=emit)
    try:
        return kind.scan(asset, record, copy, emit=emit)
    except Damaged:
        return kind.keep_remains(asset, record, copy, emit)
