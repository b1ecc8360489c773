"""Capture live state in a new snapshot, which is published completely or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from release_tasks.archive.attestation.captured import sign_snapshot
from release_tasks.archive.attestation.signing import Signer
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.seal import metadata_bytes, sealed, snapshot_digest
from release_tasks.archive.verify import unexpected_files
from release_tasks.assets.base import AssetConfig, Base, Scan
from release_tasks.assets.files import Unreadable
from release_tasks.assets.findings import Damaged
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import fsync_directory, fsync_tree, make_private_directory, remove_tree, write_atomic
from release_tasks.core.entries import write_entries
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Emit, Event, ignore
from release_tasks.core.interrupt import wait_for
from release_tasks.core.records import (
    FORMAT_VERSION,
    AssetRecord,
    AuditAnchor,
    ParentFolder,
    SnapshotMetadata,
    format_of,
)
from release_tasks.core.threads import pool as thread_pool

__all__ = [
    "CaptureRequest",
    "capture_asset",
    "capture_snapshot",
    "new_snapshot",
    "publish_safety_snapshot",
    "require_few_assets",
    "survey_asset",
    "unpublished_snapshot",
]

_CAPTURE_THREADS = 2
_ATTEMPTS = 5  # to capture an asset that vanishes meanwhile


@frozen(kw_only=True)
class CaptureRequest:
    """The metadata of a new snapshot that is known before its capture."""

    snapshot_id: str
    release_id: str | None
    kind: Literal["release", "safety"]
    retention_limit: int
    audit: AuditAnchor | None = None
    parents: list[ParentFolder] = field(factory=list)
    allow_damaged: bool = False  # a safety snapshot has a raw copy of an asset that cannot be read
    scans: Mapping[str, Scan] = field(factory=dict)  # the assets that are captured through their scans


def capture_snapshot(
    catalogue: Catalogue,
    assets: Mapping[str, AssetConfig],
    request: CaptureRequest,
    emit: Emit = ignore,
    signer: Signer | None = None,
) -> SnapshotMetadata:
    """Capture every asset, publish the snapshot durably, signed by ``signer``, and return its metadata.

    Raises StageFailed or OSError when an asset cannot be captured, and leaves no files then.
    """
    with unpublished_snapshot(catalogue, assets, request, emit) as metadata:
        sign_snapshot(signer, catalogue.store.partial_path(metadata.snapshot_id), metadata)
        catalogue.publish(metadata)
    return metadata


def require_few_assets(assets: Mapping[str, AssetConfig]) -> None:
    """Raise StageFailed when the metadata of so many assets would be larger than the limits of a reader."""
    digest = "0" * 64
    records = [
        AssetRecord(
            key=key,
            relative_path=f"assets/{key}/{asset.path.name}",
            kind=asset.kind.records_as,
            exists=True,
            sha256=digest,
            content_digest=digest,
            mode=0,
        )
        for key, asset in assets.items()
    ]
    sealed(
        SnapshotMetadata(
            format_version=FORMAT_VERSION,
            snapshot_id="",
            release_id=None,
            kind="release",
            created_at="",
            sequence=1,
            retention_limit=1,
            digest=digest,
            assets=records,
            metadata_path="",
        )
    )


@contextlib.contextmanager
def unpublished_snapshot(
    catalogue: Catalogue, assets: Mapping[str, AssetConfig], request: CaptureRequest, emit: Emit = ignore
) -> Iterator[SnapshotMetadata]:
    """Capture every asset durably in a folder that no reader treats as a snapshot.

    The block may call ``publish`` of the store to make it a snapshot; an exception in the block removes the folder.
    Raises StageFailed or OSError when an asset cannot be captured.
    """

    def capture(partial: Path) -> list[AssetRecord]:
        records = _capture_concurrently(assets, partial, request, emit, catalogue.find_bases(assets))
        for path in unexpected_files(partial, records):  # a plugin may have written to a wrong path
            raise StageFailed(f"{path} was written into the snapshot, but belongs to no asset.")
        return records

    with new_snapshot(catalogue, capture, request) as metadata:
        yield metadata


def publish_safety_snapshot(
    catalogue: Catalogue,
    metadata: SnapshotMetadata,
    scans: Mapping[str, Scan],
    signer: Signer | None = None,
) -> SnapshotMetadata:
    """Complete a safety snapshot while the assets are locked, publish it and return its final metadata.

    ``scans`` are those of the locked assets. It is signed by ``signer``.

    Raises StageFailed or OSError when the snapshot cannot be completed, and does not publish it then.
    """
    partial = catalogue.store.partial_path(metadata.snapshot_id)
    records = [scans[record.key].seal(record) if record.key in scans else record for record in metadata.assets]
    if records != metadata.assets:
        metadata = evolve(metadata, format_version=format_of(records), assets=records, digest=snapshot_digest(records))
        metadata = sealed(metadata)
        write_atomic(partial / "metadata.json", metadata_bytes(metadata))
    sign_snapshot(signer, partial, metadata)
    catalogue.publish(metadata)
    return metadata


@contextlib.contextmanager
def new_snapshot(
    catalogue: Catalogue, fill: Callable[[Path], list[AssetRecord]], request: CaptureRequest
) -> Iterator[SnapshotMetadata]:
    """Make a snapshot of the files that ``fill`` writes below its argument; ``fill`` returns their records.

    Otherwise the same as ``unpublished_snapshot``.
    """
    make_private_directory(catalogue.store.folder)
    partial = catalogue.store.partial_path(request.snapshot_id)
    remove_tree(partial)
    try:
        os.mkdir(partial, 0o700)
        os.mkdir(partial / "assets", 0o700)
        records = fill(partial)
        _write_entries(partial, records)
        metadata = sealed(
            SnapshotMetadata(
                format_version=format_of(records),
                snapshot_id=request.snapshot_id,
                release_id=request.release_id,
                kind=request.kind,
                created_at=timestamp(),
                sequence=catalogue.next_sequence(),
                retention_limit=request.retention_limit,
                digest=snapshot_digest(records),
                assets=records,
                parents=request.parents,
                metadata_path=str(catalogue.path(request.snapshot_id) / "metadata.json"),
                audit=request.audit,
            )
        )
        fsync_tree(partial)
        write_atomic(partial / "metadata.json", metadata_bytes(metadata))
        fsync_directory(catalogue.store.folder)
        yield metadata
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(partial)
        raise


def _write_entries(partial: Path, records: Iterable[AssetRecord]) -> None:
    for record in records:
        if record.entries is not None:
            write_entries(partial, record.key, record.entries)


def _capture_concurrently(
    assets: Mapping[str, AssetConfig], partial: Path, request: CaptureRequest, emit: Emit, bases: Mapping[str, Base]
) -> list[AssetRecord]:
    """Capture several assets at the same time; return the records in configured order.

    The scans run in this thread: their databases stay open in it.
    """
    is_cancelled = threading.Event()

    def emit_unless_cancelled(event: Event) -> None:
        if is_cancelled.is_set():
            raise StageFailed("The capture was cancelled.")
        emit(event)

    if emit is not ignore:  # report all sizes first, so that a display can estimate the remaining time
        for key, asset in assets.items():
            size = 0
            with contextlib.suppress(OSError):
                size = asset.kind.size(asset)
            emit(BytesMoved("capture", key, 0, size))
    with thread_pool(_CAPTURE_THREADS) as pool:
        captures = {
            key: pool.submit(
                capture_asset,
                key,
                asset,
                partial,
                emit=emit_unless_cancelled,
                allow_damaged=request.allow_damaged,
                base=bases.get(key),
            )
            for key, asset in assets.items()
            if key not in request.scans
        }

        def has_finished(seconds: float) -> bool:
            done, running = wait(captures.values(), timeout=seconds, return_when=FIRST_EXCEPTION)
            return not running or any(capture.exception() for capture in done)

        try:
            records = {
                key: _capture_through(scan, key, assets[key], partial, emit) for key, scan in request.scans.items()
            }
            wait_for(has_finished)
            records |= {key: capture.result() for key, capture in captures.items() if capture.done()}
            return [records[key] for key in assets]
        finally:
            is_cancelled.set()
            for capture in captures.values():
                capture.cancel()


def _capture_through(scan: Scan, key: str, asset: AssetConfig, snapshot: Path, emit: Emit) -> AssetRecord:
    """Copy one asset through its scan; state that the scan cannot read is copied as without one."""
    relative = f"assets/{key}/{asset.path.name}"
    copy = snapshot / relative
    os.mkdir(copy.parent, 0o700)
    record = AssetRecord(key=key, relative_path=relative, kind=asset.kind.records_as, exists=True)
    try:
        return scan.capture(record, copy, emit)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        scan.release()
        remove_tree(copy.parent)
        return capture_asset(key, asset, snapshot, emit=emit, allow_damaged=True)


def capture_asset(
    key: str,
    asset: AssetConfig,
    snapshot: Path,
    *,
    emit: Emit = ignore,
    allow_damaged: bool = False,
    look_only: bool = False,
    base: Base | None = None,
) -> AssetRecord:
    """Copy one asset below ``snapshot`` and return its record; an absent asset is recorded as absent.

    With ``allow_damaged``, state that cannot be read as an asset of its kind is copied byte for byte, and a change
    meanwhile is no error. ``look_only`` is for a comparison: it copies such state too, and changes nothing live.
    With a ``base``, what differs from it is stored.
    """
    relative = f"assets/{key}/{asset.path.name}"
    absent = AssetRecord(key=key, relative_path=relative, kind=asset.kind.records_as, exists=False)
    copy = snapshot / relative
    for _ in range(_ATTEMPTS):
        info = asset.kind.live_info(asset)
        if info is None:
            return absent
        os.mkdir(copy.parent, 0o700)
        record = evolve(absent, mode=stat.S_IMODE(info.st_mode))
        if not (allow_damaged or look_only):
            if base is not None:
                return asset.kind.capture_against(asset, record, copy, base, emit=emit)
            return asset.kind.capture(asset, record, copy, emit=emit)
        try:
            return _capture_anything(asset, record, copy, emit, look_only=look_only, base=base)
        except (FileNotFoundError, NotADirectoryError):  # it has vanished since, and may come back at any moment
            remove_tree(copy.parent)
    return evolve(absent, left_out=[asset.path.name], left_out_count=1)


def survey_asset(key: str, asset: AssetConfig, *, look_only: bool = False) -> AssetRecord:
    """Return whether the live asset exists and can be read, without a copy of it and without its digest.

    With ``look_only`` nothing live is opened.
    """
    relative = f"assets/{key}/{asset.path.name}"
    record = AssetRecord(key=key, relative_path=relative, kind=asset.kind.records_as, exists=False)
    info = asset.kind.live_info(asset)
    if info is None:
        return record
    is_damaged = not look_only and not asset.kind.can_replace_content(asset)
    return evolve(record, exists=True, mode=stat.S_IMODE(info.st_mode), damaged=is_damaged)


def _capture_anything(
    asset: AssetConfig, record: AssetRecord, copy: Path, emit: Emit, *, look_only: bool, base: Base | None
) -> AssetRecord:
    capture = asset.kind.look if look_only else asset.kind.scan
    try:
        if base is not None:
            return asset.kind.capture_against(asset, record, copy, base, emit=emit)
        return capture(asset, record, copy, emit=emit)
    except Damaged:
        return asset.kind.capture_raw(asset, record, copy, emit)
    except Unreadable as unreadable:
        if isinstance(unreadable.error, FileNotFoundError):
            raise unreadable.error from None
        return asset.kind.capture_raw(asset, record, copy, emit)
