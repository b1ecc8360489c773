"""The space that a snapshot, a safety copy and a restore need on each disk, known before the first byte is copied.

Needs are lower limits: a capture that would fit is not refused. A disk with enough space may still fill up while the
command runs, so every command must survive a full disk, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from release_tasks.assets.base import AssetConfig
from release_tasks.assets.files import can_share_blocks
from release_tasks.assets.footprint import Footprint
from release_tasks.assets.stored import stored_path
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import found
from release_tasks.core.records import AssetRecord, SnapshotMetadata
from release_tasks.core.units import show_size

__all__ = ["Need", "Space", "capture_needs", "restore_needs", "shortages", "spaces"]

_ENTRY_BYTES = 200  # of a name in the list of a snapshot's entries
_OVERHEAD = Footprint(size=4096, names=3)  # the snapshot's folder, its folder of assets, its metadata
_FOLDER = Footprint(names=1)  # of each asset in a snapshot


@frozen(kw_only=True)
class Need:
    """Space for one purpose on the disk of ``folder``, which may not exist yet."""

    purpose: str
    folder: Path
    footprint: Footprint


@frozen(kw_only=True)
class Space:
    """A disk: what the ``needs`` take together, and what this process may use. ``path`` is a folder on it.

    None of a free value means that the disk has no such limit.
    """

    path: Path
    needs: list[Need] = field(factory=list)
    free_size: int | None = None
    free_names: int | None = None
    name_limit: int | None = None

    @property
    def needed(self) -> Footprint:
        """The sum of the needs."""
        return sum((need.footprint for need in self.needs), Footprint())

    @property
    def problems(self) -> list[str]:
        """One sentence for each limit that the needs exceed; empty when everything fits."""
        needed = self.needed
        purposes = " and ".join(dict.fromkeys(need.purpose for need in self.needs))
        found = []
        if self.free_size is not None and needed.size > self.free_size:
            found.append(
                f"There is not enough space on the disk of {self.path} for {purposes}: "
                f"{show_size(needed.size)} needed, {show_size(self.free_size)} free."
            )
        if self.free_names is not None and needed.names > self.free_names:
            found.append(
                f"There are not enough inodes on the disk of {self.path} for {purposes}: "
                f"{needed.names} needed, {self.free_names} free."
            )
        if self.name_limit is not None and needed.longest_name > self.name_limit:
            found.append(
                f"The filesystem of {self.path} is not suitable for {purposes}: it permits names of "
                f"{self.name_limit} bytes, and the state contains a name of {needed.longest_name} bytes."
            )
        return found


def capture_needs(
    folder: Path,
    assets: Mapping[str, AssetConfig],
    purpose: str = "the snapshot of this state",
    bases: Container[str] = (),
) -> list[Need]:
    """Return the needs of a capture of the live ``assets`` below ``folder``.

    An asset in ``bases`` is stored as what differs from a base, which may be nothing.
    """
    needs = [Need(purpose=purpose, folder=folder, footprint=_OVERHEAD)]
    for key, asset in assets.items():
        live = asset.kind.capture_footprint(asset)
        if key in bases:
            live = evolve(live, size=0)
        if asset.kind.shares_blocks:
            live = _with_shared_blocks(live, folder)
        entries = Footprint(size=live.names * _ENTRY_BYTES if live.names > 1 else 0)
        if live.names:
            needs.append(Need(purpose=purpose, folder=folder, footprint=live + entries + _FOLDER))
    return needs


def restore_needs(
    snapshot: SnapshotMetadata, folder: Path, assets: Mapping[str, AssetConfig], purpose: str = "the restored state"
) -> list[Need]:
    """Return the needs of a restore of the snapshot in ``folder``.

    A restore writes the new state next to the live state before it exchanges them.
    """
    needs = []
    for record in snapshot.assets:
        asset = assets.get(record.key)
        if asset is not None and record.exists and asset.takes(record):
            footprint = _restore_footprint(asset, record, folder)
            needs.append(Need(purpose=purpose, folder=asset.path.parent, footprint=footprint))
    return needs


def spaces(needs: Iterable[Need]) -> list[Space]:
    """Return the disk of every need once, in the order of the needs. A disk that cannot be asked is left out."""
    found: dict[int, Space] = {}
    for need in needs:
        try:
            folder = _existing(need.folder)
            device = os.stat(folder).st_dev
            space = found.get(device) or _space_of(folder)
        except OSError:
            continue
        found[device] = evolve(space, needs=[*space.needs, need])
    return list(found.values())


def shortages(needs: Iterable[Need]) -> list[str]:
    """Return one sentence for each limit of a disk that the needs exceed: the disk, what is needed, what is free."""
    return [problem for space in spaces(needs) for problem in space.problems]


def _restore_footprint(asset: AssetConfig, record: AssetRecord, folder: Path) -> Footprint:
    try:
        stored = asset.kind.restore_footprint(asset, stored_path(folder, record))
    except StageFailed:  # a forged path, which the verification reports
        return Footprint()
    return _with_shared_blocks(stored, asset.path.parent) if asset.kind.shares_blocks else stored


def _with_shared_blocks(footprint: Footprint, folder: Path) -> Footprint:
    if footprint.sample is None:
        return footprint
    with contextlib.suppress(StageFailed, OSError), found(footprint.sample) as sample:
        if can_share_blocks(sample, _existing(folder)):
            return evolve(footprint, size=0)
    return footprint


def _existing(folder: Path) -> Path:
    return next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))


def _space_of(folder: Path) -> Space:
    info = os.statvfs(folder)
    is_root = os.geteuid() == 0  # may use the reserve of the filesystem
    blocks, names = (info.f_bfree, info.f_ffree) if is_root else (info.f_bavail, info.f_favail)
    return Space(
        path=folder,
        free_size=blocks * info.f_frsize if info.f_blocks else None,
        free_names=names if info.f_files else None,  # btrfs creates inodes as needed
        name_limit=info.f_namemax or None,
    )
