"""A snapshot made from another one: the same state, but for a few files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from release_tasks.archive.capture import CaptureRequest, filled_snapshot
from release_tasks.archive.catalogue import Catalogue
from release_tasks.assets.base import is_folder, stored_path
from release_tasks.assets.files import capture_file, capture_tree, entries_digest
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetEntry, AssetRecord, SnapshotMetadata

__all__ = ["Place", "Replacement", "derive_snapshot", "stored_bytes", "with_replacements"]

_FOLDER_MODE = 0o700


@frozen(order=True)
class Place:
    """A file of a snapshot: an asset, and the file's path inside it; "" is the asset itself."""

    key: str
    inside: str = ""


@frozen(kw_only=True)
class Replacement:
    """What a file is to hold instead; None: it is not to be there. ``mode`` and ``owner`` are for one that is new."""

    data: bytes | None
    mode: int = 0o600
    owner: tuple[int, int] | None = None


Replacements = Mapping[Place, Replacement]


def stored_bytes(folder: Path, snapshot: SnapshotMetadata, place: Place) -> bytes | None:
    """Return what the snapshot in ``folder`` holds at ``place``, or None when it holds no file there."""
    record = snapshot.asset(place.key)
    if record is None or not record.exists:
        return None
    if not place.inside:
        return stored_path(folder, record).read_bytes()
    entry = next((entry for entry in record.entries or [] if entry.path == place.inside), None)
    if entry is None or entry.kind != "file":
        return None
    return (stored_path(folder, record) / place.inside).read_bytes()


def with_replacements(snapshot: SnapshotMetadata, replacements: Replacements) -> list[AssetRecord]:
    """Return the records of ``snapshot`` as they are once its files are replaced; equal content, equal records."""
    records = {record.key: record for record in snapshot.assets}
    for place, replacement in replacements.items():
        record = records[place.key]
        records[place.key] = (_tree_with if place.inside else _file_with)(record, place.inside, replacement)
    return list(records.values())


def _file_with(record: AssetRecord, _: str, replacement: Replacement) -> AssetRecord:
    data = replacement.data
    if data is None:
        return evolve(record, exists=False, size=0, sha256=None, mode=None)
    mode = record.mode if record.exists else replacement.mode
    return evolve(record, exists=True, size=len(data), sha256=sha256_bytes(data), mode=mode)


def _tree_with(record: AssetRecord, inside: str, replacement: Replacement) -> AssetRecord:
    before = {entry.path: entry for entry in record.entries or []}
    entries = {path: entry for path, entry in before.items() if path != inside and not path.startswith(f"{inside}/")}
    data = replacement.data
    if data is not None:
        for folder in _folders_above(inside):
            entries.setdefault(folder, AssetEntry(path=folder, kind="directory", mode=_FOLDER_MODE))
        old = before.get(inside)
        mode = old.mode if old is not None and old.kind == "file" else replacement.mode
        entries[inside] = AssetEntry(path=inside, kind="file", mode=mode, size=len(data), sha256=sha256_bytes(data))
    elif not record.exists:
        return record
    listed = sorted(entries.values(), key=lambda entry: entry.path)
    return evolve(
        record,
        exists=True,
        size=sum(entry.size for entry in listed),
        sha256=entries_digest(listed),
        mode=record.mode if record.exists else _FOLDER_MODE,
        entries=listed,
    )


def derive_snapshot(
    catalogue: Catalogue, source: SnapshotMetadata, replacements: Replacements, request: CaptureRequest
) -> SnapshotMetadata:
    """Publish a copy of ``source`` in which some files are replaced; modes and journal modes are as recorded there.

    Raises StageFailed when a copied byte is not as recorded, OSError when it cannot be written; nothing is left then.
    """
    records = with_replacements(source, replacements)

    def copy(partial: Path) -> list[AssetRecord]:
        for before, after in zip(source.assets, records, strict=True):
            changes = {place.inside: change for place, change in replacements.items() if place.key == before.key}
            if after.exists:
                goal = partial / after.relative_path
                os.mkdir(goal.parent, 0o700)
                if before.exists:
                    _copy_stored(stored_path(catalogue.path(source.snapshot_id), before), before, goal)
                for inside, change in changes.items():
                    _replace(goal, inside, change)
        return records

    with filled_snapshot(catalogue, copy, request) as metadata:
        catalogue.store.publish(metadata.snapshot_id)
    return metadata


def _copy_stored(stored: Path, record: AssetRecord, goal: Path) -> None:
    if is_folder(record):
        found = [_content(entry) for entry in capture_tree(stored, goal)]
        is_as_recorded = found == [_content(entry) for entry in record.entries or []]
    else:
        is_as_recorded = capture_file(stored, goal).sha256 == record.sha256
    if not is_as_recorded:
        raise StageFailed(f"{stored} changed while it was being copied; nothing was changed.")


def _content(entry: AssetEntry) -> tuple[object, ...]:
    # Without the mode: stored copies are 0600 and 0700, and the record says what they are to have.
    return entry.path, entry.kind, entry.size, entry.sha256, entry.target


def _replace(goal: Path, inside: str, change: Replacement) -> None:
    path = goal / inside if inside else goal
    if change.data is None:
        remove_tree(path)
        return
    if path.is_symlink() or path.is_dir():
        remove_tree(path)
    if inside:
        for folder in [goal, *(goal / above for above in _folders_above(inside))]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
    is_new = not path.exists()
    path.touch(0o600)
    path.write_bytes(change.data)
    if is_new and change.owner not in (None, (os.geteuid(), os.getegid())):
        with contextlib.suppress(OSError):  # only root may give files away
            os.chown(path, *change.owner)


def _folders_above(inside: str) -> list[str]:
    """Return the folders between an asset and a file inside it, outermost first."""
    return [str(folder) for folder in reversed(PurePosixPath(inside).parents)][1:]
