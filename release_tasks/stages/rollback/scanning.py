"""Compare the live databases with their new state before they are locked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from attrs import field, frozen

from release_tasks.assets.base import Scan
from release_tasks.assets.findings import Busy
from release_tasks.assets.placing import inode_at
from release_tasks.assets.stored import stored_path
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import StepBegan
from release_tasks.core.records import DatabaseRestore, Inode, JournalStep, SnapshotMetadata
from release_tasks.stages.rollback.attempt import RollbackAttempt

__all__ = ["Scans", "scans_opened"]


@frozen
class Scans:
    """The scans of a rollback by asset, and the reasons why other assets are restored as a whole."""

    opened: dict[str, Scan] = field(factory=dict)
    whole: dict[str, DatabaseRestore] = field(factory=dict)

    def release_others(self, steps: list[JournalStep]) -> None:
        """Give up the scans of the assets that do not change, or that are exchanged."""
        changing = {step.key for step in steps if step.action == "database"}
        for key in [key for key in self.opened if key not in changing]:
            self.opened.pop(key).release()

    def measured(self, restored: list[str]) -> dict[str, DatabaseRestore]:
        """Return how each of the restored databases was restored."""
        found = self.whole | {key: scan.measured() for key, scan in self.opened.items()}
        return {key: found[key] for key in restored if key in found}


@contextlib.contextmanager
def scans_opened(run: RollbackAttempt, target: SnapshotMetadata) -> Iterator[Scans]:
    """Open the live databases for a comparison by page while the block runs.

    Raises StageFailed when two assets are one database, and when a database stays locked.
    """
    if run.settings.release.storage.restore_by_page:
        run.emit(StepBegan("scan"))
    folder = run.pipeline.catalogue.path(target.snapshot_id)
    scans, inodes = Scans(), dict[Inode, str]()
    with contextlib.ExitStack() as opened:
        for key, asset in run.assets.items():
            record = target.asset(key)
            if record is None or not record.exists or record.damaged or not asset.takes(record):
                continue
            try:
                found = opened.enter_context(asset.kind.scanned(asset, record, stored_path(folder, record), run.emit))
            except Busy as error:
                raise StageFailed(f"{error.message} {run.request.longer_wait}") from error
            if isinstance(found, DatabaseRestore):
                scans.whole[key] = found
            elif found is not None:
                opened.callback(found.release)
                scans.opened[key] = found
                inode = inode_at(asset.path)
                if inode is not None and (other := inodes.setdefault(inode, key)) != key:
                    raise StageFailed(
                        f"The assets {other} and {key} are the same database. Remove one from release.assets."
                    )
        yield scans
