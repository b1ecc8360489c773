"""Snapshots as folders of the pipeline folder."""

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
    """The snapshots below ``folder``, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> Names:
        """Return the names of the folders that could be snapshots."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if is_valid_id(entry.name) and entry.is_dir(follow_symlinks=False)]
        return []

    def read(self, snapshot_id: str) -> dict[str, Any]:
        """Return what ``metadata.json`` holds; raises FileNotFoundError, InvalidDocument."""
        return read_document(self.fetch(snapshot_id) / "metadata.json")

    def fetch(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot; raises UsageError for an id that could leave the store."""
        return self.folder / require_id(snapshot_id, "snapshot")

    def partial_path(self, snapshot_id: str) -> Path:
        """Return the folder in which a snapshot grows before it is published."""
        return self.folder / f".{require_id(snapshot_id, 'snapshot')}{_PARTIAL}"

    def publish(self, snapshot_id: str) -> None:
        """Give a complete snapshot its name; from here on it is one."""
        os.rename(self.partial_path(snapshot_id), self.fetch(snapshot_id))
        fsync_directory(self.folder)

    def delete(self, snapshot_id: str) -> None:
        """Rename the folder away, then remove it: a crash leaves no published snapshot with files missing."""
        doomed = self.folder / f".{snapshot_id}{_DELETED}"
        os.rename(self.fetch(snapshot_id), doomed)
        fsync_directory(self.folder)
        remove_tree(doomed)

    def leftovers(self) -> Names:
        """Return the names that interrupted runs left, or that a running one has unpublished."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.startswith(".") and name.endswith((_PARTIAL, _DELETED)))

    def clean_up(self, committed: Collection[str] = ()) -> Names:
        """Remove what interrupted runs left; returns the names removed. Call it with the lock held.

        A snapshot in ``committed`` was complete before its manifest was written: it gets its name instead.
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
