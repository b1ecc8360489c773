"""A small service that appends to a queue until SIGTERM: ``python -m jsonl_queue.writer QUEUE``."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from jsonl_queue import append

__all__ = ["main"]


def main(queue: Path) -> None:
    """Continue after the last record; print ``writing`` after the first new record."""
    number = queue.read_bytes().count(b"\n") if queue.exists() else 0
    is_stopped = False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True

    signal.signal(signal.SIGTERM, stop)
    is_first = True
    while not is_stopped:
        number += 1
        append(queue, number, "x" * (number % 97))
        if is_first:
            print("writing", flush=True)
            is_first = False
        time.sleep(0.001)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
