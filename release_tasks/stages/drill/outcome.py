"""What a drill found, as values; ``--json`` prints them as they are."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from release_tasks.core.errors import StageFailed
from release_tasks.core.records import HealthReport

__all__ = ["AssetCheck", "BootOutcome", "DatabaseCheck", "DrillOutcome", "NotProved"]


class NotProved(StageFailed):
    """The drill could not be carried out, which says nothing about the snapshot."""


@frozen(kw_only=True)
class AssetCheck:
    """One restored asset against the metadata; ``detail`` says what differs."""

    key: str
    kind: str
    status: Literal["restored", "absent", "failed"]
    detail: str = ""


@frozen(kw_only=True)
class DatabaseCheck:
    """One restored database: what ``integrity_check`` said, ``ok`` or its findings, and how many rows each table has.

    ``tables`` is empty when the check failed. None stands for a table that SQLite alone cannot count.
    """

    key: str
    integrity: str
    tables: dict[str, int | None] = field(factory=dict)


@frozen(kw_only=True)
class BootOutcome:
    """How the service did on the restored state. ``output_tail`` is the end of what it printed, when it failed."""

    passed: bool
    detail: str
    command: str
    url: str
    health: HealthReport | None = None
    duration_ms: int = 0
    output_tail: list[str] = field(factory=list)


@frozen(kw_only=True)
class DrillOutcome:
    """The verdict on one snapshot; ``snapshot_id`` is None when not even that could be told."""

    status: Literal["passed", "failed"]
    snapshot_id: str | None
    digest: str | None
    assets: list[AssetCheck] = field(factory=list)
    databases: list[DatabaseCheck] = field(factory=list)
    boot: BootOutcome | None = None
    duration_ms: int = 0
    diagnostics: list[str] = field(factory=list)
