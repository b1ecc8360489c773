"""Write the assets of a snapshot as plain files into a folder, without a restore."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import require_intact
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import stored_path
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import UsageError, with_path
from release_tasks.core.events import Emit, Meter, StepBegan, ignore
from release_tasks.core.location import is_within
from release_tasks.core.owned import require_own_parent
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord, SnapshotMetadata

__all__ = ["ExtractedAsset", "Extraction", "extract_snapshot", "find_extraction"]


@frozen(kw_only=True)
class ExtractedAsset:
    """An asset that was written to ``path``; ``size`` is in bytes, ``sha256`` is that of its record."""

    key: str
    path: str
    kind: str
    size: int
    sha256: str | None


@frozen(kw_only=True)
class Extraction:
    """What was written of a snapshot. ``absent`` has the keys of assets that did not exist at snapshot time."""

    snapshot_id: str
    folder: str
    assets: list[ExtractedAsset] = field(factory=list)
    absent: list[str] = field(factory=list)


def find_extraction(
    settings: Settings, snapshot_id: str | None, key: str | None, folder: Path
) -> tuple[SnapshotMetadata, Extraction]:
    """Return the snapshot, and what ``extract_snapshot`` would write; changes nothing. Raises its errors."""
    pipeline = Pipeline(settings.release.root)
    snapshot = pipeline.catalogue.find(snapshot_id)
    if key is not None and snapshot.asset(key) is None:
        known = ", ".join(excerpt_line(asset.key) for asset in snapshot.assets)
        raise UsageError(f"--asset: {snapshot.snapshot_id} has no asset {excerpt_line(key)!r}; it has {known}.")
    _require_safe(settings, folder)
    chosen = [asset for asset in snapshot.assets if key in (None, asset.key)]
    found = Extraction(
        snapshot_id=snapshot.snapshot_id,
        folder=str(folder),
        assets=[
            ExtractedAsset(
                key=asset.key,
                path=str(folder / asset.key / _name(asset)),
                kind=asset.kind,
                size=asset.size,
                sha256=asset.sha256,
            )
            for asset in chosen
            if asset.exists
        ],
        absent=[asset.key for asset in chosen if not asset.exists],
    )
    for asset in found.assets:
        if os.path.lexists(folder / asset.key):
            raise UsageError(
                f"--to: {folder / asset.key} exists already, and nothing is overwritten. Name a new folder."
            )
    return snapshot, found


def extract_snapshot(
    settings: Settings, snapshot_id: str | None, folder: Path, *, key: str | None = None, emit: Emit = ignore
) -> Extraction:
    """Write the assets of a snapshot (the latest release snapshot for None) below ``folder``, one folder per key.

    ``key`` chooses one asset. Databases are plain files without a WAL, whatever they are stored as. Modes are those of
    the records, and bytes have the recorded digests. Nothing that exists is overwritten; after an error nothing new
    stays. Raises UsageError for an unknown snapshot or asset, and for a folder that has the assets already or is in the
    live state or the pipeline; StageFailed when the snapshot is not as recorded; OSError.
    """
    snapshot, found = find_extraction(settings, snapshot_id, key, folder)
    catalogue = Pipeline(settings.release.root).catalogue
    emit(StepBegan("verify", snapshot.snapshot_id))
    require_intact(catalogue, snapshot, emit)
    emit(StepBegan("extract", snapshot.snapshot_id))
    with _new_folders([folder, *(folder / asset.key for asset in found.assets)]):
        for asset in found.assets:
            record = snapshot.asset(asset.key)
            assert record is not None
            stored = stored_path(catalogue.path(snapshot.snapshot_id), record)
            target = trusted(Path(asset.path))
            meter = Meter(emit, "copy", asset.key, asset.size)
            kind_of(record).extract(record, stored, target, meter)
            meter.finish()
            target.flush()
            target.flush_folder()
    return found


def _require_safe(settings: Settings, folder: Path) -> None:
    """Raise UsageError for a folder inside the live state or the pipeline, ForeignFolder for one of another user."""
    require_own_parent(folder / "asset", "--to")
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--to: {folder} is not a directory.")
    if not folder.parent.is_dir():
        raise UsageError(f"--to: {folder.parent} does not exist. Create it, or name another folder.")
    live = {"release.root": settings.release.root}
    live |= {f"release.assets.{key}": asset.path for key, asset in settings.release.assets.items()}
    for name, path in live.items():
        if is_within(folder, path):
            raise UsageError(f"--to: {folder} is the place of {name}, which an extraction must not touch.")


@contextlib.contextmanager
def _new_folders(folders: list[Path]) -> Iterator[None]:
    """Create private folders, of which the first may exist; remove those that were created when the block fails."""
    made: list[Path] = []
    try:
        for path in folders:
            with contextlib.suppress(*([FileExistsError] if path == folders[0] else [])), with_path(path):
                os.mkdir(path, 0o700)
                made.append(path)
        yield
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                remove_tree(path)
        raise


def _name(record: AssetRecord) -> str:
    name = record.relative_path.rpartition("/")[2]
    return name if record.delta is None else name.removesuffix(".rtd1")
