"""A service that keeps a database open and moves money between its accounts; the sum never changes.

Run with ``python -m``. It reads ``open PATH`` and ``close`` from stdin, one a line, and answers ``done``.
"""

from __future__ import annotations

import random
import select
import sqlite3
import sys

from tests.support.writer import transfer

__all__: list[str] = []

_PAUSE_SECONDS = 0.004


def main() -> None:
    """Write until ``close``, then wait for the next ``open``; ends when stdin is closed."""
    database: sqlite3.Connection | None = None
    chooser = random.Random(5)
    while True:
        has_input, _, _ = select.select([sys.stdin], [], [], _PAUSE_SECONDS if database else None)
        if has_input:
            words = sys.stdin.readline().split(maxsplit=1)
            if database is not None:
                database.close()
                database = None
            if not words:
                return
            if words[0] == "open":
                database = sqlite3.connect(words[1].rstrip("\n"), timeout=60, isolation_level=None)
                database.execute("PRAGMA synchronous = NORMAL")
                transfer(database, chooser)
            print("done", flush=True)
        elif database is not None:
            transfer(database, chooser)


if __name__ == "__main__":
    main()
