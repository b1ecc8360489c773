"""The start gate of the service: closed while a rollback may still change the live state.

A service that starts between the safety copy and the end of the swap would open the state that is about to be replaced,
or a mix. The gate is a lock by ``flock`` of its own and no entry of ``lock.json``: it needs no space on a full disk,
the kernel opens it when the rollback is killed, and it cannot be confused with the record of a former command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from release_tasks.core.lock import ExistingFileLock, FileLock, RunLock

__all__ = ["StartGate", "await_open", "closed_gate"]

_FILE = "start-gate"
_GRACE = 1.0  # seconds; a process that passes the gate holds its lock for an instant


class StartGate:
    """The start gate during one rollback, which holds ``lock``. The stage stands in the lock's record too."""

    def __init__(self, root: Path, lock: RunLock, rollback_id: str) -> None:
        self._file = FileLock(root / _FILE)
        self._lock = lock
        self._rollback_id = rollback_id
        self._is_closed = False
        self._is_held = False

    def close(self) -> None:
        """Close the gate: from now on a service waits. Raises OSError."""
        if not self._is_closed:
            self._is_closed = True
            self.enter("before swap")

    def enter(self, stage: Literal["before swap", "swap", "after swap"]) -> None:
        """Record the stage of the rollback, for `release.status`."""
        if self._is_closed and not self._is_held:
            # Another process that has the lock keeps the gate closed as well, so the rollback does not depend on it.
            self._is_held = self._file.acquire(_GRACE)
        self._lock.record(stage=stage, rollback_id=self._rollback_id)

    def open(self) -> None:
        """Open the gate: this rollback does not change the live state any more, and the service may start."""
        if self._is_closed:
            self._is_closed = self._is_held = False
            self._file.release()
            self.enter("after swap")


@contextlib.contextmanager
def closed_gate(root: Path, lock: RunLock, rollback_id: str) -> Iterator[StartGate]:
    """Close the gate for a block that may change the live state; it is open again after the block."""
    gate = StartGate(root, lock, rollback_id)
    gate.close()
    try:
        yield gate
    finally:
        gate.open()


def await_open(root: Path, wait: float) -> bool:
    """Wait up to ``wait`` seconds until the gate is open, and return whether it is. Creates nothing. Raises OSError."""
    path = root / _FILE
    if not os.path.lexists(path):
        return True
    with ExistingFileLock(path).held(wait) as is_open:
        return is_open
