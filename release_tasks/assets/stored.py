"""The stored copy of an asset in a snapshot: its path and owner, and the comparison of a folder with its entries."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from release_tasks.assets.findings import AssetFinding
from release_tasks.assets.trees import dfs_order, scan_tree
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.entries import StoredEntries, entries_digest
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Meter
from release_tasks.core.ids import is_valid_id
from release_tasks.core.place import Place, Rights, trusted
from release_tasks.core.records import AssetEntry, AssetRecord
from release_tasks.core.tree import Tree

__all__ = [
    "BASES",
    "base_path",
    "is_digest",
    "is_folder",
    "is_mode",
    "owner_difference",
    "recorded_owner",
    "recorded_rights",
    "stored_path",
    "verify_tree",
]

BASES = "bases"
_ALL_BITS = 0o7777


def base_path(stored: Path, sha256: str) -> Path:
    """Return the path of the base with this digest, from that of a stored delta; raises StageFailed for no digest.

    It is ``bases/<digest>.db`` in the pipeline folder, and a delta is ``snapshots/<id>/assets/<key>/<name>`` in it.
    """
    if not is_digest(sha256):
        raise StageFailed(f"{stored} names a base by {excerpt_line(sha256)!r}, which is not a digest.")
    return stored.parents[4] / BASES / f"{sha256}.db"


def is_digest(value: object) -> bool:
    """Return whether ``value`` is a SHA-256 in lower-case hex digits."""
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


def is_folder(record: AssetRecord) -> bool:
    """Return whether the stored copy of an asset is a folder; the raw copy of a damaged asset is a folder too."""
    return record.kind == "directory" or record.damaged


def stored_path(folder: Path, record: AssetRecord) -> Path:
    """Return the path of an asset in the snapshot ``folder``; raises StageFailed for a record with another path."""
    parts = record.relative_path.split("/")
    expected = len(parts) == 3 and parts[0] == "assets" and parts[1] == record.key and is_valid_id(record.key)
    if not expected or not _is_file_name(parts[2]):
        key, path = excerpt_line(record.key), excerpt_line(record.relative_path)
        raise StageFailed(f"asset {key!r} has the path {path!r}, which is not a path of this asset.")
    for parent in (folder / "assets", folder / "assets" / record.key):
        if parent.is_symlink():
            raise StageFailed(f"{parent} is a symbolic link.")
    return folder / record.relative_path


def recorded_owner(stored: Path) -> tuple[int, int] | None:
    """Return user and group of a stored copy, or None if they mean nothing: only root records and restores owners."""
    if os.geteuid() != 0 or os.lstat(stored.parent).st_uid != 0:
        return None
    info = os.lstat(stored)
    return info.st_uid, info.st_gid


def recorded_rights(stored: Path, mode: int) -> Rights:
    """Return the rights of a file or folder that is restored from ``stored`` with ``mode``. Raises OSError."""
    info = os.lstat(stored)
    return Rights(info.st_uid, info.st_gid, mode)


def owner_difference(record: AssetRecord, stored: Path, live: Place) -> str:
    """Describe the first file or folder that has another owner than its stored copy; empty if all owners are equal."""
    if recorded_owner(stored) is None:
        return ""
    difference = _owners(os.lstat(stored), live.info())
    if difference or not record.entries:
        return difference
    with Tree(stored) as source, live.tree() as target:
        for entry in sorted(record.entries, key=dfs_order):
            folder, _, name = entry.path.rpartition("/")
            source.go(folder)
            target.go(folder)
            expected, found = (os.stat(name, dir_fd=tree.fd, follow_symlinks=False) for tree in (source, target))
            if difference := _owners(expected, found):
                return f"{excerpt_line(entry.path)}: {difference}"
    return ""


def verify_tree(record: AssetRecord, stored: Path, meter: Meter) -> list[AssetFinding]:
    """Compare a stored folder with its entries, which are read once, in the order of their paths."""
    entries = record.entries if record.entries is not None else []
    listed = entries_digest(entries)
    if listed != record.sha256:
        place = f" ({entries.name})" if isinstance(entries, StoredEntries) else ""
        what = f"its list of entries was altered{place}"
        return [AssetFinding(key=record.key, what=what, expected=record.sha256, found=listed)]
    if not isinstance(entries, StoredEntries):  # format 1: in any order
        entries = sorted(entries, key=lambda entry: entry.path)
    present = scan_tree(trusted(stored), meter.add).entries
    meter.finish()
    findings: list[AssetFinding] = []
    invalid, size, before = "", 0, None
    for entry, found in _matched(entries, present):
        if entry is not None:
            size += entry.size
            invalid = invalid or ("" if is_mode(entry.mode) else "an invalid mode")
            if entry.path == before:
                invalid = "a duplicate entry"
                continue
            before = entry.path
        difference = _difference(record.key, entry, found)
        findings += [difference] if difference is not None else []
    if size != record.size:
        invalid = invalid or "a size that is not the sum of its entries"
    if invalid and not findings:
        findings.append(AssetFinding(key=record.key, what=f"its record was altered: it has {invalid}"))
    return findings


def is_mode(mode: int | None) -> bool:
    """Return whether ``mode`` has only bits that ``chmod`` can set."""
    return mode is not None and 0 <= mode <= _ALL_BITS


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # JSON can contain surrogates that represent no byte
        return False
    return name not in ("", ".", "..") and "\x00" not in name


def _owners(expected: os.stat_result, found: os.stat_result) -> str:
    if (found.st_uid, found.st_gid) == (expected.st_uid, expected.st_gid):
        return ""
    return f"owner {found.st_uid}:{found.st_gid} instead of {expected.st_uid}:{expected.st_gid}"


def _matched(
    entries: Iterable[AssetEntry], present: Iterable[AssetEntry]
) -> Iterator[tuple[AssetEntry | None, AssetEntry | None]]:
    """Yield the pairs with the same path of two sorted lists; None where a list has no such path."""
    here, there = iter(entries), iter(present)
    entry, found = next(here, None), next(there, None)
    while entry is not None or found is not None:
        if found is None or (entry is not None and entry.path < found.path):
            yield entry, None
            entry = next(here, None)
        elif entry is None or found.path < entry.path:
            yield None, found
            found = next(there, None)
        else:
            yield entry, found
            entry, found = next(here, None), next(there, None)


def _difference(key: str, entry: AssetEntry | None, found: AssetEntry | None) -> AssetFinding | None:
    """Return the difference between an entry and the stored copy of it, or None when they are equal."""
    if entry is None:
        assert found is not None
        return AssetFinding(key=key, what=f"{excerpt_line(found.path)} was added", expected="nothing", found=found.path)
    if found is None:
        expected = entry.sha256 or entry.kind
        return AssetFinding(key=key, what=f"{excerpt_line(entry.path)} is missing", expected=expected)
    # Stored copies have the modes 0600 and 0700. The digest of the entries covers the recorded modes.
    if (entry.kind, entry.sha256, entry.size, entry.target) == (found.kind, found.sha256, found.size, found.target):
        return None
    return AssetFinding(
        key=key,
        what=f"{excerpt_line(entry.path)} was altered",
        expected=entry.sha256 or entry.target or entry.kind,
        found=found.sha256 or found.target or found.kind,
    )
