"""List snapshots in order, and find one by its id.

Snapshots are ordered by the sequence in their metadata, never by name or file time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.archive import legacy
from release_tasks.archive.aliases import AliasFile, follow
from release_tasks.archive.bases import Bases
from release_tasks.archive.delta_reader import write_reader
from release_tasks.archive.recorded import TAKEN, read_recorded
from release_tasks.archive.seal import is_sealed
from release_tasks.archive.stores.local import LocalStore
from release_tasks.assets.base import AssetConfig, Base
from release_tasks.assets.stored import BASES, is_folder
from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.codec import decode
from release_tasks.core.entries import StoredEntries
from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.ids import is_valid_id
from release_tasks.core.records import FORMAT_VERSION, SEQUENCE_LIMIT, AssetRecord, SnapshotMetadata, format_of
from release_tasks.core.typed import typed

__all__ = ["Catalogue", "Unreadable"]


@frozen
class Unreadable:
    """A folder in the place of a snapshot that cannot be read as a snapshot."""

    snapshot_id: str
    reason: str


class Catalogue:
    """The snapshots of one store. Every call reads the store again."""

    def __init__(self, store: LocalStore, audit: AuditLog | None = None) -> None:
        self.store = store
        self.bases = Bases(store.folder.parent / BASES, store.folder)
        self.aliases = AliasFile(store.folder / "aliases.json")
        self._audit = audit  # knows every snapshot, and when retention removed one

    def path(self, snapshot_id: str) -> Path:
        """Return the folder of a snapshot; raises UsageError for an id that could leave the store."""
        return self.store.fetch(snapshot_id)

    def published(self) -> tuple[list[SnapshotMetadata], list[Unreadable]]:
        """Return all snapshots, oldest first, and the folders that cannot be read as a snapshot."""
        snapshots: list[SnapshotMetadata] = []
        unreadable: list[Unreadable] = []
        for name in sorted(self.store.list()):
            try:
                snapshots.append(self._read(name))
            except FileNotFoundError:
                if self._has_assets(name):
                    unreadable.append(Unreadable(name, f"{name}/metadata.json is missing"))
                # A folder with neither is no snapshot: publishing and deleting always move both together.
            except InvalidDocument as error:
                unreadable.append(Unreadable(name, str(error)))
        return sorted(snapshots, key=lambda s: (s.sequence, s.created_at, s.snapshot_id)), unreadable

    def find_bases(self, assets: Mapping[str, AssetConfig]) -> dict[str, Base]:
        """Return the base of each asset of which a new capture stores what differs; see ``Bases.choose``."""
        published, _ = self.published()
        found = {key: self.bases.choose(published, key, asset) for key, asset in assets.items()}
        return {key: base for key, base in found.items() if base is not None}

    def _has_assets(self, name: str) -> bool:
        with contextlib.suppress(OSError), os.scandir(self.store.fetch(name) / "assets") as entries:
            return any(entries)
        return False

    def get(self, snapshot_id: str) -> SnapshotMetadata:
        """Return one snapshot, or the equal one that retention kept in its place.

        Raises UsageError when there is none with that id, StageFailed when it is unreadable.
        """
        if self._is_missing(snapshot_id):
            requested, snapshot_id = snapshot_id, self.resolve(snapshot_id)
            if self._is_missing(snapshot_id):
                raise UsageError(
                    f"There is no snapshot {requested!r}{self._removal(requested)}. {self._known_snapshots()}"
                )
        try:
            return self._read(snapshot_id)
        except FileNotFoundError:
            raise UsageError(
                f"There is no snapshot {snapshot_id!r}: its folder has no metadata.json. {self._known_snapshots()}"
            ) from None
        except InvalidDocument as error:
            raise StageFailed(
                f"Snapshot {snapshot_id} is refused: {error}. To list the intact snapshots: {typed('release.verify')}"
            ) from error

    def resolve(self, snapshot_id: str) -> str:
        """Return the id of the snapshot that has the state of ``snapshot_id``: itself, or the target of its alias."""
        if not self._is_missing(snapshot_id):
            return snapshot_id
        with contextlib.suppress(InvalidDocument):
            return follow(self.aliases.read(), snapshot_id)
        return snapshot_id

    def note_on(self, requested: str | None, found: SnapshotMetadata) -> list[str]:
        """Return a note when ``found`` is restored in place of the equal snapshot that an operator typed."""
        if requested in (None, found.snapshot_id) or self.resolve(str(requested)) != found.snapshot_id:
            return []
        return [f"Snapshot {requested} was equal to {found.snapshot_id}, and retention kept only this one."]

    def _is_missing(self, snapshot_id: str) -> bool:
        path = self.path(snapshot_id)
        return path.is_symlink() or not path.is_dir()

    def _removal(self, snapshot_id: str) -> str:
        """Return when retention removed a snapshot, as a part of a sentence; empty when the audit log does not know."""
        with contextlib.suppress(OSError):
            for event in reversed(self._audit.verify().events if self._audit is not None else []):
                if event.get("event") == "retention.applied" and snapshot_id in event.get("removedSnapshots", []):
                    return f": retention removed it on {event.get('time')}"
        return ""

    def find(self, snapshot_id: str | None) -> SnapshotMetadata:
        """Return the snapshot ``snapshot_id``, or ``latest()`` when it is None. Raises as ``get`` and ``latest`` do."""
        return self.latest() if snapshot_id is None else self.get(snapshot_id)

    def latest(self) -> SnapshotMetadata:
        """Return the latest release snapshot.

        Raises StageFailed when there is none, or when a folder is unreadable: it might be the latest snapshot.
        """
        snapshots, unreadable = self.published()
        if unreadable:
            first = unreadable[0]
            raise StageFailed(
                f"The latest snapshot cannot be determined, because {first.snapshot_id} is unreadable "
                f"({first.reason}). Choose a snapshot with --snapshot. {self._known_snapshots()}"
            )
        releases = [snapshot for snapshot in snapshots if snapshot.kind == "release"]
        if not releases:
            raise StageFailed(f"There is no release snapshot yet. To create one: {typed('release.prepare')}")
        return releases[-1]

    def publish(self, metadata: SnapshotMetadata) -> None:
        """Record a complete snapshot in the audit log, then publish it.

        After a crash between the two, the log has one snapshot more than the store, never one less. The first snapshot
        with a delta brings the script that reads it. Raises OSError.
        """
        if any(asset.delta is not None for asset in metadata.assets):
            write_reader(self.store.folder.parent)
        if self._audit is not None:
            self._audit.append(
                TAKEN,
                status="taken",
                release_id=metadata.release_id,
                snapshot_id=metadata.snapshot_id,
                digest=metadata.digest,
                checksum=metadata.checksum,
            )
        self.store.publish(metadata.snapshot_id)

    def free_id(self, default: str) -> str:
        """Return ``default``, with a number as suffix when it is the id of a snapshot, or of one that was removed."""
        with contextlib.suppress(InvalidDocument):
            taken = {*self.store.list(), *self.aliases.read()}
            numbered = (default if number == 1 else f"{default}-{number}" for number in itertools.count(1))
            return next(name for name in numbered if name not in taken)
        return default

    def next_sequence(self) -> int:
        """Return the sequence for a new snapshot: one more than the highest of those that the audit log knows.

        When it knows none of them, all count: the log was lost, or an earlier version wrote them. Raises OSError.
        """
        used = {snapshot.snapshot_id: snapshot.sequence for snapshot in self.published()[0]}
        with contextlib.suppress(InvalidDocument):
            used |= {alias.snapshot_id: alias.sequence for alias in self.aliases.read().values()}
        recorded = read_recorded(self._audit.verify().events if self._audit is not None else [])
        known = [sequence for name, sequence in used.items() if recorded.find(name) is not None]
        return max(known or used.values(), default=0) + 1

    def _read(self, snapshot_id: str) -> SnapshotMetadata:
        name = f"{snapshot_id}/metadata.json"
        document = self.store.read(snapshot_id)
        version = document.get("formatVersion")
        if version is None and legacy.has_older_form(document):
            metadata = legacy.read_metadata(document, name)
        elif type(version) is not int or version < 1:
            raise InvalidDocument(f"{name} has no valid formatVersion")
        elif version > FORMAT_VERSION:
            raise InvalidDocument(
                f"{name} has format {version}; this version of release-tasks reads up to {FORMAT_VERSION}"
            )
        elif not is_sealed(document):
            raise InvalidDocument(f"{name} was altered: its checksum does not match")
        else:
            metadata = decode(SnapshotMetadata, document, name)
            if version < format_of(metadata.assets) == FORMAT_VERSION:
                raise InvalidDocument(f"{name} has format {version} and a delta, which only format 3 has")
            if version > 1:
                metadata = _with_stored_entries(metadata, self.store.fetch(snapshot_id))
            # 0 marks a snapshot of the older tool, which retention never removes.
            if not 0 < metadata.sequence < SEQUENCE_LIMIT:
                raise InvalidDocument(f"{name} has no valid sequence")
        if metadata.snapshot_id != snapshot_id:
            raise InvalidDocument(f"{name} belongs to snapshot {excerpt_line(metadata.snapshot_id)!r}")
        return metadata

    def _known_snapshots(self) -> str:
        snapshots, _ = self.published()
        if not snapshots:
            return f"No snapshot exists yet. To create one: {typed('release.prepare')}"
        latest = ", ".join(snapshot.snapshot_id for snapshot in reversed(snapshots[-5:]))
        return f"The latest snapshots are {latest}. To list more: {typed('release.status', '--limit', '100')}"


def _with_stored_entries(metadata: SnapshotMetadata, folder: Path) -> SnapshotMetadata:
    """Return metadata of format 2 or 3 whose folders read their entries from their files, when they are used."""

    def entries(record: AssetRecord) -> StoredEntries | None:
        has_entries = record.exists and is_folder(record) and is_valid_id(record.key)  # any other key is refused later
        return StoredEntries(folder, record.key, record.sha256) if has_entries else None

    return evolve(metadata, assets=[evolve(record, entries=entries(record)) for record in metadata.assets])
