"""State that came back after a restore: a process held it in memory and wrote it over the restored files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.typed import typed

__all__ = ["describe_written_back", "find_written_back", "find_written_back_since"]


def find_written_back(
    assets: Mapping[str, AssetConfig], target: SnapshotMetadata, before: SnapshotMetadata | None
) -> list[str]:
    """Return the files and folders whose content equals the state ``before`` a restore of ``target`` again.

    A file that the service rewrote since equals neither and is not reported. Modes and owners are not compared: a
    process that replaces a file may give it others. Databases are not compared: they would have to be copied.
    """
    return [] if before is None else [key for key in assets if _is_back(key, assets[key], target, before)]


def find_written_back_since(
    assets: Mapping[str, AssetConfig], target: SnapshotMetadata, pipeline: Pipeline
) -> list[str]:
    """Return the same for the last restore, of ``target``; an empty list when its safety snapshot is gone."""
    state = pipeline.known_state()
    with contextlib.suppress(StageError, OSError):
        if state is not None and state.safety_snapshot_id is not None:
            return find_written_back(assets, target, pipeline.catalogue.get(state.safety_snapshot_id))
    return []


def describe_written_back(keys: list[str], snapshot_id: str, stop_command: str | None) -> list[str]:
    """Return the message about assets that were written back, with what to do; an empty list when there are none."""
    if not keys:
        return []
    fix = "Set release.restart.stop to a command that ends the service before the restore"
    if stop_command is not None:
        fix = f"The stop command {stop_command!r} did not end that process. End it"
    return [
        f"{', '.join(keys)}: the content is that of before the rollback again. A process held it in memory and wrote "
        f"it over the restored state. {fix}, then: {typed('release.rollback', '--snapshot', snapshot_id)}"
    ]


def _is_back(key: str, asset: AssetConfig, target: SnapshotMetadata, before: SnapshotMetadata) -> bool:
    new, old = target.asset(key), before.asset(key)
    if asset.kind.state_check_cost or new is None or old is None or old.damaged:
        return False
    return _content(new) != _content(old) and _live_content(asset, old) == _content(old)


def _content(record: AssetRecord) -> str | None:
    """Return the digest of recorded content; None for an absent asset."""
    return record.sha256 if record.exists else None


def _live_content(asset: AssetConfig, record: AssetRecord) -> str | None:
    """Return the digest of the live content; None for an absent asset, and a text for one that cannot be read."""
    if not os.path.lexists(asset.path):
        return None
    with contextlib.suppress(StageFailed, OSError):
        return asset.kind.read_live(asset, record).sha256
    return "unreadable"
