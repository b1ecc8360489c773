"""The last state that was known to be good, from the verdicts in the audit log.

A verdict is positive when a watch ended healthy, or when a rollback changed the live state and health passed after it.
The first release snapshot after a positive verdict contains the state that the verdict was about. Every later one
contains the state that a release without a verdict left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

from release_tasks.core.records import SnapshotMetadata

__all__ = ["Verdicts", "read_verdicts"]

_HEALTHY = ("ok", "degraded")


@frozen(kw_only=True)
class Verdicts:
    """The release snapshots since the last positive verdict, oldest first, and the latest release without a verdict.

    ``has_verdict`` is False when the log has no positive verdict that a release followed; the first snapshot is then
    the oldest one that exists. ``is_live_good``: the latest verdict is positive, and no release was prepared since.
    """

    snapshots: list[SnapshotMetadata] = field(factory=list)
    has_verdict: bool = False
    is_live_good: bool = False
    unjudged_release: str | None = None

    @property
    def good(self) -> SnapshotMetadata | None:
        """The snapshot of the last state that was known to be good, or of the oldest state when no verdict exists."""
        return self.snapshots[0] if self.snapshots else None

    def is_unjudged(self, snapshot_id: str) -> bool:
        """Return whether a snapshot was taken after a release without a verdict, and no verdict came later."""
        return not self.is_live_good and any(each.snapshot_id == snapshot_id for each in self.snapshots[1:])

    @property
    def sentence(self) -> str:
        """Where the last good state is, and how to look at it. Empty when there is no snapshot."""
        if self.good is None:
            return ""
        which = "The last known good state" if self.has_verdict else "No verdict exists; the oldest state"
        name = self.good.snapshot_id
        return f"{which} is in {name}, taken {self.good.created_at}: inv release.rollback --plan --snapshot {name}"


def read_verdicts(events: Iterable[Mapping[str, Any]], snapshots: Iterable[SnapshotMetadata]) -> Verdicts:
    """Return the verdicts in the events of the audit log about the release snapshots that exist, oldest first."""
    releases = [snapshot for snapshot in snapshots if snapshot.kind == "release" and snapshot.sequence > 0]
    by_id = {snapshot.snapshot_id: snapshot for snapshot in releases}
    history = _History()
    for event in events:
        history.read(event)
    # A snapshot without an event was taken before this log was started.
    older = [name for name in by_id if name not in history.prepared]
    names = history.series if history.has_verdict else older + history.series
    return Verdicts(
        snapshots=[by_id[name] for name in names if name in by_id],
        has_verdict=history.has_verdict,
        is_live_good=history.is_live_good,
        unjudged_release=history.unjudged_release,
    )


@define
class _History:
    """The state after each event of the log. ``series`` has the snapshots since the last positive verdict."""

    series: list[str] = field(factory=list)
    prepared: set[str] = field(factory=set)
    has_verdict: bool = False
    unjudged_release: str | None = None
    # A verdict starts a new series with the next snapshot only: until then, no snapshot has the state that was judged.
    is_live_good: bool = False
    _release: object = None
    _has_restored: bool = False

    def read(self, event: Mapping[str, Any]) -> None:
        """Take one event into account."""
        kind, status = event.get("event"), event.get("status")
        if kind == "prepare.ready":
            self._prepare(event)
        elif kind == "watch.finished" and event.get("releaseId") in (None, self._release):
            # A watch of an earlier release says nothing about the state that the latest release left behind.
            if status in ("healthy", "degraded"):
                self.unjudged_release = None
            self.is_live_good = self.is_live_good or status == "healthy"
        elif kind == "rollback.recovered" and status == "restored":
            self._restore()
        elif kind == "rollback.finished" and status in ("restored", "noop"):
            if event.get("restoredAssets") or event.get("removedAssets"):
                self._restore()
            health = event.get("health")
            is_healthy = isinstance(health, dict) and health.get("passed") is True and health.get("status") in _HEALTHY
            # A rollback that changed nothing says nothing: the bad state may be in its snapshot.
            self.is_live_good = self.is_live_good or (is_healthy and self._has_restored)

    def _prepare(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("snapshotId"))
        if self.is_live_good:
            self.series, self.has_verdict = [], True
        self.series.append(name)
        self.prepared.add(name)
        self._release = event.get("releaseId")
        self.unjudged_release = str(self._release)
        self.is_live_good = self._has_restored = False

    def _restore(self) -> None:
        self._has_restored = True
        self.unjudged_release = None
