"""The last state that was known to be good, from the verdicts in the audit log.

A verdict is positive when a watch ended healthy, or when a rollback changed the live state and health passed after it.
The first release snapshot after a positive verdict contains the state that the verdict was about. Every later one
contains the state that a release without a verdict left behind. When a rollback restores one of those, passed health
says little about its data, so the earlier good state stays known, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

from release_tasks.core.records import SnapshotMetadata
from release_tasks.core.typed import typed

__all__ = ["Verdicts", "read_verdicts"]

_HEALTHY = ("ok", "degraded")


@frozen(kw_only=True)
class Verdicts:
    """The release snapshots since the last positive verdict, oldest first, and the latest release without a verdict.

    ``has_verdict`` is False when the log has no positive verdict that a release followed; the first snapshot is then
    the oldest one that exists. ``is_live_good``: the latest verdict is positive, and no release was prepared since.
    ``earlier``: the good snapshot before the last verdict, when that verdict was about a restore of another one.
    """

    snapshots: list[SnapshotMetadata] = field(factory=list)
    earlier: SnapshotMetadata | None = None
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
        sentence = f"{which} is in {_named(self.good)}"
        return sentence if self.earlier is None else f"{sentence}. An earlier one is in {_named(self.earlier)}"


def _named(snapshot: SnapshotMetadata) -> str:
    name = snapshot.snapshot_id
    return f"{name}, taken {snapshot.created_at}: {typed('release.rollback', '--plan', '--snapshot', name)}"


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
        earlier=by_id.get(history.earlier),
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
    earlier: str = ""
    _release: object = None
    _restored: str | None = None  # the snapshot that was restored since the last prepare
    _was_watched: bool = False

    def read(self, event: Mapping[str, Any]) -> None:
        """Take one event into account."""
        kind, status = event.get("event"), event.get("status")
        if kind == "prepare.ready":
            self._prepare(event)
        elif kind == "watch.finished" and event.get("releaseId") in (None, self._release):
            # A watch of an earlier release says nothing about the state that the latest release left behind.
            if status in ("healthy", "degraded"):
                self.unjudged_release = None
            self._was_watched = self._was_watched or status == "healthy"
            self.is_live_good = self.is_live_good or self._was_watched
        elif kind == "rollback.recovered" and status == "restored":
            self._restore(event)
        elif kind == "rollback.refused" and "rollbackId" in event:  # only the restart was not reached
            self._restore({"snapshotId": event.get("requestedSnapshot")})
        elif kind == "rollback.finished":
            if event.get("restoredAssets") or event.get("removedAssets"):
                self._restore(event)
            health = event.get("health")
            is_healthy = isinstance(health, dict) and health.get("passed") is True and health.get("status") in _HEALTHY
            # A rollback that changed nothing says nothing: the bad state may be in its snapshot.
            is_good = status in ("restored", "noop") and is_healthy and self._restored is not None
            self.is_live_good = self.is_live_good or is_good

    def _prepare(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("snapshotId"))
        if self.is_live_good:
            good = self.series[0] if self.series else ""
            is_certain = self._was_watched or self._restored in (good, self.earlier)
            self.earlier = "" if is_certain else self.earlier or good
            self.series, self.has_verdict = [], True
        self.series.append(name)
        self.prepared.add(name)
        self._release = event.get("releaseId")
        self.unjudged_release = str(self._release)
        self.is_live_good = self._was_watched = False
        self._restored = None

    def _restore(self, event: Mapping[str, Any]) -> None:
        self._restored = str(event.get("snapshotId"))
        self._was_watched = self.is_live_good = False
        self.unjudged_release = None
