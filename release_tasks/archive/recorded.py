"""What the audit log says about snapshots: their digests, which of them must exist, and which rollbacks ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

from release_tasks.core.records import AuditAnchor

__all__ = ["TAKEN", "RecordedSnapshot", "RecordedSnapshots", "read_recorded"]

TAKEN = "snapshot.taken"  # the event of a snapshot that no release took
_SAFETY_PREFIX = "safety_snapshot_"  # the id of its rollback follows


@frozen(kw_only=True)
class RecordedSnapshot:
    """The event of one snapshot. Events of earlier versions lack ``checksum``, and some of them ``digest``.

    ``is_capture``: this package took the snapshot. ``is_first``: it is the state before the first deployment.
    """

    anchor: AuditAnchor
    digest: str | None = None
    checksum: str | None = None
    is_capture: bool = True
    is_first: bool = False


@define
class RecordedSnapshots:
    """The snapshots in the events of one audit log.

    ``removed`` has the time at which retention removed a snapshot. ``aliases`` are the ids whose state stayed in an
    equal snapshot. ``releases`` has the snapshot of each release that was published, oldest first; ``withdrawn`` the
    same for those that were withdrawn since. ``prepared`` has the snapshot of each release, None for a blocked one.
    ``manifests`` has the digest of the manifest of a published release; earlier versions did not record it. ``safety``
    has the safety snapshots of rollbacks that ended. ``rollbacks`` has the snapshot of each rollback that was started;
    ``open_rollback`` is the latest one, as long as nothing ended it. ``live`` is the snapshot of the last rollback that
    took effect, unless a release was prepared since. ``hashes`` has the previous hash of each record.
    """

    by_id: dict[str, RecordedSnapshot] = field(factory=dict)
    removed: dict[str, str] = field(factory=dict)
    aliases: dict[str, str] = field(factory=dict)
    releases: dict[str, str] = field(factory=dict)
    withdrawn: dict[str, str] = field(factory=dict)
    prepared: dict[str, str | None] = field(factory=dict)
    manifests: dict[str, str] = field(factory=dict)
    safety: set[str] = field(factory=set)
    rollbacks: dict[str, str] = field(factory=dict)
    open_rollback: str | None = None
    live: str | None = None
    hashes: dict[str, str] = field(factory=dict)
    _older_rollbacks: dict[str, AuditAnchor] = field(factory=dict)

    def find(self, snapshot_id: str) -> RecordedSnapshot | None:
        """Return the event of a snapshot, or None when the log has none.

        Earlier versions recorded a safety snapshot only by the id of its rollback, which is a part of its own id.
        """
        recorded = self.by_id.get(snapshot_id)
        if recorded is None and snapshot_id.startswith(_SAFETY_PREFIX):
            anchor = self._older_rollbacks.get(snapshot_id.removeprefix(_SAFETY_PREFIX))
            recorded = RecordedSnapshot(anchor=anchor) if anchor is not None else None
        return recorded

    def follows(self, requested: str, found: str) -> bool:
        """Return whether the log says that the removed snapshot ``requested`` was equal to ``found``."""
        seen = {requested}
        while requested != found:
            requested = self.aliases.get(requested, requested)
            if requested in seen:
                return False
            seen.add(requested)
        return True

    def is_before(self, anchor: AuditAnchor, later: AuditAnchor) -> bool:
        """Return whether an unbroken chain of hashes leads from the record ``later`` back to the record ``anchor``."""
        current = later.hash
        while current != anchor.hash:
            if current not in self.hashes:
                return False
            current = self.hashes[current]
        return current in self.hashes

    def has(self, anchor: AuditAnchor) -> bool:
        """Return whether the log has the record of ``anchor``."""
        return anchor.hash in self.hashes

    def read(self, event: Mapping[str, Any]) -> None:
        """Take one event into account."""
        kind, release_id, snapshot_id = (_text(event, key) for key in ("event", "releaseId", "snapshotId"))
        anchor = AuditAnchor(seq=event["seq"], hash=event["hash"])
        self.hashes[anchor.hash] = event["prev"]
        if kind == "prepare.ready":
            self._take(snapshot_id, event, anchor)
            self._prepare(release_id, snapshot_id)
            self.open_rollback = self.live = None
        elif kind == TAKEN:
            self._take(snapshot_id, event, anchor)
        elif kind == "prepare.published":
            self.withdrawn.pop(release_id, None)
            self.releases[release_id] = snapshot_id
            if self.prepared.get(release_id) != snapshot_id:  # a second event of one release changes no order
                self._prepare(release_id, snapshot_id)
            if digest := _text(event, "manifestDigest"):
                self.manifests[release_id] = digest
        elif kind == "prepare.blocked":  # a published release was withdrawn: its manifest could not be completed
            if (withdrawn := self.releases.pop(release_id, None)) is not None:
                self.withdrawn[release_id] = withdrawn
            else:
                self._prepare(release_id, None)
        elif kind == "retention.applied":
            self._remove(event)
        elif kind.startswith("rollback."):
            self._read_rollback(kind, event, anchor)

    def _read_rollback(self, kind: str, event: Mapping[str, Any], anchor: AuditAnchor) -> None:
        rollback_id, snapshot_id = _text(event, "rollbackId"), _text(event, "snapshotId")
        if kind == "rollback.started":
            self.rollbacks[rollback_id] = snapshot_id
            self.open_rollback = rollback_id
            if "checksum" not in event:  # an earlier version, which wrote no event for the snapshots of a rollback
                self._older_rollbacks[rollback_id] = anchor
                if snapshot_id not in self.by_id:
                    self._take(snapshot_id, event, anchor, is_capture=False)
        elif kind == "rollback.refused":  # it has the id of a rollback only when the snapshot of that was live
            self.live = self.rollbacks.get(rollback_id, self.live)
        elif kind in ("rollback.finished", "rollback.recovered"):
            safety_id = _text(event, "safetySnapshotId")
            if (recorded := self.by_id.get(safety_id)) is not None and recorded.checksum is not None:
                self.safety.add(safety_id)
            if kind == "rollback.finished" or event.get("status") == "restored":
                self.live = snapshot_id
            # A recovery that was killed before it removed the journal is repeated.
            if kind == "rollback.finished":
                self.open_rollback = None

    def _prepare(self, release_id: str, snapshot_id: str | None) -> None:
        self.prepared.pop(release_id, None)  # the order is that of the events
        self.prepared[release_id] = snapshot_id

    def _take(
        self, snapshot_id: str, event: Mapping[str, Any], anchor: AuditAnchor, *, is_capture: bool = True
    ) -> None:
        self.by_id[snapshot_id] = RecordedSnapshot(
            anchor=anchor,
            digest=_text(event, "digest") or None,
            checksum=_text(event, "checksum") or None,
            is_capture=is_capture,
            is_first=event.get("firstDeployment") is True,
        )
        self.removed.pop(snapshot_id, None)

    def _remove(self, event: Mapping[str, Any]) -> None:
        removed, aliases = event.get("removedSnapshots"), event.get("aliases")
        self.removed |= {str(name): _text(event, "time") for name in removed or [] if isinstance(removed, list)}
        if isinstance(aliases, dict):
            self.aliases |= {name: str(target) for name, target in aliases.items()}


def read_recorded(events: Iterable[Mapping[str, Any]]) -> RecordedSnapshots:
    """Return what the events of an audit log say about snapshots."""
    recorded = RecordedSnapshots()
    for event in events:
        recorded.read(event)
    return recorded


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    return value if isinstance(value, str) else ""
