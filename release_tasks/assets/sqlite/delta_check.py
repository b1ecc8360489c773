"""Verify a database that is stored as a delta against a base."""

from __future__ import annotations

from pathlib import Path

from release_tasks.assets.findings import AssetFinding
from release_tasks.assets.sqlite.delta import DamagedDelta, Delta
from release_tasks.assets.sqlite.image import opened_image, require_same_delta
from release_tasks.assets.stored import base_path
from release_tasks.core.digests import FileDigests
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Meter
from release_tasks.core.records import AssetRecord

__all__ = ["verify_delta"]


def verify_delta(
    record: AssetRecord, stored: Path, meter: Meter, digests: FileDigests, invalid: str | None
) -> list[AssetFinding]:
    """Compare a stored delta and its base with ``record``, and decode all of the delta.

    Both digests determine each byte of the database. ``invalid`` is a wrong value of the record, or None. Raises
    StageFailed when a file is no regular file, OSError when the delta cannot be read.
    """
    assert record.delta is not None
    if invalid is not None:
        return [AssetFinding(key=record.key, what=f"its record was altered: it has {invalid}")]
    altered = [_altered(record, "was altered", record.delta.sha256, digests.of(stored, meter.add))]
    altered = [finding for finding in altered if finding.expected != finding.found]
    if altered:
        return altered
    try:
        with Delta.open(stored) as delta:
            require_same_delta(stored, record, delta)
            delta.check()
            found = _verify_base(record, stored, meter, digests)
            if found or delta.pages * delta.page_size == record.size:
                return found
        what = f"its record was altered: it has a size of {record.size} for {delta.pages * delta.page_size} bytes"
        return [AssetFinding(key=record.key, what=what)]
    except DamagedDelta as error:
        return [AssetFinding(key=record.key, what=error.message.rstrip("."))]


def _verify_base(record: AssetRecord, stored: Path, meter: Meter, digests: FileDigests) -> list[AssetFinding]:
    assert record.delta is not None
    base = base_path(stored, record.delta.base_sha256)
    what = f"its base {base} (captured in {record.delta.base_snapshot_id})"
    try:
        found = digests.of(base, meter.add)
        meter.finish()
        if found != record.delta.base_sha256:
            return [_altered(record, f"{what} was altered", record.delta.base_sha256, found)]
        with opened_image(stored):  # base and delta have all pages together
            return []
    except FileNotFoundError:
        return [_altered(record, f"{what} is missing", record.delta.base_sha256, None)]
    except (StageFailed, OSError) as error:
        reason = error.message.rstrip(".") if isinstance(error, StageFailed) else error.strerror
        return [_altered(record, f"{what} cannot be read: {reason}", record.delta.base_sha256, "unreadable")]


def _altered(record: AssetRecord, what: str, expected: str, found: str | None) -> AssetFinding:
    return AssetFinding(key=record.key, what=what, expected=expected, found=found)
