"""One run at a time: a lock between processes that dies with its holder, and the name of who has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from release_tasks.core.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import make_private_directory, write_atomic
from release_tasks.core.errors import LockHeld, with_path

__all__ = ["FileLock", "FolderLock", "Holder", "current_holder", "run_lock"]

_GRACE = 0.25  # seconds


class FileLock:
    """A lock by ``flock`` on the file that has the name ``path``; not re-entrant.

    It excludes other processes and other FileLocks of this process. The kernel drops it with its holder's last
    descriptor, so a killed process blocks no other one, and children that are started get no descriptor (O_CLOEXEC).
    The file is made if need be, 0600, with its folder, and it is never removed: a process that waits for it would lock
    a file without a name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: float = 0.0, poll_interval: float = 0.05) -> bool:
        """Take the lock and return True, or False when it stays taken for ``wait`` seconds. Raises OSError.

        It is tried every ``poll_interval`` seconds. A blocking flock would not be interrupted by a signal that the
        kernel hands to another thread.
        """
        until = time.monotonic() + wait
        while not self._try():
            left = until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(poll_interval, left))
        return True

    def release(self) -> None:
        """Release the lock, if this holds it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                # Closing alone leaves it to a child that another thread is just starting, until that child's exec.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    @contextlib.contextmanager
    def held(self, wait: float = 0.0, poll_interval: float = 0.05) -> Iterator[bool]:
        """Hold the lock while the block runs, which gets False when it stayed taken. Raises as ``acquire`` does."""
        try:
            yield self.acquire(wait, poll_interval)
        finally:
            self.release()

    def has_name(self, path: Path) -> bool:
        """Say whether the locked file has the name ``path`` now. Raises FileNotFoundError when no file has it."""
        return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), os.lstat(path))

    def _try(self) -> bool:
        try:
            descriptor = self._open()
        except (FileNotFoundError, BlockingIOError):  # its folder was exchanged just now, or the file is leased
            return False
        is_locked = False
        try:
            with with_path(self.path), contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The name may have passed to another file, and a process that locks that one does not see this lock.
                is_locked = os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        finally:
            if is_locked:
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        return is_locked

    def _open(self) -> int:
        make_private_directory(self.path.parent)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


class FolderLock(FileLock):
    """The same on a folder itself, which is not made: what does not exist cannot be locked."""

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@frozen(kw_only=True)
class Holder:
    """Who holds the lock, as they wrote it down themselves."""

    pid: int = field(converter=int)
    host: str = field(converter=str)
    command: str = field(converter=str)
    since: str = field(converter=str)

    def __str__(self) -> str:
        return f"{self.command!r} (pid {self.pid} on {self.host}, since {self.since})"


@contextlib.contextmanager
def run_lock(root: Path, command: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the pipeline folder ``root`` while the block runs.

    Waits up to ``wait`` seconds; raises LockHeld, naming the holder, when it is still taken then.
    """
    lock, note = FileLock(root / "lock"), root / "lock.json"
    # `current_holder` takes the lock for an instant, so do not give up at once. A process that is just taking or
    # releasing the lock has no note, so try again without one.
    if not lock.acquire(max(wait, _GRACE)):
        holder = current_holder(root)
        if holder is not None or not lock.acquire(_GRACE):
            holder = holder or current_holder(root)
            by = f"by {holder}" if holder else "by another run"
            retry = "Try again when it is done (release.rollback can wait: --wait 10m)."
            raise LockHeld(f"{root} is locked {by}. {retry}")
    try:
        described = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": command or " ".join(sys.argv),
            "since": timestamp(),
        }
        with contextlib.suppress(OSError):  # on a full disk the lock has to do, without the note of a killed run
            note.unlink(missing_ok=True)
            write_atomic(note, pretty_bytes(described), is_durable=False)
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink()
        lock.release()


def current_holder(root: Path) -> Holder | None:
    """Return who holds the lock of ``root`` now, or None when it is free or its holder left no note."""
    if not (root / "lock").exists():
        return None
    with FileLock(root / "lock").held() as is_free:
        if is_free:
            return None
    try:
        document = read_document(root / "lock.json")
        return Holder(**{name: document[name] for name in ("pid", "host", "command", "since")})
    except (FileNotFoundError, InvalidDocument, KeyError, ValueError):
        return None
