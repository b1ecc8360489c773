"""What a service can write into its files to harm the programs that read them."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "CRASH",
    "ENDLESS",
    "crash_in_a_transaction",
    "make_endless",
    "make_sparse",
    "name_pages_in_header",
    "name_pages_in_journal",
    "name_pages_in_wal",
    "name_super_journal",
    "write_page_cycle",
]

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


def _heavy_generated_column(database: sqlite3.Connection) -> None:
    """Every row of a check computes a text of 200 MB, which fits into the memory of a check."""
    database.execute("CREATE TABLE hostile(n, x AS (length(replace(hex(zeroblob(n)), '0', 'ab'))) NOT NULL)")
    database.executemany("INSERT INTO hostile(n) VALUES (?)", [(0,)] * 2000)
    _rewrite(database, "hostile", "zeroblob(n)", "zeroblob(50000000 + n)")


def _heavy_expression_index(database: sqlite3.Connection) -> None:
    """The check of an index computes its expression for every row."""
    database.execute("CREATE TABLE hostile(n)")
    database.executemany("INSERT INTO hostile VALUES (?)", [(0,)] * 2000)
    database.execute("CREATE INDEX hostile_index ON hostile(length(hex(zeroblob(n))))")
    _rewrite(database, "hostile_index", "zeroblob(n)", "zeroblob(200000000 + n)")


def _check_constraint(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE hostile(n CHECK (length(hex(zeroblob(n))) >= 0))")
    database.executemany("INSERT INTO hostile VALUES (?)", [(0,)] * 2000)
    _rewrite(database, "hostile", "zeroblob(n)", "zeroblob(200000000 + n)")


def _endless_view_behind_an_index(database: sqlite3.Connection) -> None:
    """The rows of a full-text index are those of a view without an end."""
    database.execute(
        "CREATE VIEW numbers AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
        " SELECT x AS id, x AS body FROM n"
    )
    database.execute("CREATE VIRTUAL TABLE hostile USING fts5(body, content='numbers', content_rowid='id')")


def _many_views(database: sqlite3.Connection) -> None:
    """The time to parse a schema grows with the square of its length."""
    database.execute("PRAGMA writable_schema = 1")
    database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) INSERT INTO sqlite_schema"
        " SELECT 'view', 'v' || i, 'v' || i, 0, 'CREATE VIEW v' || i || ' AS SELECT 1' FROM n"
    )


def _many_constraints(database: sqlite3.Connection) -> None:
    """One statement without spaces: SQLite reacts to nothing while it parses it."""
    names = [f"c{number}" for number in range(400)]
    unique = ",".join(f"UNIQUE({a},{b})" for a in names for b in names if a != b)
    database.execute("PRAGMA writable_schema = 1")
    database.execute(
        "INSERT INTO sqlite_schema VALUES ('table', 'hostile', 'hostile', 2, ?)",
        (f"CREATE TABLE hostile({','.join(names)},{unique})",),
    )


def _rewrite(database: sqlite3.Connection, name: str, old: str, new: str) -> None:
    database.execute("PRAGMA writable_schema = 1")
    database.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", (old, new, name))
    database.execute("PRAGMA writable_schema = 0")


def write_page_cycle(path: Path) -> None:
    """Make every child of an interior page of a table the same page, at each of several levels."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("CREATE TABLE hostile(x)")
    database.executemany("INSERT INTO hostile VALUES (zeroblob(2000))", [()] * 4000)
    database.commit()
    root = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'hostile'").fetchone()[0]
    database.close()
    data = bytearray(path.read_bytes())
    pages = {
        number: memoryview(data)[(number - 1) * 4096 : number * 4096] for number in range(2, len(data) // 4096 + 1)
    }
    interior = [number for number, page in pages.items() if page[0] == 5]
    chain = [root, *[number for number in interior if number != root]]
    for here, below in zip(chain, [*chain[1:], chain[-1]], strict=True):
        page = pages[here]
        for index in range(int.from_bytes(page[3:5], "big")):
            cell = int.from_bytes(page[12 + 2 * index : 14 + 2 * index], "big")
            page[cell : cell + 4] = below.to_bytes(4, "big")
        page[8:12] = below.to_bytes(4, "big")
    del pages
    path.write_bytes(bytes(data))


# What a service can write into its database to keep a reader busy: the acts, by what they are.
ENDLESS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "generated column": _heavy_generated_column,
    "expression index": _heavy_expression_index,
    "view behind a full-text index": _endless_view_behind_an_index,
    "many views": _many_views,
    "many constraints": _many_constraints,
    "CHECK constraint": _check_constraint,
}


def make_endless(path: Path, name: str) -> None:
    """Let the service write a part of ``ENDLESS`` into its database."""
    database = sqlite3.connect(path)
    ENDLESS[name](database)
    database.commit()
    database.close()


def name_pages_in_wal(database: Path, pages: int) -> None:
    """Write a WAL with one valid commit of page 1, after which the database has ``pages`` pages."""
    page = bytearray(database.read_bytes()[:4096])
    page[18:20], page[28:32] = b"\2\2", pages.to_bytes(4, "big")
    header = struct.pack(">6I", 0x377F0682, 3007000, 4096, 0, 1, 2)
    sums = _wal_checksum(header, (0, 0))
    frame = struct.pack(">2I", 1, pages)
    of_frame = _wal_checksum(bytes(page), _wal_checksum(frame, sums))
    wal = header + struct.pack(">2I", *sums) + frame + struct.pack(">4I", 1, 2, *of_frame) + page
    Path(f"{database}-wal").write_bytes(wal)


def _wal_checksum(data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"<{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def name_pages_in_header(database: Path, pages: int) -> None:
    """Write another number of pages into the header of a database."""
    with database.open("r+b") as file:
        file.seek(28)
        file.write(pages.to_bytes(4, "big"))


def make_sparse(database: Path, pages: int) -> None:
    """Append a hole, which the header counts as pages."""
    os.truncate(database, pages * 4096)
    name_pages_in_header(database, pages)


def name_pages_in_journal(database: Path, pages: int) -> None:
    """Write a hot journal, after which the database has ``pages`` pages, with page 1 as it is."""
    name_pages_in_header(database, pages)
    page, nonce = database.read_bytes()[:4096], 7
    checksum = (nonce + sum(page[at] for at in range(4096 - 200, 0, -200))) & 0xFFFFFFFF
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", 1, nonce, pages, 512, 4096)
    record = struct.pack(">I", 1) + page + struct.pack(">I", checksum)
    Path(f"{database}-journal").write_bytes(header.ljust(512, b"\0") + record)
