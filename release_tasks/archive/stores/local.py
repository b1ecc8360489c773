"""The store that has its snapshots as folders in the pipeline folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from release_tasks.archive.stores.base import SnapshotStore
from release_tasks.core.canonical import read_document
from release_tasks.core.durable import fsync_directory, remove_tree
from release_tasks.core.ids import is_valid_id, require_id

__all__ = ["LocalStore"]

Names = list[str]  # the class has a method called list

_DELETED = ".deleted"
_PARTIAL = ".partial"


class LocalStore(SnapshotStore):
    """The snapshots below ``folder``, which is created with the first snapshot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> Names:
        """Return the names of the folders that could be snapshots."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if is_valid_id(entry.name) and entry.is_dir(follow_symlinks=False)]
        return []

    def read(self, snapshot_id: str) -> dict[str, Any]:
        """Return the content of ``metadata.json``; raises FileNotFoundError, InvalidDocument."""
        return read_document(self.fetch(snapshot_id) / "metadata.json")

    def fetch(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot; raises UsageError for an id that could leave the store."""
        return self.folder / require_id(snapshot_id, "snapshot")

    def partial_path(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot before it is published."""
        return self.folder / f".{require_id(snapshot_id, 'snapshot')}{_PARTIAL}"

    def publish(self, snapshot_id: str) -> None:
        """Rename the folder of a complete snapshot to the snapshot's id."""
        os.rename(self.partial_path(snapshot_id), self.fetch(snapshot_id))
        fsync_directory(self.folder)

    def delete(self, snapshot_id: str) -> None:
        """Rename the folder, then remove it: after a crash no published snapshot has missing files."""
        renamed = self.folder / f".{snapshot_id}{_DELETED}"
        os.rename(self.fetch(snapshot_id), renamed)
        fsync_directory(self.folder)
        remove_tree(renamed)

    def leftovers(self) -> Names:
        """Return the names of unpublished and partly deleted snapshots, of interrupted runs or of a current one."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.startswith(".") and name.endswith((_PARTIAL, _DELETED)))

    def clean_up(self, committed: Collection[str] = ()) -> Names:
        """Remove the leftovers of interrupted runs and return their names. The caller must hold the lock.

        A snapshot in ``committed`` is published instead: it was complete before its manifest was written.
        """
        removed: Names = []
        for name in self.leftovers():
            snapshot_id = name.removeprefix(".").removesuffix(_PARTIAL)
            if name.endswith(_PARTIAL) and snapshot_id in committed and not self.fetch(snapshot_id).exists():
                self.publish(snapshot_id)
                continue
            remove_tree(self.folder / name)
            removed.append(name)
        return removed
