"""Wait for a lock by ``flock`` that another process holds, for a limited time, and say who holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from release_tasks.core.clock import awake
from release_tasks.core.interrupt import LONGEST_WAIT
from release_tasks.core.printable import one_line

__all__ = ["lock_within"]

_MOST_WORDS = 60


def lock_within(fd: int, operation: int, seconds: float) -> None:
    """Lock an open file, after at most ``seconds``. Raises OSError, which names the holders of the lock.

    A blocking flock has no limit, and is not interrupted by a signal that the kernel delivers to another thread.
    """
    deadline = awake.now() + seconds
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            return
        if awake.now() >= deadline:
            holders = ", ".join(_holders(os.fstat(fd).st_ino)) or "another process"
            raise OSError(errno.EWOULDBLOCK, f"It is locked by {holders}. End that process and try again")
        time.sleep(LONGEST_WAIT)


def _holders(inode: int) -> list[str]:
    """Return the processes with such a lock on a file with this inode number; empty without proc_locks(5)."""
    pids: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF; a line with -> waits for the lock
            words = line.split()
            if len(words) == 8 and words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == inode:
                pids.append(int(words[4]))
    return [f"process {pid}{_program(pid)}" for pid in dict.fromkeys(pids) if pid != os.getpid()]


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f" ({one_line(Path(f'/proc/{pid}/comm').read_text(errors='replace').strip(), _MOST_WORDS)})"
    return ""
