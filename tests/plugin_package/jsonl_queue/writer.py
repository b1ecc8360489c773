"""A service of a kind: appends to a queue until it is ended. ``python -m jsonl_queue.writer QUEUE``."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from jsonl_queue import append

__all__ = ["main"]


def main(queue: Path) -> None:
    """Go on from the last record that is there; say ``writing`` once the first new one is in."""
    number = queue.read_bytes().count(b"\n") if queue.exists() else 0
    is_ended = False

    def end(*_: object) -> None:
        nonlocal is_ended
        is_ended = True

    signal.signal(signal.SIGTERM, end)
    is_new = True
    while not is_ended:
        number += 1
        append(queue, number, "x" * (number % 97))
        if is_new:
            print("writing", flush=True)
            is_new = False
        time.sleep(0.001)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
