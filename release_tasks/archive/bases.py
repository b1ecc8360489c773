"""The bases of stored deltas: plain databases in the pipeline folder, each under its own digest.

A base is a hard link of the copy in the snapshot that captured it. So it takes no space while that snapshot exists, and
stays when retention removes the snapshot and a delta still needs the base.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from release_tasks.archive.delta_reader import write_reader
from release_tasks.assets.base import AssetConfig, Base
from release_tasks.assets.files import capture_file
from release_tasks.assets.stored import is_digest, stored_path
from release_tasks.core.durable import fsync_directory, make_private_directory
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord, SnapshotMetadata

__all__ = ["Bases", "StoredSize"]

_NAME = re.compile(r"([0-9a-f]{64})\.db")


@frozen(kw_only=True)
class StoredSize:
    """Sizes in bytes: what the stored copies and bases take, each file once, and the state that they stand for."""

    on_disk: int
    stands_for: int


@frozen
class Bases:
    """The folder ``bases``, which is created with the first delta. ``snapshots`` is the folder of the snapshots."""

    folder: Path
    snapshots: Path

    def path(self, sha256: str) -> Path:
        """Return the path of a base."""
        return self.folder / f"{sha256}.db"

    def digests(self) -> set[str]:
        """Return the digests of the bases that are here. Raises OSError."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {match[1] for name in names if (match := _NAME.fullmatch(name))}

    def choose(self, published: Sequence[SnapshotMetadata], key: str, asset: AssetConfig) -> Base | None:
        """Return the base for a new capture of an asset; None where it must be stored whole.

        It is the base of the newest snapshot in ``published``, which are oldest first, that has one for this asset. A
        plain copy is a base from ``release.storage.deltas_above`` on.
        """
        if asset.deltas_above is None:
            return None
        for snapshot in reversed(published):
            record = snapshot.asset(key)
            if record is None or not record.exists or record.damaged or not asset.takes(record):
                continue
            with contextlib.suppress(StageFailed, OSError):
                found = self._base_of(snapshot, record, asset.deltas_above)
                if found is not None:
                    return found if asset.kind.can_store_deltas() else None
        return None

    def _base_of(self, snapshot: SnapshotMetadata, record: AssetRecord, least: int) -> Base | None:
        if record.delta is not None:
            digest = record.delta.base_sha256
            is_here = is_digest(digest) and self.path(digest).is_file()
            return _base(self.path(digest), digest, record.delta.base_snapshot_id) if is_here else None
        if not is_digest(record.sha256) or record.size < least:
            return None
        assert record.sha256 is not None
        copy = stored_path(self.snapshots / snapshot.snapshot_id, record)
        kept = self.path(record.sha256)
        if kept.is_file():
            return _base(kept, record.sha256, snapshot.snapshot_id)
        if not copy.is_file() or os.lstat(copy).st_size != record.size:
            return None
        keep = functools.partial(self._keep, copy, record.sha256)
        return Base(path=copy, sha256=record.sha256, snapshot_id=snapshot.snapshot_id, keep=keep)

    def _keep(self, copy: Path, sha256: str) -> None:
        """Give the copy in a snapshot its second name, durably, and write the stand-alone script that reads deltas.

        Raises OSError, as where hard links are impossible.
        """
        make_private_directory(self.folder)
        with contextlib.suppress(FileExistsError):
            os.link(copy, self.path(sha256), follow_symlinks=False)
        fsync_directory(self.folder)
        write_reader(self.folder.parent)

    def lend(self, other: Bases, snapshot: SnapshotMetadata) -> None:
        """Give the bases of ``snapshot`` a name in ``other`` for a short time: as hard links, or else as copies.

        Raises StageFailed for a base that is no regular file, OSError.
        """
        needed = {asset.delta.base_sha256 for asset in snapshot.assets if asset.delta is not None}
        for digest in filter(is_digest, needed):
            make_private_directory(other.folder)
            try:
                os.link(self.path(digest), other.path(digest), follow_symlinks=False)
            except FileNotFoundError:  # the verification of the snapshot reports it
                continue
            except OSError:  # another filesystem, or one without hard links
                capture_file(trusted(self.path(digest)), trusted(other.path(digest)))

    def unneeded(self, snapshots: Iterable[SnapshotMetadata]) -> set[str]:
        """Return the digests of the bases that no delta of ``snapshots`` needs. Raises OSError."""
        needed = {asset.delta.base_sha256 for snapshot in snapshots for asset in snapshot.assets if asset.delta}
        return self.digests() - needed

    def remove(self, digests: Iterable[str]) -> list[str]:
        """Remove bases durably, and return their names. Raises OSError."""
        removed = []
        for path in map(self.path, sorted(digests)):
            path.unlink(missing_ok=True)
            removed.append(path.name)
        if removed:
            fsync_directory(self.folder)
        return removed

    def size(self, snapshots: Sequence[SnapshotMetadata]) -> StoredSize:
        """Return the sizes of the assets in ``snapshots`` together, with their bases. Raises OSError."""
        stands_for = sum(asset.size for snapshot in snapshots for asset in snapshot.assets)
        on_disk = sum(
            asset.delta.size if asset.delta else asset.size for snapshot in snapshots for asset in snapshot.assets
        )
        for digest in self.digests():
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(self.path(digest))
                if not self._is_in_snapshot(info, digest, snapshots):
                    on_disk += info.st_size
        return StoredSize(on_disk=on_disk, stands_for=stands_for)

    def _is_in_snapshot(self, base: os.stat_result, digest: str, snapshots: Sequence[SnapshotMetadata]) -> bool:
        """Return whether a base is the same file as the plain copy in a snapshot."""
        for snapshot in snapshots:
            for asset in snapshot.assets:
                if asset.sha256 == digest and asset.delta is None and asset.exists:
                    with contextlib.suppress(StageFailed, OSError):
                        copy = os.lstat(stored_path(self.snapshots / snapshot.snapshot_id, asset))
                        if os.path.samestat(copy, base):
                            return True
        return False


def _base(path: Path, sha256: str, snapshot_id: str) -> Base:
    return Base(path=path, sha256=sha256, snapshot_id=snapshot_id, keep=lambda: None)
