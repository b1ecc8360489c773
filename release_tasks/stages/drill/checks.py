"""Is what was restored exactly what the metadata says, and is every database in it sound to its last page?"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import entries_digest, scan_file, scan_tree
from release_tasks.assets.plugin import Examined, examine_copy
from release_tasks.assets.sqlite.database import check_database, content_digest, count_rows
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.stages.drill.outcome import AssetCheck, DatabaseCheck
from release_tasks.stages.rollback.staging import side_files

__all__ = ["check_assets", "check_databases", "check_plugins"]


def check_assets(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> list[AssetCheck]:
    """Compare every restored asset with its record: presence, bytes, modes, links. Looks at no live path."""
    return [
        _check_asset(key, asset, record) for key, asset in assets.items() if (record := snapshot.asset(key)) is not None
    ]


def check_databases(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> list[DatabaseCheck]:
    """Run ``integrity_check`` on every restored database and count the rows of its tables."""
    checks = []
    for key, asset in assets.items():
        record = snapshot.asset(key)
        if asset.kind == "sqlite" and record is not None and record.exists:
            try:
                check_database(asset.path, thorough=True)
                checks.append(DatabaseCheck(key=key, integrity="ok", tables=count_rows(asset.path)))
            except (StageFailed, OSError) as error:
                checks.append(DatabaseCheck(key=key, integrity=describe_error(error)))
    return checks


def check_plugins(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> dict[str, Examined]:
    """Let each plugin that took a copy look at what was restored of it."""
    return {
        key: examine_copy(record, asset, asset.path)
        for key, asset in assets.items()
        if (record := snapshot.asset(key)) is not None and record.exists and record.plugin is not None
    }


def _check_asset(key: str, asset: AssetConfig, record: AssetRecord) -> AssetCheck:
    try:
        problem = _difference(asset, record)
    except (StageFailed, OSError) as error:
        problem = describe_error(error)
    status: Literal["restored", "absent", "failed"] = "restored" if record.exists else "absent"
    return AssetCheck(key=key, kind=record.kind, status="failed" if problem else status, detail=problem)


def _difference(asset: AssetConfig, record: AssetRecord) -> str:
    """Say how an asset differs from its record; an empty text for one that does not."""
    if not os.path.lexists(asset.path):
        return "it was not restored" if record.exists else ""
    if not record.exists:
        return "it is there, and did not exist at snapshot time"
    mode = os.lstat(asset.path).st_mode
    is_folder = record.kind == "directory"
    if not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
        return f"it should be a {'folder' if is_folder else 'file'} and is none"
    if stat.S_IMODE(mode) != record.mode:
        return f"its mode is {stat.S_IMODE(mode):o} instead of {record.mode or 0:o}"
    digest, expected = _digest(record, asset.path), record.content_digest or record.sha256
    if digest != expected:
        return f"its content differs (recorded {expected}, restored {digest})"
    strays = [path.name for path in side_files(asset.path) if asset.kind == "sqlite" and os.path.lexists(path)]
    return f"{strays[0]} lies beside it, which belongs to no snapshot" if strays else ""


def _digest(record: AssetRecord, path: Path) -> str | None:
    if record.kind == "directory":
        return entries_digest(scan_tree(path))
    return content_digest(path) if record.kind == "sqlite" else scan_file(path).sha256
