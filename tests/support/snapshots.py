"""Snapshots on disk: where the copies are, and snapshots as the older tool wrote them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from release_tasks.archive.catalogue import Catalogue

__all__ = ["flip_bit", "v1_folder", "write_older_metadata"]


def v1_folder(catalogue: Catalogue) -> Path:
    """Return the folder of the snapshot v1_snapshot."""
    return catalogue.path("v1_snapshot")


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file; its size and times stay the same."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def write_older_metadata(folder: Path, *assets: dict[str, Any], **changes: Any) -> None:
    """Write the metadata.json of a snapshot as the older tool did: without digests and without a format version.

    ``changes`` replaces values; None removes the key.
    """
    document = {
        "snapshotId": folder.name,
        "releaseId": "v0",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "retentionLimit": 5,
        "assets": list(assets),
        "metadataPath": f"/srv/app/{folder.name}/metadata.json",
    }
    changed = {name: value for name, value in {**document, **changes}.items() if value is not None}
    (folder / "metadata.json").write_text(json.dumps(changed))
