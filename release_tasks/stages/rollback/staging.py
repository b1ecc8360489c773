"""Copies that wait beside their targets, complete and flushed, for the moment they take the name."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import evolve

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import place_file, place_tree
from release_tasks.assets.sqlite.database import SIDE_FILES, set_journal_mode
from release_tasks.core.durable import fsync_directory, fsync_tree, make_private_directory, remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.records import AssetRecord, Inode, JournalStep

__all__ = ["discard_staged", "inode_of", "renumbered", "side_files", "stage_asset", "staged_leftovers", "staged_path"]

_MARK = ".release-tasks-"


def staged_path(target: Path, rollback_id: str) -> Path:
    """Return where the staged copy for ``target`` lies: in the same folder, so on the same filesystem."""
    return target.with_name(f".{target.name}{_MARK}{rollback_id}")


def stage_asset(asset: AssetConfig, record: AssetRecord, stored: Path, rollback_id: str, emit: Emit = ignore) -> Inode:
    """Copy a stored asset beside its target, check its bytes again, flush it; returns the inode of the copy."""
    staged = staged_path(asset.path, rollback_id)
    make_private_directory(asset.path.parent)
    remove_tree(staged)
    assert record.mode is not None
    meter = Meter(emit, "stage", record.key, record.size)
    if record.kind == "directory":
        place_tree(stored, staged, record.entries or [], record.mode, meter.add)
    else:
        if place_file(stored, staged, record.mode, meter.add) != record.sha256:
            raise StageFailed(f"{stored} changed while it was being staged; nothing was changed.")
        if record.kind == "sqlite":
            os.chmod(staged, 0o600)
            set_journal_mode(staged, record.journal_mode)
            os.chmod(staged, record.mode)
    meter.finish()
    fsync_tree(staged)
    fsync_directory(staged.parent)
    inode = inode_of(staged)
    assert inode is not None
    return inode


def inode_of(path: Path) -> Inode | None:
    """Return which file or folder the name stands for, links not followed, or None when there is none."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Inode(device=info.st_dev, number=info.st_ino)


def renumbered(step: JournalStep) -> JournalStep:
    """Return the step with the device numbers of today: a reboot may give a disk another one, and inodes stay.

    What lay on another device than its folder (a mount point, a layer of an overlay) keeps the number it had.
    """
    before, now = step.folder, inode_of(Path(step.path).parent)
    if before is None or now is None or now.number != before.number:
        return step

    def of_today(inode: Inode | None) -> Inode | None:
        return evolve(inode, device=now.device) if inode is not None and inode.device == before.device else inode

    return evolve(step, new=of_today(step.new), old=of_today(step.old), folder=now)


def side_files(database: Path) -> list[Path]:
    """Return the names that SQLite gives to the WAL, the shared memory and the rollback journal of a database."""
    return [database.with_name(database.name + suffix) for suffix in SIDE_FILES]


def staged_leftovers(assets: Mapping[str, AssetConfig]) -> list[Path]:
    """Return what is left beside the targets from rollbacks that ended early."""
    return [path for asset in assets.values() for path in _beside(asset.path)]


def discard_staged(assets: Mapping[str, AssetConfig]) -> list[Path]:
    """Remove every staged copy; call it with the lock held and no journal present. Returns what was removed.

    What cannot be found or removed (a folder that vanished, an immutable file, a disk that went read-only) is left for
    another time: it is in nobody's way.
    """
    removed: list[Path] = []
    for asset in assets.values():
        with contextlib.suppress(OSError):
            for path in list(_beside(asset.path)):
                with contextlib.suppress(OSError):
                    remove_tree(path)
                    removed.append(path)
    for folder in {path.parent for path in removed}:
        with contextlib.suppress(OSError):
            fsync_directory(folder)
    return removed


def _beside(target: Path) -> Iterator[Path]:
    prefix = f".{target.name}{_MARK}"
    try:
        is_folder = stat.S_ISDIR(os.stat(target.parent).st_mode)
    except OSError:
        return
    if is_folder:
        for name in sorted(os.listdir(target.parent)):
            if name.startswith(prefix):
                yield target.parent / name
