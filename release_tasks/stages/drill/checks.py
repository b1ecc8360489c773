"""Is what was restored exactly what the metadata says, and is every database in it sound to its last page?"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Literal

from release_tasks.assets.base import AssetConfig, Examined, is_folder
from release_tasks.assets.kinds import kind_of
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.stages.drill.outcome import AssetCheck, DatabaseCheck

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
        found = asset.kind.inspect(record, asset.path) if record is not None and record.exists else None
        if found is not None:
            checks.append(DatabaseCheck(key=key, integrity=found.problem or "ok", tables=found.rows))
    return checks


def check_plugins(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> dict[str, Examined]:
    """Let each plugin that took a copy check what was restored of it."""
    found = {
        key: kind_of(record).examine(record, asset, asset.path)
        for key, asset in assets.items()
        if (record := snapshot.asset(key)) is not None and record.exists
    }
    return {key: examined for key, examined in found.items() if examined is not None}


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
    is_tree = is_folder(record)
    if not (stat.S_ISDIR(mode) if is_tree else stat.S_ISREG(mode)):
        return f"it should be a {'folder' if is_tree else 'file'} and is none"
    if stat.S_IMODE(mode) != record.mode:
        return f"its mode is {stat.S_IMODE(mode):o} instead of {record.mode or 0:o}"
    digest, expected = asset.kind.digest(record, asset.path), record.content_digest or record.sha256
    if digest != expected:
        return f"its content differs (recorded {expected}, restored {digest})"
    strays = [path.name for path in asset.kind.strays(asset.path) if os.path.lexists(path)]
    return f"{strays[0]} lies beside it, which belongs to no snapshot" if strays else ""
