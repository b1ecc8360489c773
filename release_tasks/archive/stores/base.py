"""The protocol of a snapshot store. A new store is a new module in this package; pass it to ``Catalogue``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

__all__ = ["SnapshotStore"]


class SnapshotStore(Protocol):
    """Snapshots by id, each with ``metadata.json`` and ``assets/``. The catalogue decides order and retention."""

    def list(self) -> list[str]:
        """Return the ids of all snapshots and of anything in the place of a snapshot, in no order."""

    def read(self, snapshot_id: str) -> dict[str, Any]:
        """Return the stored metadata document.

        Raises FileNotFoundError when there is no such document, InvalidDocument when it cannot be read.
        """

    def fetch(self, snapshot_id: str) -> Path:
        """Return a local folder that contains the snapshot; the caller verifies its bytes."""

    def publish(self, snapshot_id: str) -> None:
        """Publish the complete snapshot in ``partial_path`` atomically and durably. Raises OSError."""

    def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot so that a reader finds all of it or nothing. Raises OSError."""
