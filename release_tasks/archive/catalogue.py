"""List snapshots in order, find one, and apply retention.

Snapshots are ordered by the sequence in their metadata, never by name or file time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from attrs import frozen

from release_tasks.archive import legacy
from release_tasks.archive.seal import is_sealed
from release_tasks.archive.stores.local import LocalStore
from release_tasks.core.canonical import InvalidDocument, excerpt
from release_tasks.core.codec import decode
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.records import FORMAT_VERSION, SnapshotMetadata

__all__ = ["Catalogue", "Unreadable"]


@frozen
class Unreadable:
    """A folder in the place of a snapshot that cannot be read as a snapshot."""

    snapshot_id: str
    reason: str


class Catalogue:
    """The snapshots of one store. Every call reads the store again."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    def path(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot; raises UsageError for an id that could leave the store."""
        return self.store.fetch(snapshot_id)

    def published(self) -> tuple[list[SnapshotMetadata], list[Unreadable]]:
        """Return all snapshots, oldest first, and the folders that cannot be read as a snapshot."""
        snapshots: list[SnapshotMetadata] = []
        unreadable: list[Unreadable] = []
        for name in sorted(self.store.list()):
            try:
                snapshots.append(self._read(name))
            except FileNotFoundError:
                if self._has_assets(name):
                    unreadable.append(Unreadable(name, f"{name}/metadata.json is missing"))
                # A folder with neither is no snapshot: publishing and deleting always move both together.
            except InvalidDocument as error:
                unreadable.append(Unreadable(name, str(error)))
        return sorted(snapshots, key=lambda s: (s.sequence, s.created_at, s.snapshot_id)), unreadable

    def _has_assets(self, name: str) -> bool:
        with contextlib.suppress(OSError), os.scandir(self.store.fetch(name) / "assets") as entries:
            return any(entries)
        return False

    def get(self, snapshot_id: str) -> SnapshotMetadata:
        """Return one snapshot. Raises UsageError when there is none with that id, StageFailed when it is unreadable."""
        path = self.path(snapshot_id)
        if path.is_symlink() or not path.is_dir():
            raise UsageError(f"There is no snapshot {snapshot_id!r}. {self._known_snapshots()}")
        try:
            return self._read(snapshot_id)
        except FileNotFoundError:
            raise UsageError(
                f"There is no snapshot {snapshot_id!r}: its folder has no metadata.json. {self._known_snapshots()}"
            ) from None
        except InvalidDocument as error:
            raise StageFailed(
                f"Snapshot {snapshot_id} is refused: {error}. To list the intact snapshots: inv release.verify"
            ) from error

    def find(self, snapshot_id: str | None) -> SnapshotMetadata:
        """Return the snapshot ``snapshot_id``, or ``latest()`` when it is None. Raises as ``get`` and ``latest`` do."""
        return self.latest() if snapshot_id is None else self.get(snapshot_id)

    def latest(self) -> SnapshotMetadata:
        """Return the latest release snapshot.

        Raises StageFailed when there is none, or when a folder is unreadable: it might be the latest snapshot.
        """
        snapshots, unreadable = self.published()
        if unreadable:
            first = unreadable[0]
            raise StageFailed(
                f"The latest snapshot cannot be determined, because {first.snapshot_id} is unreadable "
                f"({first.reason}). Choose a snapshot with --snapshot. {self._known_snapshots()}"
            )
        releases = [snapshot for snapshot in snapshots if snapshot.kind == "release"]
        if not releases:
            raise StageFailed("There is no release snapshot yet. To create one: inv release.prepare")
        return releases[-1]

    def next_sequence(self) -> int:
        """Return the sequence for a new snapshot: one more than the highest existing sequence."""
        snapshots, _ = self.published()
        return max((snapshot.sequence for snapshot in snapshots), default=0) + 1

    def retain(self, limit: int, protected: set[str]) -> list[str]:
        """Remove old snapshots and return their ids; the latest ``limit`` of each kind and ``protected`` stay."""
        snapshots, _ = self.published()
        removed: list[str] = []
        for kind in ("release", "safety"):
            candidates = [snapshot for snapshot in snapshots if snapshot.kind == kind and snapshot.sequence > 0]
            retained: list[str] = []
            for snapshot in reversed(candidates):
                # Retain one of several equal safety snapshots: repeated rollbacks must not push out an earlier state.
                is_repeated = kind == "safety" and snapshot.digest in retained
                if len(retained) < max(limit, 1) and not is_repeated:
                    retained.append(snapshot.digest)
                elif snapshot.snapshot_id not in protected:
                    self.store.delete(snapshot.snapshot_id)
                    removed.append(snapshot.snapshot_id)
        return removed

    def _read(self, snapshot_id: str) -> SnapshotMetadata:
        name = f"{snapshot_id}/metadata.json"
        document = self.store.read(snapshot_id)
        version = document.get("formatVersion")
        if version is None and legacy.has_older_form(document):
            metadata = legacy.read_metadata(document, name)
        elif type(version) is not int or version < 1:
            raise InvalidDocument(f"{name} has no valid formatVersion")
        elif version > FORMAT_VERSION:
            raise InvalidDocument(
                f"{name} has format {version}; this version of release-tasks reads up to {FORMAT_VERSION}"
            )
        elif not is_sealed(document):
            raise InvalidDocument(f"{name} was altered: its checksum does not match")
        else:
            metadata = decode(SnapshotMetadata, document, name)
            if metadata.sequence < 1:  # 0 marks a snapshot of the older tool, which retention never removes
                raise InvalidDocument(f"{name} has no valid sequence")
        if metadata.snapshot_id != snapshot_id:
            raise InvalidDocument(f"{name} belongs to snapshot {excerpt(metadata.snapshot_id)!r}")
        return metadata

    def _known_snapshots(self) -> str:
        snapshots, _ = self.published()
        if not snapshots:
            return "No snapshot exists yet. To create one: inv release.prepare"
        latest = ", ".join(snapshot.snapshot_id for snapshot in reversed(snapshots[-5:]))
        return f"The latest snapshots are {latest}. To list more: inv release.status --limit 100"
