"""The result of a drill, as ``--json`` prints it, and the checks of the restored assets."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from release_tasks.assets.base import AssetConfig, AssetKind
from release_tasks.assets.findings import CopyCheck
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import is_folder
from release_tasks.core.errors import StageFailed, describe_error
from release_tasks.core.place import Place, find
from release_tasks.core.records import AssetRecord, HealthReport, SnapshotMetadata

__all__ = [
    "AssetCheck",
    "BootOutcome",
    "DatabaseCheck",
    "DrillOutcome",
    "Inconclusive",
    "check_assets",
    "check_databases",
    "check_plugins",
]


class Inconclusive(StageFailed):
    """The drill has no result: it could not be carried out, for a reason other than the snapshot."""


@frozen(kw_only=True)
class AssetCheck:
    """The comparison of one restored asset with the metadata; ``detail`` is the difference."""

    key: str
    kind: str
    status: Literal["restored", "absent", "failed"]
    detail: str = ""


@frozen(kw_only=True)
class DatabaseCheck:
    """One restored database: the answer of ``integrity_check`` and the rows of each table.

    ``integrity`` is ``ok``, the findings, or ``unchecked: `` and the reason why the check did not end; that is no
    failure. ``tables`` is empty unless it is ``ok``. The value is None for a table that SQLite alone cannot count.
    """

    key: str
    integrity: str
    tables: dict[str, int | None] = field(factory=dict)

    @property
    def is_unchecked(self) -> bool:
        """Whether the check did not end."""
        return self.integrity.startswith("unchecked: ")

    @property
    def has_failed(self) -> bool:
        """Whether the check found damage or could not read the database."""
        return self.integrity != "ok" and not self.is_unchecked


@frozen(kw_only=True)
class BootOutcome:
    """The result of the test boot. ``output_tail`` is the end of the service's output, if it failed."""

    passed: bool
    detail: str
    command: str
    url: str
    health: HealthReport | None = None
    duration_ms: int = 0
    output_tail: list[str] = field(factory=list)


@frozen(kw_only=True)
class DrillOutcome:
    """The verdict on one snapshot; ``snapshot_id`` is None when no snapshot could be chosen."""

    status: Literal["passed", "failed"]
    snapshot_id: str | None
    digest: str | None
    assets: list[AssetCheck] = field(factory=list)
    databases: list[DatabaseCheck] = field(factory=list)
    boot: BootOutcome | None = None
    duration_ms: int = 0
    diagnostics: list[str] = field(factory=list)


def check_assets(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> list[AssetCheck]:
    """Compare every restored asset with its record: presence, bytes, modes, links. Reads no live path."""
    checks = []
    for key, asset in assets.items():
        if (record := snapshot.asset(key)) is None:
            continue
        try:
            problem = _difference(asset, record)
        except (StageFailed, OSError) as error:
            problem = describe_error(error)
        status: Literal["restored", "absent", "failed"] = "restored" if record.exists else "absent"
        checks.append(AssetCheck(key=key, kind=record.kind, status="failed" if problem else status, detail=problem))
    return checks


def check_databases(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> list[DatabaseCheck]:
    """Run ``integrity_check`` on every restored database and count the rows of its tables."""
    checks = []
    for key, asset in assets.items():
        record = snapshot.asset(key)
        inspection = asset.kind.inspect(record, asset.path) if record is not None and record.exists else None
        if inspection is not None:
            unchecked = f"unchecked: {inspection.unchecked}" if inspection.unchecked else ""
            integrity = inspection.problem or unchecked or "ok"
            checks.append(DatabaseCheck(key=key, integrity=integrity, tables=inspection.rows))
    return checks


def check_plugins(snapshot: SnapshotMetadata, assets: Mapping[str, AssetConfig]) -> dict[str, CopyCheck]:
    """Let each plugin check the restored files of the copy that it took."""
    results = {
        key: kind_of(record).examine(record, asset, asset.path)
        for key, asset in assets.items()
        if (record := snapshot.asset(key)) is not None and record.exists and record.plugin is not None
    }
    return {key: examined for key, examined in results.items() if examined is not None}


def _difference(asset: AssetConfig, record: AssetRecord) -> str:
    """Return the difference between an asset and its record; empty if they are equal."""
    with find(asset.path) as live:
        info = None if live is None else live.look()
        if live is None or info is None:
            return "it was not restored" if record.exists else ""
        if not record.exists:
            return "it exists, but did not exist at snapshot time"
        return _form_difference(record, info.st_mode) or _content_difference(asset.kind, record, live)


def _form_difference(record: AssetRecord, mode: int) -> str:
    is_tree = is_folder(record)
    if not (stat.S_ISDIR(mode) if is_tree else stat.S_ISREG(mode)):
        return f"it is not a {'folder' if is_tree else 'file'}"
    if stat.S_IMODE(mode) != record.mode:
        return f"its mode is {stat.S_IMODE(mode):o} instead of {record.mode or 0:o}"
    return ""


def _content_difference(kind: AssetKind, record: AssetRecord, live: Place) -> str:
    digest, expected = kind.digest(record, live), record.content_digest or record.sha256
    if digest != expected:
        return f"its content differs (recorded {expected}, restored {digest})"
    extra = [place.name for place in kind.side_files(live) if place.exists()]
    return f"it has an extra side file {extra[0]}" if extra else ""
