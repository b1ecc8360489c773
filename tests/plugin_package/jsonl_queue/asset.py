"""The asset kind ``jsonl-queue``: a queue, captured between two records while its writers continue."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jsonl_queue import lock_path, problems
from release_tasks.plugins import AssetContext, PluginError

__all__ = ["capture", "check", "form"]

form: Final = "file"

_CHUNK = 1 << 20


def capture(source: Path, copy: Path, context: AssetContext) -> None:
    """Copy the queue while no writer is in the middle of a record."""
    with _writers_blocked(source, context), source.open("rb") as live, copy.open("xb") as stored:
        total = live.seek(0, 2)
        live.seek(0)
        while chunk := live.read(_CHUNK):
            if context.cancelled.is_set():
                raise PluginError("the capture was cancelled")
            stored.write(chunk)
            context.report(stored.tell(), total)


def check(copy: Path, context: AssetContext) -> Sequence[str]:
    """Check that every line is a complete record and that no record is missing."""
    return problems(copy)


@contextmanager
def _writers_blocked(queue: Path, context: AssetContext) -> Iterator[None]:
    wait = context.options.get("wait", 10)
    if not isinstance(wait, (int, float)):
        raise PluginError(f"with.wait: expected seconds, got {wait!r}")
    path = lock_path(queue)
    if not path.exists():  # no writer ever ran; and a capture may create nothing but the copy
        yield
        return
    deadline = time.monotonic() + wait
    with path.open() as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise PluginError(f"a writer held {path} for {wait} s. Find it with: fuser {path}") from None
            if context.cancelled.wait(0.02):
                raise PluginError("the capture was cancelled")
        yield
