"""Is the snapshot live already? Then a rollback must leave alone what the service has written since."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from attrs import field, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.plugin import capture_through_plugin
from release_tasks.assets.plugin_host.calls import KindFailed
from release_tasks.assets.sqlite.database import is_sound
from release_tasks.config.schema import Settings
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Meter, ignore
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.stages.rollback.plan import files_match

__all__ = ["InPlace", "find_in_place"]


@frozen(kw_only=True)
class InPlace:
    """What the last restore put there is there. ``doubts`` name what could not be examined, and was left alone."""

    doubts: list[str] = field(factory=list)


def find_in_place(settings: Settings, pipeline: Pipeline, target: SnapshotMetadata) -> InPlace | None:
    """Return how sure it is that the last restore was of this very snapshot and is still in place; None when not.

    Databases, and what a plugin captures, only have to be sound: what is in them is the service's own since then.
    """
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id != target.snapshot_id:
        return None
    assets = settings.release.assets
    if pipeline.was_prepared_since(state.lineage) or not files_match(target, assets):
        return None
    recorded = {record.key: record for record in target.assets if record.key in assets}
    if not all(_is_database_sound(assets[key], record) for key, record in recorded.items()):
        return None
    doubts: list[str] = []
    for key, record in recorded.items():
        if assets[key].python is not None and not _is_sound(assets[key], record, pipeline, doubts):
            return None
    return InPlace(doubts=doubts)


def _is_database_sound(asset: AssetConfig, record: AssetRecord) -> bool:
    if asset.kind != "sqlite":
        return True
    return is_sound(asset.path) if record.exists else not asset.path.exists()


def _is_sound(asset: AssetConfig, record: AssetRecord, pipeline: Pipeline, doubts: list[str]) -> bool:
    """Say whether a plugin's asset is there and the plugin finds nothing wrong with a copy of it.

    A plugin that is missing or broken cannot tell, and is no reason to throw away what the service wrote.
    """
    try:
        info = os.lstat(asset.path)
    except (FileNotFoundError, NotADirectoryError):
        return not record.exists
    is_file, is_folder = stat.S_ISREG(info.st_mode), stat.S_ISDIR(info.st_mode)
    is_of_kind = asset.takes(record.kind) and (is_folder if record.kind == "directory" else is_file)
    if not record.exists or not is_of_kind:
        return False
    scratch = pipeline.catalogue.partial_path(f"examined_{secrets.token_hex(6)}")
    try:
        os.makedirs(scratch, 0o700)
        capture_through_plugin(record, asset, scratch / asset.path.name, Meter(ignore, "capture", record.key, 0))
    except (StageFailed, OSError) as error:
        if isinstance(error, KindFailed) and error.is_judged:
            return False
        doubts.append(f"{record.key} could not be examined and was left as it is: {error} --force restores it, too.")
    finally:
        with contextlib.suppress(OSError):  # the next run clears it away
            remove_tree(scratch)
    return True
