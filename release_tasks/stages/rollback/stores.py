"""Pairing stores that are part of an asset: find the asset, and lock the stores during a rollback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

from release_tasks.archive.derive import StoredFile
from release_tasks.assets.base import AssetConfig
from release_tasks.assets.placing import staged
from release_tasks.assets.stored import is_folder
from release_tasks.config.schema import Settings
from release_tasks.core.lock import FileLock
from release_tasks.core.place import find
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.store import Store

__all__ = ["HeldStores", "RestoredTree", "covered_channels", "hold_stores", "require_own_stores"]

_MAX_LINKS = 40  # the limit of Linux


def covered_channels(settings: Settings) -> list[Channel]:
    """Return the channels whose approvals are in an asset; all channels when an asset contains their common log."""
    store = Store(settings.pairing.credentials)
    roots = _roots(settings.release.assets)
    steps = _steps(store.folder, _live_link)
    if not steps:
        return []

    def is_covered(path: Path) -> bool:
        return any(step in roots for step in (*steps, steps[-1] / path.name))

    if is_covered(store.audit.path):
        return list(Channel)
    return [channel for channel in Channel if is_covered(store.approved_path(channel))]


def require_own_stores(settings: Settings) -> None:
    """Raise ForeignFolder in a run as root when a rollback amends pairing stores that another user can change.

    A release checks it too, so that the first rollback is not the first to say it.
    """
    if covered_channels(settings):
        Store(settings.pairing.credentials).require_own()


@frozen
class RestoredTree:
    """The file tree after the restore of ``target``: paths of the snapshot inside the assets, else the live paths."""

    assets: Mapping[str, AssetConfig]
    target: SnapshotMetadata

    def place(self, path: Path) -> StoredFile | None:
        """Return the place of ``path`` in the snapshot, None for a path outside the restored assets or below a file."""
        steps = _steps(path.parent, self._link)
        found = self._inside(steps[-1] / path.name) if steps else None
        if found is None:
            return None
        record, inside = found
        kinds = {entry.path: entry.kind for entry in record.entries or []}
        is_below_file = any(kinds.get(str(folder), "directory") != "directory" for folder in Path(inside).parents)
        return None if is_below_file else StoredFile(record.key, inside)

    def _inside(self, path: Path) -> tuple[AssetRecord, str] | None:
        for root, key in _roots(self.assets).items():
            record = self.target.asset(key)
            # A record of another kind, or with remains only, is refused later.
            if record is None or not self.assets[key].takes(record) or record.damaged:
                continue
            if path == root and not is_folder(record):
                return record, ""
            if root in path.parents and is_folder(record):
                return record, str(path.relative_to(root))
        return None

    def _link(self, path: Path) -> str | None:
        found = self._inside(path)
        if found is None:
            return _live_link(path)
        record, inside = found
        entry = next((entry for entry in record.entries or [] if entry.path == inside), None)
        return entry.target if entry is not None and entry.kind == "symlink" else None


class HeldStores:
    """The locks that prevent other changes of the covered stores until the swap is over."""

    def __init__(self, settings: Settings, channels: list[Channel], locks: contextlib.ExitStack) -> None:
        self._settings = settings
        self._store = Store(settings.pairing.credentials)
        self._channels = channels
        self._locks = locks

    def hold_staged(self, target: SnapshotMetadata, rollback_id: str) -> None:
        """Lock the lock files in the staged copies, too: after the exchange, other processes wait for these files."""
        tree = RestoredTree(self._settings.release.assets, target)
        for channel in self._channels:
            live = self._store.lock_path(channel)
            place = tree.place(live)
            if place is None or not place.inside:
                continue
            with find(self._settings.release.assets[place.key].path) as asset:
                if asset is None:
                    continue
                path = staged(asset, rollback_id).path / place.inside
            if path.parent.is_dir():
                self._locks.enter_context(_hold_staged(path, live))


@contextlib.contextmanager
def hold_stores(settings: Settings) -> Iterator[HeldStores]:
    """Prevent other changes of the covered stores while the block runs. Raises LockHeld, OSError.

    If the folder of the stores does not exist, there are no approvals, and the folder is not created for a lock.
    """
    channels = covered_channels(settings)
    store = Store(settings.pairing.credentials)
    with contextlib.ExitStack() as locks:
        if channels and store.folder.is_dir():
            locks.enter_context(store.locked(channels))
        yield HeldStores(settings, channels, locks)


@contextlib.contextmanager
def _hold_staged(path: Path, live: Path) -> Iterator[None]:
    """Hold a lock file that gets the name ``live`` in the swap; remove it afterwards if it is not in the snapshot."""
    is_new = not os.path.lexists(path)
    lock = FileLock(path)
    with contextlib.suppress(OSError):  # if it cannot be created here, other processes cannot create it either
        lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and lock.has_name(live):
                live.unlink()
        lock.release()


def _roots(assets: Mapping[str, AssetConfig]) -> dict[Path, str]:
    """Return the real path of each asset, with symbolic links in its parents resolved, and its key."""
    return {Path(os.path.realpath(asset.path.parent)) / asset.path.name: key for key, asset in assets.items()}


def _live_link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _steps(folder: Path, link_of: Callable[[Path], str | None]) -> list[Path]:
    """Return every folder on the way to ``folder``, with symbolic links resolved; the last one is its real path.

    Empty for a loop of symbolic links.
    """
    steps = [Path("/")]
    pending = list(folder.parts[1:])
    links = 0
    while pending:
        name = pending.pop(0)
        if name == "..":
            steps.append(steps[-1].parent)
            continue
        step = steps[-1] / name
        link = link_of(step)
        if link is None:
            steps.append(step)
            continue
        links += 1
        if links > _MAX_LINKS:
            return []
        pending[:0] = Path(link).parts
        if Path(link).is_absolute():
            del pending[0]
            steps.append(Path("/"))
    return steps
