"""A process that moves money between the accounts of a database; the sum of all balances never changes.

Run as a script: ``writer.py DATABASE [--journal-mode wal] [--pause 0.001 | --rate 200] [--accounts 50]``. It prints
``writing`` after the first commit, ends at SIGTERM, and prints the number of its commits.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

__all__ = ["StartWriter", "start_writer_process", "transfer"]


class StartWriter(Protocol):
    """The fixture ``start_writer``: start a writer process and return once its first transfer is committed."""

    def __call__(self, database: Path, journal_mode: str = "wal", pause: float = 0.001) -> subprocess.Popen[str]: ...


def start_writer_process(database: Path, *options: str) -> subprocess.Popen[str]:
    """Start the script with ``options`` and return once its first transfer is committed."""
    command = [sys.executable, "-B", str(Path(__file__).absolute()), str(database), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def transfer(database: sqlite3.Connection, chooser: random.Random, accounts: int = 50) -> None:
    """Move a random amount from one account to another in one transaction, and record it in the ledger."""
    first, second = chooser.sample(range(accounts), 2)
    amount = chooser.randint(1, 5)
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, first))
    database.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, second))
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (?, ?, ?)", (first, second, amount))
    database.execute("COMMIT")


def main() -> None:
    """Write until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("--journal-mode", default="wal")
    parser.add_argument("--pause", type=float, default=0.001, help="seconds between two transfers")
    parser.add_argument("--rate", type=float, default=0.0, help="transfers a second; replaces --pause")
    parser.add_argument("--accounts", type=int, default=50)
    options = parser.parse_args()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    database = sqlite3.connect(options.database, timeout=60, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {options.journal_mode}")
    chooser = random.Random()
    commits, due = 0, time.perf_counter()
    while not stop:
        transfer(database, chooser, options.accounts)
        commits += 1
        if commits == 1:
            print("writing", flush=True)
        if options.rate:
            due = max(due + 1 / options.rate, time.perf_counter() - 1)  # make up for at most one second
            time.sleep(max(0.0, due - time.perf_counter()))
        else:
            time.sleep(options.pause)
    print(commits, flush=True)
    database.close()


if __name__ == "__main__":
    main()
