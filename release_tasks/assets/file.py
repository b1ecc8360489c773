"""The asset kind of one file: copied while it does not change, restored by an exchange of names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import NOTHING, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind
from release_tasks.assets.files import Gaps, capture_file, keep_attributes, scan_file
from release_tasks.assets.findings import Damaged
from release_tasks.assets.overwrite import overwrite_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.options import option
from release_tasks.core.place import Place, trusted
from release_tasks.core.records import AssetRecord

__all__ = ["FILE", "FileKind", "FileOptions"]


@frozen(kw_only=True)
class FileOptions:
    """One file."""

    file: Path = option("one file", NOTHING)


class FileKind(AssetKind):
    """A regular file; a link in its place is refused."""

    name = "file"
    options = FileOptions
    restores = frozenset({"file"})
    records_as = "file"

    def capture(
        self, asset: AssetConfig, record: AssetRecord, copy: Path, *, emit: Emit = ignore, allow_damaged: bool = False
    ) -> AssetRecord:
        """Copy the file; raises Damaged when, for a safety snapshot, the path is not a regular file."""
        with asset.found() as live:
            info = live.info()
            if allow_damaged and not stat.S_ISREG(info.st_mode):
                raise Damaged(f"{asset.path} is not a regular file.")
            meter = Meter(emit, "capture", record.key, info.st_size)
            gaps = Gaps() if allow_damaged else None
            entry = capture_file(live, trusted(copy), meter.add, gaps)
        meter.finish()
        record = evolve(record, exists=True, size=entry.size, sha256=entry.sha256, mode=entry.mode)
        return record if gaps is None else gaps.on(record)

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Place) -> None:
        """Write the stored bytes to the file, and verify them."""
        assert record.mode is not None
        with overwrite_file(stored, live, record.mode, record.sha256) as fd:
            keep_attributes(fd, os.lstat(stored), record.mode, str(live.path))
        if scan_file(live).sha256 != record.sha256:
            raise StageFailed(f"{live.path} does not contain the bytes that were written to it.")
        live.flush_file()


FILE = FileKind()
