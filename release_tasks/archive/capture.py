"""Live state into a new snapshot that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.seal import sealed, snapshot_digest
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import capture_file, capture_tree, entries_digest, place_link, scan_tree, tree_size
from release_tasks.assets.plugin import capture_plain, capture_through_plugin
from release_tasks.assets.plugin_host.calls import KindFailed
from release_tasks.assets.sqlite.database import SIDE_FILES, DamagedDatabase, capture_database
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import encode
from release_tasks.core.durable import (
    fsync_directory,
    fsync_tree,
    make_private_directory,
    remove_tree,
    write_atomic,
)
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Emit, Event, Meter, ignore
from release_tasks.core.records import FORMAT_VERSION, AssetRecord, AuditAnchor, SnapshotMetadata

__all__ = ["CaptureRequest", "capture_asset", "capture_snapshot", "filled_snapshot", "unpublished_snapshot"]

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
        catalogue.publish(metadata.snapshot_id)
    return metadata


@contextlib.contextmanager
def unpublished_snapshot(
    catalogue: Catalogue, assets: Mapping[str, AssetConfig], request: CaptureRequest, emit: Emit = ignore
) -> Iterator[SnapshotMetadata]:
    """Capture every asset, flushed, under a name that no reader takes for a snapshot.

    The block decides: ``catalogue.publish`` makes it one, and an exception removes it. Raises StageFailed or OSError
    when an asset cannot be captured.
    """

    def capture(partial: Path) -> list[AssetRecord]:
        records = _capture_side_by_side(assets, partial, request.allow_damaged, emit)
        _require_nothing_else(partial, records)
        return records

    with filled_snapshot(catalogue, capture, request) as metadata:
        yield metadata


@contextlib.contextmanager
def filled_snapshot(
    catalogue: Catalogue, fill: Callable[[Path], list[AssetRecord]], request: CaptureRequest
) -> Iterator[SnapshotMetadata]:
    """Do the same with whatever ``fill`` lays below the folder that it is given; it returns the records of that."""
    make_private_directory(catalogue.folder)
    partial = catalogue.partial_path(request.snapshot_id)
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
        fsync_directory(catalogue.folder)
        yield metadata
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(partial)
        raise


def _capture_side_by_side(
    assets: Mapping[str, AssetConfig], partial: Path, allow_damaged: bool, emit: Emit
) -> list[AssetRecord]:
    """Capture databases and files at the same time; returns the records in configured order.

    Waits in slices: the kernel may hand a signal to any thread, and Python acts on it in this one.
    """
    is_cancelled = threading.Event()

    def tell(event: Event) -> None:
        if is_cancelled.is_set():
            raise StageFailed("The capture was given up.")
        emit(event)

    if emit is not ignore:  # all sizes first, so that a time left can be told; nobody else has to wait for them
        for key, asset in assets.items():
            emit(BytesMoved("capture", key, 0, _size_of(asset)))
    with ThreadPoolExecutor(_CAPTURE_THREADS) as pool:
        captures = [
            pool.submit(capture_asset, key, asset, partial, emit=tell, allow_damaged=allow_damaged)
            for key, asset in assets.items()
        ]
        try:
            while wait(captures, timeout=0.05, return_when=FIRST_EXCEPTION).not_done:
                if any(capture.done() and capture.exception() for capture in captures):
                    break
            return [capture.result() for capture in captures if capture.done()]
        finally:
            is_cancelled.set()
            for capture in captures:
                capture.cancel()


def _require_nothing_else(partial: Path, records: list[AssetRecord]) -> None:
    """Raise StageFailed where something was written that no record tells of: a plugin may have lost its way."""
    expected = {"assets"} | {f"assets/{record.key}" for record in records if record.exists}
    expected |= {record.relative_path for record in records if record.exists}
    for folder in ("", "assets", *(f"assets/{record.key}" for record in records if record.exists)):
        for name in sorted(os.listdir(partial / folder)):
            if os.path.join(folder, name) not in expected:
                raise StageFailed(
                    f"{os.path.join(folder, name)} was written into the snapshot, and belongs to no asset."
                )


def capture_asset(
    key: str, asset: AssetConfig, snapshot: Path, *, emit: Emit = ignore, allow_damaged: bool = False
) -> AssetRecord:
    """Copy one asset below ``snapshot`` and return its record; an absent asset is recorded as absent."""
    relative = f"assets/{key}/{asset.path.name}"
    copy = snapshot / relative
    kind: Any = "file" if asset.python is not None else asset.kind
    absent = AssetRecord(key=key, relative_path=relative, kind=kind, exists=False)
    try:
        info = os.lstat(asset.path)
    except FileNotFoundError:
        return absent
    os.mkdir(copy.parent, 0o700)
    mode = stat.S_IMODE(info.st_mode)
    meter = Meter(emit, "capture", key, info.st_size)
    if asset.kind == "sqlite":
        return _capture_sqlite(evolve(absent, mode=mode), asset.path, copy, emit, allow_damaged)
    if asset.python is not None:
        return _capture_foreign(evolve(absent, mode=mode), asset, copy, meter, allow_damaged)
    is_expected = stat.S_ISREG(info.st_mode) if asset.kind == "file" else stat.S_ISDIR(info.st_mode)
    if not is_expected and allow_damaged:
        return _keep_remains(evolve(absent, mode=mode), asset.path, copy, meter)
    if asset.kind == "file":
        entry = capture_file(asset.path, copy, meter.add)
        meter.finish()
        return evolve(absent, exists=True, size=entry.size, sha256=entry.sha256, mode=mode)
    if not is_expected:
        raise StageFailed(f"{asset.path} (asset {key}) should be a folder and is none.")
    left_out: list[str] = []
    meter = Meter(emit, "capture", key, 0 if emit is ignore else _size_of(asset))
    entries = capture_tree(asset.path, copy, left_out if allow_damaged else None, meter.add)
    meter.finish()
    size = sum(entry.size for entry in entries)
    digest = entries_digest(entries)
    return evolve(absent, exists=True, size=size, sha256=digest, mode=mode, entries=entries, left_out=left_out or None)


def _capture_sqlite(record: AssetRecord, source: Path, copy: Path, emit: Emit, allow_damaged: bool) -> AssetRecord:
    copied = Meter(emit, "capture", record.key, 0)
    checked = Meter(emit, "check", record.key, 0)

    def count_checked(size: int) -> None:
        checked.reach(checked.done + size, copied.total)

    try:
        journal_mode, digest = capture_database(source, copy, copied.reach, count_checked)
    except DamagedDatabase:
        if not allow_damaged:
            raise
        return _keep_remains(record, source, copy, copied)
    _keep_owner(source, copy)
    return evolve(
        record,
        exists=True,
        size=copy.stat().st_size,
        sha256=digest,
        content_digest=digest,
        journal_mode=journal_mode,
    )


def _capture_foreign(
    record: AssetRecord, asset: AssetConfig, copy: Path, meter: Meter, allow_damaged: bool
) -> AssetRecord:
    """Capture what a plugin knows; a safety snapshot does without it where it fails, for no rollback may need it."""
    try:
        return capture_through_plugin(record, asset, copy, meter)
    except KindFailed as error:
        if not allow_damaged:
            raise
        problem = error.message
    remove_tree(copy.parent)
    os.mkdir(copy.parent, 0o700)
    meter.reach(0, meter.total)
    record = evolve(record, plugin_problem=problem)
    mode = os.lstat(asset.path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return capture_plain(record, asset, copy, meter)
    return _keep_remains(record, asset.path, copy, meter)


def _keep_remains(record: AssetRecord, source: Path, copy: Path, meter: Meter) -> AssetRecord:
    """Keep what stands in the place of an asset and cannot be read as one, byte for byte.

    For a database its side files are kept with it.
    """
    remove_tree(copy)
    os.mkdir(copy, 0o700)
    meter.reach(0, meter.total)
    side_files = [source.with_name(source.name + suffix) for suffix in SIDE_FILES] if record.kind == "sqlite" else []
    for path in [source, *side_files]:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            place_link(os.readlink(path), copy / path.name)
        elif stat.S_ISDIR(mode):
            capture_tree(path, copy / path.name, left_out=[], count=meter.add)
        elif stat.S_ISREG(mode):  # a socket or a device has no bytes to keep
            capture_file(path, copy / path.name, meter.add)
    meter.finish()
    entries = scan_tree(copy)
    size = sum(entry.size for entry in entries)
    return evolve(record, exists=True, damaged=True, size=size, sha256=entries_digest(entries), entries=entries)


def _size_of(asset: AssetConfig) -> int:
    with contextlib.suppress(OSError):
        is_folder = asset.kind == "directory" or (asset.python is not None and asset.path.is_dir())
        return tree_size(asset.path) if is_folder else os.lstat(asset.path).st_size
    return 0


def _keep_owner(source: Path, copy: Path) -> None:
    info = os.lstat(source)
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(OSError):
            os.chown(copy, info.st_uid, info.st_gid)
