"""Finding processes and waiting for conditions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

__all__ = ["await_file", "await_true", "is_running", "processes_with"]

T = TypeVar("T")


def await_true(condition: Callable[[], T | Literal[False] | None], seconds: float = 10.0) -> T:
    """Poll ``condition`` until its result is true, and return the result; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def await_file(path: Path) -> str:
    """Wait until ``path`` has a complete last line, and return its text."""
    return await_true(lambda: path.exists() and (text := path.read_text()).endswith("\n") and text, seconds=30.0)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return _state(pid) not in "ZX"
    except OSError:
        return False


def processes_with(word: str) -> list[int]:
    """Return the other processes that have ``word`` on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and word.encode() in Path("/proc", pid, "cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
