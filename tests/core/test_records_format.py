"""A snapshot says the oldest format that describes it, so that earlier versions read what they can."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.seal import metadata_bytes, sealed
from release_tasks.core.codec import decode
from release_tasks.core.records import (
    AssetRecord,
    SnapshotMetadata,
    StoredDelta,
    format_of,
)

PLAIN = AssetRecord(key="database", relative_path="assets/database/a.db", kind="sqlite", exists=True)
DELTA = evolve(PLAIN, delta=StoredDelta(base_sha256="0" * 64, base_snapshot_id="v1_snapshot", sha256="1" * 64, size=10))


@pytest.mark.parametrize(
    ("records", "expected"),
    [([], 2), ([PLAIN], 2), ([PLAIN, DELTA], 3), ([evolve(PLAIN, pending=True)], 3)],
)
def test_format_is_3_only_with_a_delta(records: list[AssetRecord], expected: int) -> None:
    """A plain snapshot stays one of format 2."""
    assert format_of(records) == expected


@pytest.mark.parametrize("record", [PLAIN, DELTA, evolve(DELTA, pending=True)])
def test_record_is_read_as_it_was_written(record: AssetRecord) -> None:
    """A plain record has no keys of a delta."""
    metadata = sealed(
        SnapshotMetadata(
            format_version=format_of([record]),
            snapshot_id="v2",
            release_id=None,
            kind="safety",
            created_at="",
            sequence=1,
            retention_limit=1,
            digest="",
            assets=[record],
            metadata_path="",
        )
    )
    document: dict[str, Any] = json.loads(metadata_bytes(metadata))
    assert decode(SnapshotMetadata, document, "metadata").assets == [record]
    (asset,) = document["assets"]
    assert ("delta" in asset, "pending" in asset) == (record.delta is not None, record.pending)
