"""Which snapshots there are, in which order, and which of them may go.

Order is by the sequence that each snapshot recorded when it was taken, never by name or file time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from attrs import frozen

from release_tasks.archive import legacy
from release_tasks.archive.seal import is_sealed
from release_tasks.core.canonical import InvalidDocument, excerpt, read_document
from release_tasks.core.codec import decode
from release_tasks.core.durable import fsync_directory, remove_tree
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.ids import is_valid_id, require_id
from release_tasks.core.records import FORMAT_VERSION, SnapshotMetadata

__all__ = ["Catalogue", "Unreadable"]

_DELETED = ".deleted"
_PARTIAL = ".partial"


@frozen
class Unreadable:
    """A folder that has the place of a snapshot and cannot be read as one."""

    snapshot_id: str
    reason: str


class Catalogue:
    """The snapshots below one pipeline folder; reads the folder anew at each call."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "snapshots"

    def path(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot; raises UsageError for an id that could leave the catalogue."""
        return self.folder / require_id(snapshot_id, "snapshot")

    def partial_path(self, snapshot_id: str) -> Path:
        """Return the folder in which a snapshot grows before it is published."""
        return self.folder / f".{require_id(snapshot_id, 'snapshot')}{_PARTIAL}"

    def published(self) -> tuple[list[SnapshotMetadata], list[Unreadable]]:
        """Return all snapshots, oldest first, and the folders that cannot be read as one."""
        snapshots: list[SnapshotMetadata] = []
        unreadable: list[Unreadable] = []
        for name in sorted(self._names()):
            try:
                snapshots.append(self._read(name))
            except FileNotFoundError:
                if self._holds_assets(name):
                    unreadable.append(Unreadable(name, f"{name}/metadata.json is missing"))
                # Otherwise it is no snapshot, and never was: they are published with it, and removed, as a whole.
            except InvalidDocument as error:
                unreadable.append(Unreadable(name, str(error)))
        return sorted(snapshots, key=lambda s: (s.sequence, s.created_at, s.snapshot_id)), unreadable

    def get(self, snapshot_id: str) -> SnapshotMetadata:
        """Return one snapshot; raises UsageError when none has that id, StageFailed when it is unreadable."""
        path = self.path(snapshot_id)
        if path.is_symlink() or not path.is_dir():
            raise UsageError(f"There is no snapshot {snapshot_id!r}. {self._known()}")
        try:
            return self._read(snapshot_id)
        except FileNotFoundError:
            raise UsageError(
                f"There is no snapshot {snapshot_id!r}: its folder has no metadata.json. {self._known()}"
            ) from None
        except InvalidDocument as error:
            told = f"Snapshot {snapshot_id} is refused: {error}."
            raise StageFailed(f"{told} Which ones are whole: inv release.verify") from error

    def latest(self) -> SnapshotMetadata:
        """Return the newest release snapshot.

        Raises StageFailed when there is none, or when one of the folders is unreadable: it might be the newest.
        """
        snapshots, unreadable = self.published()
        if unreadable:
            bad = unreadable[0]
            raise StageFailed(
                f"Which snapshot is the newest cannot be told: {bad.snapshot_id} is unreadable ({bad.reason}). "
                f"Choose one yourself with --snapshot. {self._known()}"
            )
        releases = [snapshot for snapshot in snapshots if snapshot.kind == "release"]
        if not releases:
            raise StageFailed("There is no release snapshot to go back to. `inv release.prepare` takes one.")
        return releases[-1]

    def next_sequence(self) -> int:
        """Return the sequence for a new snapshot: one more than any that is here."""
        snapshots, _ = self.published()
        return max((snapshot.sequence for snapshot in snapshots), default=0) + 1

    def retain(self, limit: int, protected: set[str]) -> list[str]:
        """Remove all but the newest ``limit`` of each kind, never a ``protected`` one; returns the ids removed."""
        snapshots, _ = self.published()
        removed: list[str] = []
        for kind in ("release", "safety"):
            ours = [snapshot for snapshot in snapshots if snapshot.kind == kind and snapshot.sequence > 0]
            kept: list[str] = []
            for snapshot in reversed(ours):
                # Of equal safety snapshots one is enough, or repeated rollbacks would push the state before them out.
                is_repeated = kind == "safety" and snapshot.digest in kept
                if len(kept) < max(limit, 1) and not is_repeated:
                    kept.append(snapshot.digest)
                elif snapshot.snapshot_id not in protected:
                    self._remove(snapshot.snapshot_id)
                    removed.append(snapshot.snapshot_id)
        return removed

    def publish(self, snapshot_id: str) -> None:
        """Give a complete snapshot its name; from here on it is one."""
        os.rename(self.partial_path(snapshot_id), self.path(snapshot_id))
        fsync_directory(self.folder)

    def clean_up(self, committed: Collection[str] = ()) -> list[str]:
        """Remove what interrupted runs left; returns the names removed. Call it with the lock held.

        A snapshot in ``committed`` was complete before its manifest was written: it gets its name instead.
        """
        removed: list[str] = []
        for name in self._leftovers():
            snapshot_id = name.removeprefix(".").removesuffix(_PARTIAL)
            if name.endswith(_PARTIAL) and snapshot_id in committed and not self.path(snapshot_id).exists():
                self.publish(snapshot_id)
                continue
            remove_tree(self.folder / name)
            removed.append(name)
        return removed

    def has_leftovers(self) -> bool:
        """Say whether an interrupted run, or one that is at work, has something unpublished here."""
        return bool(self._leftovers())

    def _leftovers(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.startswith(".") and name.endswith((_PARTIAL, _DELETED)))

    def _remove(self, snapshot_id: str) -> None:
        # Renamed first, or a crash in the middle would leave a published snapshot with files missing.
        doomed = self.folder / f".{snapshot_id}{_DELETED}"
        os.rename(self.path(snapshot_id), doomed)
        fsync_directory(self.folder)
        remove_tree(doomed)

    def _read(self, snapshot_id: str) -> SnapshotMetadata:
        name = f"{snapshot_id}/metadata.json"
        document = read_document(self.path(snapshot_id) / "metadata.json")
        version = document.get("formatVersion")
        if version is None and legacy.has_older_form(document):
            return _named(legacy.read_metadata(document, name), snapshot_id, name)
        if type(version) is not int or version < 1:
            raise InvalidDocument(f"{name} has no valid formatVersion")
        if version > FORMAT_VERSION:
            raise InvalidDocument(f"{name} has format {version}; this release reads up to {FORMAT_VERSION}")
        if not is_sealed(document):
            raise InvalidDocument(f"{name} was altered: its checksum does not match")
        metadata = decode(SnapshotMetadata, document, name)
        if metadata.sequence < 1:  # retention takes 0 for the older tool's, and would never let it go
            raise InvalidDocument(f"{name} has no valid sequence")
        return _named(metadata, snapshot_id, name)

    def _holds_assets(self, name: str) -> bool:
        with contextlib.suppress(OSError), os.scandir(self.folder / name / "assets") as entries:
            return any(entries)
        return False

    def _names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if is_valid_id(entry.name) and entry.is_dir(follow_symlinks=False)]
        return []

    def _known(self) -> str:
        snapshots, _ = self.published()
        if not snapshots:
            return "There are none yet; `inv release.prepare` takes one."
        newest = ", ".join(snapshot.snapshot_id for snapshot in reversed(snapshots[-5:]))
        return f"The newest are: {newest} (`inv release.status` shows all)."


def _named(metadata: SnapshotMetadata, snapshot_id: str, name: str) -> SnapshotMetadata:
    if metadata.snapshot_id != snapshot_id:
        raise InvalidDocument(f"{name} belongs to snapshot {excerpt(metadata.snapshot_id)!r}")
    return metadata
