"""Make a snapshot from another snapshot, with a few files replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from attrs import evolve, frozen

from release_tasks.archive.attestation.captured import sign_snapshot
from release_tasks.archive.attestation.signing import Signer
from release_tasks.archive.capture import CaptureRequest, new_snapshot
from release_tasks.archive.catalogue import Catalogue
from release_tasks.assets.files import capture_file
from release_tasks.assets.kinds import kind_of
from release_tasks.assets.stored import is_folder, stored_path
from release_tasks.assets.trees import capture_tree
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import remove_tree
from release_tasks.core.entries import entries_digest
from release_tasks.core.errors import StageFailed
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetEntry, AssetRecord, SnapshotMetadata

__all__ = ["Replacement", "StoredFile", "derive_snapshot", "stored_bytes", "with_replacements"]

_FOLDER_MODE = 0o700


@frozen(order=True)
class StoredFile:
    """A file of a snapshot: the key of an asset, and the path of the file inside it ("" is the asset itself)."""

    key: str
    inside: str = ""


@frozen(kw_only=True)
class Replacement:
    """The new content of a file; None removes the file. ``mode`` and ``owner`` are for a file that did not exist."""

    data: bytes | None
    mode: int = 0o600
    owner: tuple[int, int] | None = None


Replacements = Mapping[StoredFile, Replacement]


def stored_bytes(folder: Path, snapshot: SnapshotMetadata, file: StoredFile) -> bytes | None:
    """Return the content of ``file`` in the snapshot in ``folder``, or None when there is no such file."""
    record = snapshot.asset(file.key)
    if record is None or not record.exists:
        return None
    if not file.inside:
        return stored_path(folder, record).read_bytes()
    entry = next((entry for entry in record.entries or [] if entry.path == file.inside), None)
    if entry is None or entry.kind != "file":
        return None
    return (stored_path(folder, record) / file.inside).read_bytes()


def with_replacements(snapshot: SnapshotMetadata, replacements: Replacements) -> list[AssetRecord]:
    """Return the records of ``snapshot`` with its files replaced; equal content gives equal records."""
    records = {record.key: record for record in snapshot.assets}
    for file, replacement in replacements.items():
        record = records[file.key]
        records[file.key] = (_tree_with if file.inside else _file_with)(record, file.inside, replacement)
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
    catalogue: Catalogue,
    source: SnapshotMetadata,
    replacements: Replacements,
    request: CaptureRequest,
    signer: Signer | None = None,
) -> SnapshotMetadata:
    """Publish a copy of ``source`` with some files replaced; recorded modes and journal modes stay the same.

    It is signed by ``signer``. Raises StageFailed when a copied byte differs from its record, OSError when the copy
    cannot be written; no files stay behind then.
    """
    records = with_replacements(source, replacements)

    def copy(partial: Path) -> list[AssetRecord]:
        for before, after in zip(source.assets, records, strict=True):
            changes = {file.inside: change for file, change in replacements.items() if file.key == before.key}
            if after.exists:
                target = partial / after.relative_path
                os.mkdir(target.parent, 0o700)
                if before.exists:
                    _copy_stored(stored_path(catalogue.path(source.snapshot_id), before), before, target)
                for inside, change in changes.items():
                    _replace(target, inside, change)
        return records

    with new_snapshot(catalogue, copy, request) as metadata:
        sign_snapshot(signer, catalogue.store.partial_path(metadata.snapshot_id), metadata)
        catalogue.publish(metadata)
    return metadata


def _copy_stored(stored: Path, record: AssetRecord, target: Path) -> None:
    if is_folder(record):
        found = [_content(entry) for entry in capture_tree(trusted(stored), trusted(target)).entries]
        is_as_recorded = found == [_content(entry) for entry in record.entries or []]
    else:
        is_as_recorded = capture_file(trusted(stored), trusted(target)).sha256 == kind_of(record).stored_digest(record)
    if not is_as_recorded:
        raise StageFailed(f"{stored} changed during the copy; the live state was not changed.")


def _content(entry: AssetEntry) -> tuple[object, ...]:
    # Without the mode: stored copies have 0600 and 0700, and the record has the original mode.
    return entry.path, entry.kind, entry.size, entry.sha256, entry.target


def _replace(target: Path, inside: str, change: Replacement) -> None:
    path = target / inside if inside else target
    if change.data is None:
        remove_tree(path)
        return
    if path.is_symlink() or path.is_dir():
        remove_tree(path)
    if inside:
        for folder in [target, *(target / parent for parent in _folders_above(inside))]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
    is_new = not path.exists()
    path.touch(0o600)
    path.write_bytes(change.data)
    if is_new and change.owner not in (None, (os.geteuid(), os.getegid())):
        with contextlib.suppress(OSError):  # only root may change the owner of a file
            os.chown(path, *change.owner)


def _folders_above(inside: str) -> list[str]:
    """Return the folders between an asset and a file inside it, outermost first."""
    return [str(folder) for folder in reversed(PurePosixPath(inside).parents)][1:]
