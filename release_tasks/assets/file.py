"""One file: copied while it holds still, exchanged by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import NOTHING, evolve, frozen

from release_tasks.assets.base import AssetConfig, AssetKind, Damaged
from release_tasks.assets.files import capture_file, scan_file
from release_tasks.assets.overwrite import overwrite_file
from release_tasks.core.durable import fsync_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Emit, Meter, ignore
from release_tasks.core.options import option
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
        """Copy the file; raises Damaged when a safety snapshot finds something else in its place."""
        info = os.lstat(asset.path)
        if allow_damaged and not stat.S_ISREG(info.st_mode):
            raise Damaged(f"{asset.path} should be a regular file and is none.")
        meter = Meter(emit, "capture", record.key, info.st_size)
        entry = capture_file(asset.path, copy, meter.add)
        meter.finish()
        return evolve(record, exists=True, size=entry.size, sha256=entry.sha256)

    def overwrite_content(self, record: AssetRecord, stored: Path, live: Path) -> None:
        """Write the stored bytes into the file, and read them again."""
        assert record.mode is not None
        overwrite_file(stored, live)
        os.chmod(live, record.mode)
        if scan_file(live).sha256 != record.sha256:
            raise StageFailed(f"{live} does not hold what was written to it.")
        fsync_file(live)


FILE = FileKind()
