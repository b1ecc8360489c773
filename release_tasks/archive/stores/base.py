"""What a place for snapshots can do. A new one is a new file beside this, and is given to the ``Catalogue``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

__all__ = ["SnapshotStore"]


class SnapshotStore(Protocol):
    """Snapshots by id, each with ``metadata.json`` and ``assets/``; the catalogue keeps order and retention."""

    def list(self) -> list[str]:
        """Return the ids of everything that has the place of a snapshot, in no order."""

    def read(self, snapshot_id: str) -> dict[str, Any]:
        """Return the metadata document as it is stored.

        Raises FileNotFoundError when the snapshot has none, InvalidDocument when it cannot be read.
        """

    def fetch(self, snapshot_id: str) -> Path:
        """Return a local folder that holds the snapshot; its bytes are verified by the caller."""

    def publish(self, snapshot_id: str) -> None:
        """Make the complete snapshot in ``partial_path`` visible, whole and durably. Raises OSError."""

    def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot such that no reader ever sees a part of it. Raises OSError."""
