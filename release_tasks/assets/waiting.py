"""Wait for locks that other processes hold, and describe the processes."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, frozen

from release_tasks.core.arguments import shown_arguments
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.clock import awake
from release_tasks.core.events import Emit, Noted, ignore
from release_tasks.core.place import Place
from release_tasks.core.units import show_duration

__all__ = ["LockWait", "PosixLock", "holders_of"]

_FIRST_REPORT = 1.0  # seconds
_NEXT_REPORT = 10.0
_MOST_NAMED = 3
_MOST_WORDS = 100  # characters of a command line
_MOST_READ = 4 << 10  # bytes of it


@frozen
class PosixLock:
    """A POSIX lock of another process on a file. ``start`` is its first byte."""

    pid: int
    is_exclusive: bool
    start: int


@define
class LockWait:
    """A wait for a lock, of at most ``seconds`` in which this process is awake. It reports who holds the lock."""

    seconds: float
    emit: Emit = ignore
    _started: float = 0.0
    _next_report: float = 0.0

    def begin(self) -> None:
        """Start the wait anew."""
        self._started = awake.now()
        self._next_report = _FIRST_REPORT

    def go_on(self, describe: Callable[[], str]) -> bool:
        """Sleep for a moment and return True; return False when the wait is over.

        ``describe`` returns a sentence that names the lock and its holder, such as "app.db is locked by ...".
        """
        passed = awake.now() - self._started
        if passed >= self.seconds:
            return False
        if passed >= self._next_report:
            self._next_report = passed + _NEXT_REPORT
            left = show_duration(max(round(self.seconds - passed), 1))
            self.emit(Noted(f"{describe()} Waiting for at most {left} more (release.lock_wait)."))
        # Two waiting programs must not try at the same moments.
        time.sleep(min(random.uniform(0.01, 0.05), self.seconds - passed))
        return True


def holders_of(place: Place, is_blocking: Callable[[PosixLock], bool]) -> list[str]:
    """Describe the other processes with a POSIX lock on the file for which ``is_blocking`` is true.

    Reads /proc (proc_locks(5)). Empty where the system reports nothing: another system, or a process in another
    container.
    """
    try:
        info = place.info()
    except OSError:
        return []
    pids = {lock.pid: None for lock in _locks(info.st_ino) if lock.pid != os.getpid() and is_blocking(lock)}
    pids = {pid: None for pid in pids if _has_open(pid, info)}
    shown = [f"process {pid}{_command(pid)}" for pid in list(pids)[:_MOST_NAMED]]
    return shown + ([f"{len(pids) - _MOST_NAMED} more"] if len(pids) > _MOST_NAMED else [])


def _locks(inode: int) -> Iterator[PosixLock]:
    """Return the locks on files with this inode number, on any device: some filesystems report another device."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
        words = line.replace("->", "").split()
        if len(words) < 8 or words[1] != "POSIX":
            continue
        with contextlib.suppress(ValueError):
            if int(words[5].rpartition(":")[2]) == inode:
                yield PosixLock(pid=int(words[4]), is_exclusive=words[3] == "WRITE", start=int(words[6]))


def _has_open(pid: int, info: os.stat_result) -> bool:
    """Return whether a process has the file open; True also when its files may not be listed."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    for name in names:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(f"{folder}/{name}"), info):
                return True
    return False


def _command(pid: int) -> str:
    """Return the command line of a process in parentheses, without secrets."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(_MOST_READ)  # of megabytes that a process may have
        words = command.decode(errors="replace").rstrip("\0").split("\0")
        if len(command) == _MOST_READ:
            words.pop()  # it may be half a secret
        if text := shown_arguments(words):
            return f" ({excerpt_line(text, _MOST_WORDS)})"
    return ""
