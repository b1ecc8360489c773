"""Retention: which snapshots stay, which are removed, and which ids still work afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from attrs import evolve, field, frozen

from release_tasks.archive.aliases import Alias, follow
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_snapshot
from release_tasks.core.canonical import InvalidDocument, canonical_bytes
from release_tasks.core.clock import timestamp
from release_tasks.core.codec import encode
from release_tasks.core.records import SnapshotMetadata

__all__ = ["Retention", "apply_retention", "plan_retention", "retain"]

# What is not about the captured state: two snapshots of one state differ in it.
_IDENTITY = (
    "snapshotId",
    "releaseId",
    "createdAt",
    "sequence",
    "retentionLimit",
    "metadataPath",
    "audit",
    "checksum",
    "formatVersion",
)


@frozen(kw_only=True)
class Retention:
    """The snapshots to remove, and the aliases after it: the removed ids whose state stays in an equal snapshot."""

    removed: list[str] = field(factory=list)
    aliases: dict[str, Alias] = field(factory=dict)

    @property
    def notes(self) -> list[str]:
        """What was removed, one sentence each, for an operator who may have noted an id."""
        gone = [name for name in self.removed if name not in self.aliases]
        notes = [f"Retention removed {', '.join(gone)}."] if gone else []
        equal = {name: self.aliases[name].target for name in self.removed if name in self.aliases}
        return notes + [f"Retention removed {name}; its id now stands for the equal {equal[name]}." for name in equal]


def apply_retention(pipeline: Pipeline, limit: int, keep: Iterable[str] = ()) -> Retention:
    """Remove old snapshots, and return those that were removed.

    The snapshots in ``keep`` stay, and all that the pipeline protects. The removal is recorded in the audit log before
    it happens. An OSError ends it, and the next retention repeats it.
    """
    removed: list[str] = []
    found = Retention()
    with contextlib.suppress(OSError):
        if pipeline.has_journal():  # a swap still needs its two snapshots
            return found
        found = plan_retention(pipeline.catalogue, limit, pipeline.protected_snapshots() | set(keep))
        if found.removed:
            aliases = {name: found.aliases[name].target for name in found.removed if name in found.aliases}
            pipeline.audit.append(
                "retention.applied", status="removed", removedSnapshots=found.removed, aliases=aliases
            )
        _remove(pipeline.catalogue, found, removed)
        pipeline.remove_unneeded_bases()
    return evolve(found, removed=removed)


def retain(catalogue: Catalogue, limit: int, protected: set[str]) -> list[str]:
    """Remove old snapshots and return their ids; the latest ``limit`` of each kind and ``protected`` stay."""
    removed: list[str] = []
    _remove(catalogue, plan_retention(catalogue, limit, protected), removed)
    return removed


def plan_retention(catalogue: Catalogue, limit: int, protected: set[str]) -> Retention:
    """Return what retention would remove.

    Equal safety snapshots count as one, so that repeated rollbacks do not push out an earlier state. The oldest intact
    one stays, and the ids of the others become its aliases.
    """
    snapshots, _ = catalogue.published()
    try:
        aliases = catalogue.aliases.read()
    except InvalidDocument:
        aliases = None  # release.verify reports it; until it is removed, every state keeps all its snapshots
    removed: dict[str, str | None] = {}  # each with the snapshot that stays in its place
    for kind in ("release", "safety"):
        candidates = [snapshot for snapshot in snapshots if snapshot.kind == kind and snapshot.sequence > 0]
        groups = _groups(candidates) if kind == "safety" else [[snapshot] for snapshot in candidates]
        latest_first = sorted(groups, key=lambda group: _latest_use(group, aliases or {}), reverse=True)
        for rank, group in enumerate(latest_first):
            names = [snapshot.snapshot_id for snapshot in group]
            stays = protected.intersection(names)
            target = next(iter(stays), None)
            if rank < max(limit, 1):
                target = _oldest_intact(catalogue, group, protected)
                stays |= {target} if aliases is not None else set(names)
            removed |= {name: target for name in names if name not in stays}
    in_order = [snapshot.snapshot_id for snapshot in snapshots if snapshot.snapshot_id in removed]
    return Retention(removed=in_order, aliases=_aliases_after(snapshots, removed, aliases or {}))


def _remove(catalogue: Catalogue, found: Retention, removed: list[str]) -> None:
    """Write the aliases, then remove the snapshots and add each id to ``removed``.

    In this order a crash loses no id, and no alias names a snapshot that is gone.
    """
    with contextlib.suppress(InvalidDocument):
        catalogue.aliases.write(found.aliases.values())
    for snapshot_id in found.removed:
        catalogue.store.delete(snapshot_id)
        removed.append(snapshot_id)


def _groups(snapshots: list[SnapshotMetadata]) -> list[list[SnapshotMetadata]]:
    """Return the snapshots in groups of equal state, oldest first in each."""
    groups: dict[bytes, list[SnapshotMetadata]] = {}
    for snapshot in snapshots:
        groups.setdefault(_state_of(snapshot), []).append(snapshot)
    return list(groups.values())


def _state_of(snapshot: SnapshotMetadata) -> bytes:
    """Return all that is recorded about the state in a snapshot.

    More than its digest, which excludes owners and journal modes: a rollback restores these too. Two copies of one
    database may differ in bytes, so a digest of content replaces the digest of bytes.
    """
    # The digest of a folder covers its entries, which are in a file of their own: do not read it.
    snapshot = evolve(snapshot, assets=[evolve(asset, entries=None) for asset in snapshot.assets])
    document: dict[str, Any] = {key: value for key, value in encode(snapshot).items() if key not in _IDENTITY}
    for asset in document["assets"]:
        if asset["contentDigest"] is not None:
            asset["sha256"] = None
    return canonical_bytes(document)


def _latest_use(group: list[SnapshotMetadata], aliases: dict[str, Alias]) -> int:
    """Return the latest sequence of the group: an id that became an alias still says when its state was captured."""
    names = {snapshot.snapshot_id for snapshot in group}
    used = [alias.sequence for alias in aliases.values() if follow(aliases, alias.snapshot_id) in names]
    return max([*(snapshot.sequence for snapshot in group), *used])


def _oldest_intact(catalogue: Catalogue, group: list[SnapshotMetadata], protected: set[str]) -> str:
    """Return the oldest snapshot whose bytes are as recorded, so that no damaged copy replaces an intact one."""
    oldest = group[0].snapshot_id
    if all(snapshot.snapshot_id in protected for snapshot in group[1:]):  # none of them would be removed
        return oldest
    intact = (s.snapshot_id for s in group if verify_snapshot(catalogue, s).status == "verified")
    return next(intact, group[-1].snapshot_id)


def _aliases_after(
    snapshots: list[SnapshotMetadata], removed: dict[str, str | None], aliases: dict[str, Alias]
) -> dict[str, Alias]:
    now = timestamp()
    new = {
        snapshot.snapshot_id: Alias(
            snapshot_id=snapshot.snapshot_id, target=target, sequence=snapshot.sequence, removed_at=now
        )
        for snapshot in snapshots
        if (target := removed.get(snapshot.snapshot_id)) is not None
    }
    known = aliases | new
    left = {snapshot.snapshot_id for snapshot in snapshots} - removed.keys()
    return {name: alias for name, alias in known.items() if name not in left and follow(known, name) in left}
