"""The pid file of a running gateway, and the detection of a stale pid file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from attrs import frozen

from release_tasks.core.canonical import InvalidDocument
from release_tasks.core.clock import boot_id, timestamp
from release_tasks.core.codec import decode, encode
from release_tasks.core.durable import write_atomic
from release_tasks.core.process.find import is_running, start_ticks
from release_tasks.core.regular import read_regular

__all__ = ["PidFile"]

_MODULE = "release_tasks.gateway"
_MOST_BYTES = 64 << 10


@frozen(kw_only=True)
class PidFile:
    """The process of a running gateway. Start ticks and boot id distinguish it from a later process with the same pid.

    Both are None on a system without /proc. ``port`` is None until the service listens.
    """

    pid: int
    start_ticks: int | None = None
    boot_id: str | None = None
    host: str
    port: int | None = None
    started_at: str

    @classmethod
    def of_this_process(cls, host: str) -> PidFile:
        """Return a record of the current process without a port."""
        pid = os.getpid()
        return cls(pid=pid, start_ticks=start_ticks(pid), boot_id=boot_id() or None, host=host, started_at=timestamp())

    @classmethod
    def read(cls, path: Path) -> PidFile | None:
        """Return the record in the file, or None if the file is missing or invalid."""
        try:
            record = decode(cls, json.loads(read_regular(path, _MOST_BYTES)), path.name)
        except (OSError, ValueError, RecursionError, InvalidDocument):
            return None
        # For kill(2), 0 and negative numbers are process groups; 1 is init.
        return record if record.pid > 1 else None

    def write(self, path: Path) -> None:
        """Write the record durably with mode 0600."""
        write_atomic(path, (json.dumps(encode(self)) + "\n").encode())

    def is_running(self) -> bool:
        """Return whether the recorded process still runs: same pid, same start, and a gateway."""
        import psutil

        if self.boot_id is not None and self.boot_id != boot_id():
            return False
        if not is_running(self.pid):
            return False
        if self.start_ticks is not None:
            return self.start_ticks == start_ticks(self.pid)
        with contextlib.suppress(psutil.Error, OSError):
            return _MODULE in " ".join(psutil.Process(self.pid).cmdline())
        return False

    def remove(self, path: Path) -> None:
        """Remove the file, unless it records another process now."""
        current = PidFile.read(path)
        if current is None or (current.pid, current.start_ticks) == (self.pid, self.start_ticks):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
