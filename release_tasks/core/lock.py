"""The lock that lets one run at a time work on a pipeline folder, and the record of its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from release_tasks.core.arguments import shown_arguments
from release_tasks.core.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.core.clock import awake, timestamp
from release_tasks.core.codec import decode, encode
from release_tasks.core.durable import keep_out_of_git, make_private_directory, write_atomic
from release_tasks.core.errors import LockHeld, with_path
from release_tasks.core.events import Emit, Noted, ignore
from release_tasks.core.redact import Redactor
from release_tasks.core.units import show_duration

__all__ = ["ExistingFileLock", "FileLock", "FolderLock", "Holder", "RunLock", "current_holder", "run_lock"]

_GRACE = 0.25  # seconds
_NEXT_NOTE = 10.0  # seconds between two messages about one wait


class FileLock:
    """A lock by ``flock`` on the file that has the name ``path``; not re-entrant.

    The lock excludes other processes and other FileLocks of this process. The kernel releases it when the holder's last
    descriptor closes, so a killed process blocks no other process. Child processes get no descriptor (O_CLOEXEC). A
    missing file is created (0600), and its folder too. The file is never removed. Otherwise a process that waits for
    the lock would lock a file without a name.
    """

    _operation = fcntl.LOCK_EX

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: float = 0.0, poll_interval: float = 0.05) -> bool:
        """Take the lock and return True, or return False when it is still taken after ``wait`` seconds. Raises OSError.

        Tries every ``poll_interval`` seconds: a blocking flock is not interrupted by a signal that the kernel delivers
        to another thread.
        """
        deadline = awake.now() + wait
        while not self._try():
            remaining = deadline - awake.now()
            if remaining <= 0:
                return False
            time.sleep(min(poll_interval, remaining))
        return True

    def release(self) -> None:
        """Release the lock, if this object holds it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                # Closing alone is not enough: a child that another thread starts has the descriptor until its exec.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    @contextlib.contextmanager
    def held(self, wait: float = 0.0, poll_interval: float = 0.05) -> Iterator[bool]:
        """Hold the lock while the block runs; yields the result of ``acquire`` and raises as ``acquire`` does."""
        try:
            yield self.acquire(wait, poll_interval)
        finally:
            self.release()

    def has_name(self, path: Path) -> bool:
        """Return whether the locked file has the name ``path`` now. Raises FileNotFoundError when no file has it."""
        return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), os.lstat(path))

    def _try(self) -> bool:
        try:
            descriptor = self._open()
        except (FileNotFoundError, BlockingIOError):  # the folder was just exchanged, or the file has a lease
            return False
        is_locked = False
        try:
            with with_path(self.path), contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, self._operation | fcntl.LOCK_NB)
                # Another file may have the name now, and a process that locks that file does not see this lock.
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
    """A lock by ``flock`` on a folder. A missing folder is not created, and locking it fails."""

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


class ExistingFileLock(FileLock):
    """A shared lock by ``flock`` on a file that exists, also on a read-only disk. A missing file is not created.

    It is shared, because two readers exclude no one, and NFS gives no other lock for a read-only descriptor.
    """

    _operation = fcntl.LOCK_SH

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


@frozen(kw_only=True)
class Holder:
    """The process that holds the lock, as it recorded itself. Only a rollback has a ``stage`` and a ``rollback_id``."""

    pid: int
    host: str
    command: str
    since: str
    stage: str | None = None
    rollback_id: str | None = None

    def __str__(self) -> str:
        return f"{self.command!r} (pid {self.pid} on {self.host}, since {self.since})"


class RunLock:
    """The held lock of the pipeline folder ``root``: it writes the record of its holder, ``lock.json``."""

    def __init__(self, root: Path, command: str) -> None:
        self._file = root / "lock.json"
        self._holder = Holder(pid=os.getpid(), host=socket.gethostname(), command=command, since=timestamp())

    def record(self, *, stage: str | None = None, rollback_id: str | None = None) -> None:
        """Record the holder and the stage of its rollback. On a full disk the lock works without a record."""
        self._holder = evolve(self._holder, stage=stage, rollback_id=rollback_id)
        with contextlib.suppress(OSError):
            if stage is None:
                self._file.unlink(missing_ok=True)  # the record of a killed run
            write_atomic(self._file, pretty_bytes(encode(self._holder)), is_durable=False)
            return
        self.remove_record()  # no record is better than one with a former stage

    def remove_record(self) -> None:
        """Remove the record, if it exists and can be removed."""
        with contextlib.suppress(OSError):
            self._file.unlink()


@contextlib.contextmanager
def run_lock(root: Path, command: str, wait: float = 0.0, emit: Emit = ignore) -> Iterator[RunLock]:
    """Hold the lock of the pipeline folder ``root`` while the block runs; yields the lock.

    Waits up to ``wait`` seconds, and emits who holds the lock. Raises LockHeld, which names the holder, when the lock
    is still taken then.
    """
    lock = FileLock(root / "lock")
    # `current_holder` takes the lock for an instant, so wait at least a moment. A process that is taking or releasing
    # the lock has no holder file, so try once more when there is none.
    if not _wait_for(lock, root, wait, emit):
        holder = current_holder(root)
        if holder is not None or not lock.acquire(_GRACE):
            retry = "Try again when that run has finished (release.rollback can wait: --wait 10m)."
            raise LockHeld(f"{_locked_by(root, holder or current_holder(root))} {retry}")
    held = RunLock(root, Redactor.of_process().redact_text(command) if command else shown_arguments(sys.argv))
    try:
        keep_out_of_git(root)
        held.record()
        yield held
    finally:
        held.remove_record()
        lock.release()


def _wait_for(lock: FileLock, root: Path, wait: float, emit: Emit) -> bool:
    started, passed, pause = awake.now(), 0.0, _GRACE
    while not lock.acquire(max(min(pause, wait - passed), _GRACE)):
        passed = awake.now() - started
        if passed >= wait:
            return False
        remaining = show_duration(max(round(wait - passed), 1))
        emit(Noted(f"{_locked_by(root, current_holder(root))} Waiting for at most {remaining} more."))
        pause = _NEXT_NOTE
    return True


def _locked_by(root: Path, holder: Holder | None) -> str:
    return f"{root} is locked by {holder or 'another run'}."


def current_holder(root: Path) -> Holder | None:
    """Return the current holder of the lock of ``root``, or None when the lock is free or has no holder file.

    Changes nothing and needs only the right to read, so it works on a read-only disk.
    """
    try:
        descriptor = os.open(root / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # A shared lock: two readers do not take each other for a holder, and NFS gives it for a read-only descriptor.
        with with_path(root / "lock"):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _recorded_holder(root)
    finally:
        os.close(descriptor)


def _recorded_holder(root: Path) -> Holder | None:
    try:
        return decode(Holder, read_document(root / "lock.json"), "lock.json")
    except (FileNotFoundError, InvalidDocument, ValueError):
        return None
