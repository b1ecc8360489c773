"""Hold the locks of several assets: of all, or of none."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from release_tasks.assets.base import AssetConfig, Hold, Scan
from release_tasks.assets.findings import Busy
from release_tasks.assets.placing import inode_at
from release_tasks.assets.waiting import LockWait
from release_tasks.core.errors import StageFailed
from release_tasks.core.records import AssetRecord, Inode, JournalStep

__all__ = ["locked"]

# Seconds for one lock. Each try is longer than the one before: a longer wait lets more readers end theirs, and SQLite
# admits no new reader in this time.
_SHORTEST_TRY = 0.05
_LONGEST_TRY = 0.4


@contextlib.contextmanager
def locked(
    assets: Mapping[str, AssetConfig],
    steps: list[JournalStep],
    stored: Mapping[str, tuple[AssetRecord, Path]],
    scans: Mapping[str, Scan],
    wait: LockWait,
    advice: str = "",
) -> Iterator[Mapping[str, Hold]]:
    """Hold the locks of all changing assets while the block runs: of all, or of none.

    ``stored`` has the records and copies that the steps restore, and ``scans`` the assets that are open already. While
    one lock is held by another process, no lock is kept, so that the service can end its transactions. Raises Busy,
    with ``advice``, when a lock is held during all of ``wait``; StageFailed, OSError.
    """
    ordered = _in_lock_order(steps)
    seconds = _SHORTEST_TRY
    wait.begin()
    while True:
        with contextlib.ExitStack() as locks:
            holds: dict[str, Hold] = {}
            try:
                for step in ordered:
                    asset = assets[step.key]
                    scan = scans.get(step.key)
                    lock = scan.lock(seconds) if scan else asset.kind.lock(asset, step, *stored[step.key], seconds)
                    hold = locks.enter_context(lock)
                    if hold is not None:
                        holds[step.key] = hold
            except Busy as error:
                busy = error
            else:
                yield holds
                return
        if not wait.go_on(functools.partial("{} is locked by {}.".format, busy.path, busy.holders)):
            raise Busy(busy.path, busy.holders, wait.seconds, advice) from busy
        seconds = min(2 * seconds, _LONGEST_TRY)


def _in_lock_order(steps: list[JournalStep]) -> list[JournalStep]:
    """Return the steps in the order of their inodes: two programs that lock in one order cannot block each other.

    Raises StageFailed when two assets are one database: the second lock would wait for the first.
    """
    databases = {step.key: inode_at(Path(step.path)) for step in steps if step.action == "database"}
    for key, inode in databases.items():
        same = [other for other, found in databases.items() if found == inode and other != key]
        if same:
            raise StageFailed(f"The assets {key} and {same[0]} are the same database. Remove one from release.assets.")
    return sorted(steps, key=lambda step: _position(inode_at(Path(step.path))))


def _position(inode: Inode | None) -> tuple[int, int]:
    return (inode.device, inode.number) if inode is not None else (-1, -1)
