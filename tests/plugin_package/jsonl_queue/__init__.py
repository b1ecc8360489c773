"""A queue in a file of JSON lines: one record a line, numbered from 1, under a lock beside it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["append", "lock_path", "locked", "problems"]


def lock_path(queue: Path) -> Path:
    """Return the file whose lock every writer of ``queue`` holds."""
    return queue.with_name(queue.name + ".lock")


@contextmanager
def locked(queue: Path) -> Iterator[None]:
    """Hold the lock of ``queue`` while the block runs."""
    with lock_path(queue).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def append(queue: Path, number: int, text: str) -> None:
    """Add record ``number``. It reaches the file in two writes: who reads without the lock can find half of it."""
    line = json.dumps({"number": number, "text": text}).encode() + b"\n"
    with locked(queue), queue.open("ab", buffering=0) as file:
        file.write(line[:7])
        file.write(line[7:])
        os.fdatasync(file.fileno())


def problems(queue: Path) -> list[str]:
    """Return what is wrong with the records, the first of each kind; nothing when all are whole and in order."""
    with queue.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)["number"]
            except (ValueError, KeyError, TypeError):
                return [f"line {number} is no record"]
            if found != number:
                return [f"line {number} holds record {found}"]
            if not line.endswith(b"\n"):
                return [f"line {number} has no end"]
    return []
