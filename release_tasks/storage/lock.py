"""One run at a time: a lock between processes that dies with its holder, and the name of who has it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from release_tasks.errors import LockHeld
from release_tasks.storage.canonical import InvalidDocument, pretty_bytes, read_document
from release_tasks.storage.clock import timestamp
from release_tasks.storage.durable import make_private_directory, remove_durably, write_atomic

__all__ = ["Holder", "current_holder", "run_lock"]


@frozen(kw_only=True)
class Holder:
    """Who holds the lock, as they wrote it down themselves."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        return f"{self.command!r} (pid {self.pid} on {self.host}, since {self.since})"


@contextlib.contextmanager
def run_lock(root: Path, command: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the pipeline folder ``root`` while the block runs.

    Waits up to ``wait`` seconds; raises LockHeld, naming the holder, when it is still taken then. The kernel
    drops the lock with its holder's last file descriptor, so a killed run blocks nobody.
    """
    from filelock import FileLock, Timeout

    make_private_directory(root)
    lock = FileLock(root / "lock", mode=0o600, thread_local=False)
    try:
        # A `status` that looks who holds the lock takes it for an instant, so never give up at once.
        lock.acquire(timeout=max(wait, 0.25), poll_interval=0.05)
    except Timeout:
        holder = current_holder(root)
        by = f"by {holder}" if holder else "by another run"
        retry = "Try again when it is done (release.rollback can wait: --wait 10m)."
        raise LockHeld(f"{root} is locked {by}. {retry}") from None
    try:
        with contextlib.suppress(OSError):  # a note for others; on a full disk the lock alone has to do
            write_atomic(_holder_file(root), pretty_bytes(_describe(command)))
        yield
    finally:
        with contextlib.suppress(OSError):
            remove_durably(_holder_file(root))
        lock.release()


def current_holder(root: Path) -> Holder | None:
    """Return who holds the lock of ``root`` right now, or None when nobody does or nobody wrote it down."""
    from filelock import FileLock, Timeout

    if not (root / "lock").exists():
        return None
    probe = FileLock(root / "lock", mode=0o600, thread_local=False)
    try:
        probe.acquire(timeout=0)
    except Timeout:
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


def _describe(command: str) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command or " ".join(sys.argv),
        "since": timestamp(),
    }


def _holder_file(root: Path) -> Path:
    return root / "lock.json"
