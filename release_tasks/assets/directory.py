"""The asset kind of one folder with its files, links and empty folders, restored by an exchange of names."""

from __future__ import annotations

import stat
from pathlib import Path

from attrs import NOTHING, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind
from release_tasks.assets.files import Gaps
from release_tasks.assets.findings import Damaged, Listing
from release_tasks.assets.overwrite import overwrite_tree
from release_tasks.assets.trees import capture_tree, scan_tree, tree_size
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.entries import entries_digest
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.options import option
from release_tasks.core.place import Place, trusted
from release_tasks.core.records import AssetEntry, AssetRecord

__all__ = ["DIRECTORY", "DirectoryKind", "DirectoryOptions", "with_entries"]

_MAX_NAMES = 5


@frozen(kw_only=True)
class DirectoryOptions:
    """A folder."""

    directory: Path = option("a folder with everything in it", NOTHING)


class DirectoryKind(AssetKind):
    """A folder. Sockets, pipes and devices in it are refused; a safety snapshot leaves them out."""

    name = "directory"
    options = DirectoryOptions
    restores = frozenset({"directory"})
    records_as = "directory"

    def size(self, asset: AssetConfig) -> int:
        """Return the size of all files in the folder."""
        with asset.found() as live:
            return tree_size(live)

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the folder; raises Damaged when the path is not a folder."""
        with asset.found() as live:
            if not stat.S_ISDIR(live.info().st_mode):
                raise Damaged(f"{asset.path} (asset {record.key}) is not a folder.")
            gaps = Gaps() if allow_damaged else None
            meter = Meter(emit, "capture", record.key, 0 if emit is ignore else tree_size(live))
            content = capture_tree(live, trusted(copy), gaps, meter.add)
        meter.finish()
        record = evolve(with_entries(record, content.entries), mode=content.mode)
        return record if gaps is None else gaps.on(record)

    def outline(self, record: AssetRecord, copy: Path) -> list[Listing]:
        """Return the entries by path."""
        entries = record.entries or []
        values = {excerpt_line(e.path): f"{e.kind} {e.mode:o} {e.sha256 or e.target}" for e in entries}
        return [Listing("", values)]

    def read_live(self, asset: AssetConfig, record: AssetRecord) -> AssetRecord:
        """Return the record of the live folder without a copy; a socket, a pipe or a device raises StageFailed."""
        with asset.found() as live:
            content = scan_tree(live)
        return evolve(with_entries(record, content.entries), mode=content.mode)

    def digest(self, record: AssetRecord, place: Place) -> str | None:
        """Return the digest over the folder's entries."""
        return entries_digest(scan_tree(place).entries)

    def compare(self, record: AssetRecord, live: AssetRecord) -> str:
        """Name the changed, the missing and the added entries."""
        if (live.sha256, live.mode) == (record.sha256, record.mode):
            return ""
        before = {entry.path: entry for entry in record.entries or []}
        now = {entry.path: entry for entry in live.entries or []}
        parts = {
            "changed": sorted(path for path in before.keys() & now.keys() if before[path] != now[path]),
            "missing": sorted(before.keys() - now.keys()),
            "added": sorted(now.keys() - before.keys()),
        }
        lists = [
            f"{word}: {', '.join(map(excerpt_line, paths[:_MAX_NAMES]))}{' ...' if len(paths) > _MAX_NAMES else ''}"
            for word, paths in parts.items()
            if paths
        ]
        return "; ".join(lists) or f"mode {live.mode:o} instead of {record.mode:o}"

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Make the folder equal to the stored one, entry by entry."""
        overwrite_tree(record, stored, live)


def with_entries(record: AssetRecord, entries: list[AssetEntry]) -> AssetRecord:
    """Return the record of a folder with ``entries``."""
    size = sum(entry.size for entry in entries)
    digest = entries_digest(entries)
    return evolve(record, kind="directory", exists=True, size=size, sha256=digest, entries=entries)


DIRECTORY = DirectoryKind()
