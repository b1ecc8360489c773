"""What a rollback would change: every configured asset, live against snapshot."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import entries_digest, scan_file, scan_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, SnapshotMetadata

__all__ = ["AssetChange", "RollbackPlan", "files_match", "plan_changes", "remarks_on_safety"]


@frozen(kw_only=True)
class AssetChange:
    """What happens to one asset. ``is_live_damaged``: it cannot be read any more and is replaced whole."""

    key: str
    action: Literal["restore", "remove", "keep"]
    detail: str
    is_live_damaged: bool = False
    exists_live: bool = True


@frozen(kw_only=True)
class RollbackPlan:
    """All changes, and what an operator should know besides."""

    snapshot_id: str
    changes: list[AssetChange]
    diagnostics: list[str] = field(factory=list)

    def keys(self, action: str) -> list[str]:
        """Return the assets with one action, in configured order."""
        return [change.key for change in self.changes if change.action == action]


def plan_changes(
    target: SnapshotMetadata, assets: Mapping[str, AssetConfig], live: Mapping[str, AssetRecord]
) -> RollbackPlan:
    """Compare the live records with the snapshot's.

    Raises StageFailed when an asset is of another kind now, or when the snapshot holds only remains of it.
    """
    changes: list[AssetChange] = []
    diagnostics: list[str] = []
    for key, asset in assets.items():
        record = target.asset(key)
        if record is None:
            changes.append(AssetChange(key=key, action="keep", detail="not in this snapshot, left as it is"))
            diagnostics.append(f"{key}: snapshot {target.snapshot_id} does not hold it; it is left as it is.")
            continue
        if not asset.takes(record.kind):
            raise StageFailed(
                f"Asset {key} is configured as {asset.kind}, but snapshot {target.snapshot_id} holds a {record.kind}."
            )
        if record.damaged:
            raise StageFailed(
                f"Snapshot {target.snapshot_id} holds only remains of asset {key}, which was damaged then; "
                "choose another snapshot, or repair the remains by hand."
            )
        changes.append(_change(key, record, live[key]))
        diagnostics += _remarks(record, asset)
    for record in target.assets:
        if record.key not in assets:
            diagnostics.append(f"{record.key}: in the snapshot, but not in release.assets any more; not restored.")
    return RollbackPlan(snapshot_id=target.snapshot_id, changes=changes, diagnostics=diagnostics)


def remarks_on_safety(safety: SnapshotMetadata) -> list[str]:
    """Return what an operator should know of the way back: assets that their plugin could not capture."""
    return [
        f"{record.key}: the copy in {safety.snapshot_id} is a plain one. {record.plugin_problem}"
        for record in safety.assets
        if record.plugin_problem is not None
    ]


def files_match(target: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> bool:
    """Say whether every file and folder is live exactly as the snapshot has it.

    Not looked at is what the service writes to: databases, and what a plugin captures.
    """
    for key, asset in assets.items():
        record = target.asset(key)
        if record is None or asset.kind in ("sqlite", "python"):
            continue
        if record.kind != asset.kind or not _is_live_as_recorded(asset, record):
            return False
    return True


def _remarks(record: AssetRecord, asset: AssetConfig) -> list[str]:
    if record.plugin_problem is not None:
        why = record.plugin_problem.rstrip(".")
        return [f"{record.key}: this copy is a plain one and may end in the middle of a record: {why}."]
    if None not in (record.plugin, asset.python) and record.plugin != asset.python:
        return [
            f"{record.key}: {record.plugin} took this copy, {asset.python} is configured now; it is restored as it is."
        ]
    return []


def _is_live_as_recorded(asset: AssetConfig, record: AssetRecord) -> bool:
    try:
        info = os.lstat(asset.path)
    except FileNotFoundError:
        return not record.exists
    if not record.exists or stat.S_IMODE(info.st_mode) != record.mode:
        return False
    try:
        if asset.kind == "file":
            return scan_file(asset.path).sha256 == record.sha256
        return stat.S_ISDIR(info.st_mode) and entries_digest(scan_tree(asset.path)) == record.sha256
    except (OSError, StageFailed):
        return False


def _change(key: str, record: AssetRecord, live: AssetRecord) -> AssetChange:
    if not record.exists:
        if not live.exists:
            return AssetChange(key=key, action="keep", detail="absent, as in the snapshot", exists_live=False)
        return AssetChange(key=key, action="remove", detail="did not exist at snapshot time")
    if not live.exists:
        return AssetChange(key=key, action="restore", detail="missing", exists_live=False)
    if live.damaged:
        return AssetChange(key=key, action="restore", detail="damaged, replaced whole", is_live_damaged=True)
    if live.left_out:
        return AssetChange(
            key=key, action="restore", detail=f"holds what cannot be captured: {', '.join(live.left_out)}"
        )
    if (live.content_digest or live.sha256, live.mode) == (record.content_digest or record.sha256, record.mode):
        return AssetChange(key=key, action="keep", detail="equal to the snapshot")
    return AssetChange(key=key, action="restore", detail=_difference(record, live))


def _difference(record: AssetRecord, live: AssetRecord) -> str:
    if record.kind != "directory":
        if (live.content_digest or live.sha256) == (record.content_digest or record.sha256):
            return f"mode {live.mode:o} instead of {record.mode:o}"
        return f"content differs ({live.size} bytes live, {record.size} in the snapshot)"
    before = {entry.path: entry for entry in record.entries or []}
    now = {entry.path: entry for entry in live.entries or []}
    parts = [
        ("changed", sorted(path for path in before.keys() & now.keys() if before[path] != now[path])),
        ("missing", sorted(before.keys() - now.keys())),
        ("added", sorted(now.keys() - before.keys())),
    ]
    told = [f"{word}: {', '.join(paths[:5])}{' ...' if len(paths) > 5 else ''}" for word, paths in parts if paths]
    return "; ".join(told) or f"mode {live.mode:o} instead of {record.mode:o}"
