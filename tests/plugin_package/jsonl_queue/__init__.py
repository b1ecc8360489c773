"""A queue in a file of JSON lines: one record a line, numbered from 1, with a lock file next to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["append", "lock_path", "locked", "problems"]


def lock_path(queue: Path) -> Path:
    """Return the lock file that every writer of ``queue`` locks."""
    return queue.with_name(queue.name + ".lock")


@contextmanager
def locked(queue: Path) -> Iterator[None]:
    """Hold the lock of ``queue`` while the block runs."""
    with lock_path(queue).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def append(queue: Path, number: int, text: str) -> None:
    """Append record ``number`` in two writes, so that a reader without the lock can find half of it."""
    line = json.dumps({"number": number, "text": text}).encode() + b"\n"
    with locked(queue), queue.open("ab", buffering=0) as file:
        file.write(line[:7])
        file.write(line[7:])
        os.fdatasync(file.fileno())


def problems(queue: Path) -> list[str]:
    """Return the first problem of the records; an empty list when all are complete and in order."""
    with queue.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)["number"]
            except (ValueError, KeyError, TypeError):
                return [f"line {number} is not a record"]
            if found != number:
                return [f"line {number} contains record {found}"]
            if not line.endswith(b"\n"):
                return [f"line {number} has no newline"]
    return []
