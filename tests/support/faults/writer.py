"""A service that keeps a database open and moves money between its accounts; the sum never changes.

Started as a script. ``open PATH`` and ``close`` come on stdin, one a line, and are answered when they are done.
"""

from __future__ import annotations

import random
import select
import sqlite3
import sys

__all__: list[str] = []

_PAUSE_SECONDS = 0.004


def main() -> None:
    """Write until ``close``, then wait for the next ``open``; ends with stdin."""
    database: sqlite3.Connection | None = None
    chance = random.Random(5)
    while True:
        is_told, _, _ = select.select([sys.stdin], [], [], _PAUSE_SECONDS if database else None)
        if is_told:
            words = sys.stdin.readline().split(maxsplit=1)
            if database is not None:
                database.close()
                database = None
            if not words:
                return
            if words[0] == "open":
                database = sqlite3.connect(words[1].rstrip("\n"), timeout=60, isolation_level=None)
                database.execute("PRAGMA synchronous = NORMAL")
                _transfer(database, chance)
            print("done", flush=True)
        elif database is not None:
            _transfer(database, chance)


def _transfer(database: sqlite3.Connection, chance: random.Random) -> None:
    first, second = chance.sample(range(50), 2)
    amount = chance.randint(1, 5)
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, first))
    database.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, second))
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (?, ?, ?)", (first, second, amount))
    database.execute("COMMIT")


if __name__ == "__main__":
    main()
