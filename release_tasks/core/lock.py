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
from typing import TYPE_CHECKING

from attrs import frozen

from release_tasks.core.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.core.clock import timestamp
from release_tasks.core.durable import make_private_directory, write_atomic
from release_tasks.core.errors import LockHeld, with_path

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Holder", "current_holder", "hold_name", "lock_name", "run_lock", "take_lock"]

_PATIENCE = 0.25  # seconds


@frozen(kw_only=True)
class Holder:
    """Who holds the lock, as they wrote it down themselves."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        return f"{self.command!r} (pid {self.pid} on {self.host}, since {self.since})"


def take_lock(path: Path, wait: float, poll_interval: float = 0.05) -> BaseFileLock | None:
    """Return the lock file ``path``, locked until its ``release()``, or None when it is taken for ``wait`` seconds.

    Its folder is made if need be. The kernel drops the lock with its holder's last file descriptor, so a killed
    process blocks nobody.
    """
    from filelock import FileLock, Timeout

    make_private_directory(path.parent)
    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=wait, poll_interval=poll_interval)
    except Timeout:
        return None
    return lock


@contextlib.contextmanager
def hold_name(path: Path, wait: float, poll_interval: float) -> Iterator[bool]:
    """Hold the lock of the file that has the name ``path`` while the block runs, which gets False when it stays taken.

    For a folder that its holder may exchange for another. ``wait`` and ``poll_interval`` are in seconds.
    """
    deadline = time.monotonic() + wait
    while (descriptor := lock_name(path)) is None:
        if time.monotonic() >= deadline:
            yield False
            return
        time.sleep(poll_interval)
    try:
        yield True
    finally:
        os.close(descriptor)


def lock_name(path: Path) -> int | None:
    """Return a descriptor that locks ``path`` until it is closed, or None when another process has the lock.

    None, too, when the name passed to another file just now: whoever locks that one would not see this lock. The file
    and its folder are made if need be. Raises OSError.
    """
    make_private_directory(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # the folder was exchanged for one that is not there
        return None
    is_locked = False
    try:
        with with_path(path), contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = os.path.samestat(os.fstat(descriptor), os.lstat(path))
    finally:
        if not is_locked:
            os.close(descriptor)
    return descriptor if is_locked else None


@contextlib.contextmanager
def run_lock(root: Path, command: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the pipeline folder ``root`` while the block runs.

    Waits up to ``wait`` seconds; raises LockHeld, naming the holder, when it is still taken then.
    """
    lock, holder = None, None
    # A `status` that looks who holds the lock takes it for an instant, so never give up at once. And who is just taking
    # the lock or letting go of it has no name written down, so then look again.
    for seconds in (max(wait, _PATIENCE), _PATIENCE):
        lock = take_lock(root / "lock", seconds)
        holder = current_holder(root) if lock is None else None
        if lock is not None or holder is not None:
            break
    if lock is None:
        by = f"by {holder}" if holder else "by another run"
        retry = "Try again when it is done (release.rollback can wait: --wait 10m)."
        raise LockHeld(f"{root} is locked {by}. {retry}")
    try:
        _write_down(root, command)
        yield
    finally:
        with contextlib.suppress(OSError):
            _holder_file(root).unlink()
        lock.release()


def current_holder(root: Path) -> Holder | None:
    """Return who holds the lock of ``root`` right now, or None when nobody does or nobody wrote it down."""
    if not (root / "lock").exists():
        return None
    probe = take_lock(root / "lock", 0)
    if probe is None:
        return _read_holder(root)
    probe.release()
    return None


def _read_holder(root: Path) -> Holder | None:
    try:
        document = read_document(_holder_file(root))
        return Holder(
            pid=int(document["pid"]),
            host=str(document["host"]),
            command=str(document["command"]),
            since=str(document["since"]),
        )
    except (FileNotFoundError, InvalidDocument, KeyError, ValueError):
        return None


def _write_down(root: Path, command: str) -> None:
    """Leave a note for others; on a full disk the lock alone has to do, without the name of a run that was killed."""
    with contextlib.suppress(OSError):
        _holder_file(root).unlink(missing_ok=True)
        write_atomic(_holder_file(root), pretty_bytes(_describe(command)), is_durable=False)


def _describe(command: str) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command or " ".join(sys.argv),
        "since": timestamp(),
    }


def _holder_file(root: Path) -> Path:
    return root / "lock.json"
