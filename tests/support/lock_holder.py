"""Processes that hold the lock of a pipeline, or that are stopped while they hold it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["lock_holder", "stopped"]

_HOLDER = """
import resource, sys
from pathlib import Path
from release_tasks.core.lock import run_lock
if sys.argv[3] == "nameless":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with run_lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def lock_holder(root: Path, command: str = "release.prepare", *, is_nameless: bool = False) -> Iterator[int]:
    """Let another process hold the lock of the pipeline at ``root`` while the block runs; yields its process id.

    With ``is_nameless`` it cannot write who holds the lock, as on a full disk.
    """
    words = [str(root), command, "nameless" if is_nameless else "named"]
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.communicate(timeout=30)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process with SIGSTOP while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
