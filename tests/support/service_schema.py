"""Databases whose schema needs parts that only the service has: functions, collations, tokenizers, modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import apsw.fts5

__all__ = ["SCHEMAS", "create", "open_as_service"]

# The schema of each case, and the tables that SQLite cannot check without the service.
SCHEMAS: dict[str, tuple[list[str], list[str]]] = {
    "FTS5 tokenizer": (
        ["CREATE VIRTUAL TABLE idx USING fts5(body, tokenize='words')", "INSERT INTO idx VALUES ('a b c')"],
        ["idx"],
    ),
    "FTS5 tokenizer in a quoted name": (
        ['CREATE VIRTUAL TABLE "ü ""x" USING fts5(body, tokenize=\'words\')', 'INSERT INTO "ü ""x" VALUES (\'a b\')'],
        ['ü "x'],
    ),
    "FTS4 tokenizer": (
        [
            "CREATE VIRTUAL TABLE old_idx USING fts4(body, tokenize=simple)",
            "INSERT INTO old_idx VALUES ('a b c')",
            # Only C code can register a tokenizer of FTS4.
            "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'simple', 'theirs')"
            " WHERE name = 'old_idx'; PRAGMA writable_schema = 0",
        ],
        ["old_idx"],
    ),
    "module": (["CREATE VIRTUAL TABLE v USING theirs(1)"], ["v"]),
    "function in a CHECK": (["CREATE TABLE c(x CHECK(size(x) > 2))", "INSERT INTO c VALUES ('abc')"], []),
    "stored generated column": (
        ["CREATE TABLE g(x, y AS (size(x)) STORED NOT NULL CHECK (y > 2))", "INSERT INTO g(x) VALUES ('abc')"],
        ["g"],
    ),
    "virtual generated column": (
        ["CREATE TABLE g(x, y AS (size(x)) NOT NULL)", "INSERT INTO g(x) VALUES ('abc')"],
        ["g"],
    ),
    "generated column of a STRICT table": (
        ["CREATE TABLE g(x TEXT, y INT AS (size(x))) STRICT", "INSERT INTO g(x) VALUES ('abc')"],
        ["g"],
    ),
    "index of an expression": (
        ["CREATE TABLE e(x)", "CREATE UNIQUE INDEX ei ON e(size(x))", "INSERT INTO e VALUES ('a'), ('abc')"],
        ["e"],
    ),
    "partial index": (
        ["CREATE TABLE e(x)", "CREATE INDEX ei ON e(x) WHERE size(x) > 1", "INSERT INTO e VALUES ('a'), ('abc')"],
        ["e"],
    ),
    "collation of an index": (
        ["CREATE TABLE e(x)", "CREATE INDEX ei ON e(x COLLATE backwards)", "INSERT INTO e VALUES ('ab'), ('ba')"],
        ["e"],
    ),
    "collation of a UNIQUE column, in a quoted name": (
        ['CREATE TABLE "t ö"(x COLLATE "Rück wärts" UNIQUE)', "INSERT INTO \"t ö\" VALUES ('az'), ('ba')"],
        ["t ö"],
    ),
    "collation of a key without rowid": (
        [
            "CREATE TABLE e(x COLLATE backwards PRIMARY KEY) WITHOUT ROWID",
            "INSERT INTO e VALUES ('az'), ('ba'), ('cc')",
        ],
        ["e"],
    ),
    "function with the name of an aggregate of SQLite": (
        ["CREATE TABLE e(x)", "CREATE INDEX ei ON e(median(x))", "INSERT INTO e VALUES ('a'), ('abc')"],
        ["index ei"],
    ),
    "function of SQLite with another number of arguments": (
        ["CREATE TABLE e(x)", "CREATE INDEX ei ON e(lower(x, 'tr'))", "INSERT INTO e VALUES ('a'), ('abc')"],
        ["index ei"],
    ),
    "generated column with an error": (
        [
            "CREATE TABLE e(x)",
            "INSERT INTO e VALUES ('{}'), ('no JSON')",
            "ALTER TABLE e ADD COLUMN y TEXT AS (json_extract(x, '$.y'))",
        ],
        ["e"],
    ),
    "FTS5 tokenizer with the name of another": (
        ["CREATE VIRTUAL TABLE idx USING fts5(body, tokenize='porter')", "INSERT INTO idx VALUES ('running a b')"],
        ["idx"],
    ),
    "function in a trigger": (
        ["CREATE TABLE e(x)", "CREATE TRIGGER t AFTER INSERT ON e BEGIN SELECT size(new.x); END"],
        [],
    ),
    "function in a view": (["CREATE TABLE e(x)", "CREATE VIEW vw AS SELECT size(x) FROM e"], []),
    "several": (
        [
            "CREATE VIRTUAL TABLE idx USING fts5(body, tokenize='words')",
            "INSERT INTO idx VALUES ('a b c')",
            "CREATE VIRTUAL TABLE plain_idx USING fts5(body)",
            "INSERT INTO plain_idx VALUES ('a b c')",
            "CREATE VIRTUAL TABLE v USING theirs(1)",
            "CREATE TABLE e(x COLLATE backwards PRIMARY KEY, y AS (size(x)) NOT NULL) WITHOUT ROWID",
            "INSERT INTO e(x) VALUES ('az'), ('ba')",
            "CREATE INDEX ei ON e(size(x))",
        ],
        ["idx", "v", "e"],
    ),
}


class _Module:
    """A virtual table of three rows."""

    def Create(self, *_: Any) -> tuple[str, _Module]:  # noqa: N802
        return "CREATE TABLE x(a, b)", self

    Connect = Create

    def BestIndex(self, *_: Any) -> None:  # noqa: N802
        return None

    def Disconnect(self) -> None:  # noqa: N802
        return None

    Destroy = Disconnect


def open_as_service(path: Path) -> apsw.Connection:
    """Open a database as its service does, with all that its schema needs."""
    database = apsw.Connection(str(path))
    database.create_scalar_function("size", _size, 1, deterministic=True)
    database.create_scalar_function("median", _size, 1, deterministic=True)
    database.create_scalar_function("lower", _size, 2, deterministic=True)
    for name in ("backwards", "Rück wärts"):
        database.create_collation(name, lambda a, b: (a[::-1] > b[::-1]) - (a[::-1] < b[::-1]))
    for name in ("words", "porter"):
        database.register_fts5_tokenizer(name, _words)  # type: ignore[arg-type]
    database.create_module("theirs", _Module())  # type: ignore[arg-type]
    database.execute("PRAGMA synchronous = OFF")
    return database


def _size(*values: Any) -> int:
    return len(str(values[0]))


@apsw.fts5.StringTokenizer
def _words(database: apsw.Connection, arguments: list[str]) -> Any:
    def tokenize(text: str, flags: int, locale: str | None) -> Iterator[tuple[int, int, str]]:
        for match in re.finditer(r"\w+", text):
            yield match.start(), match.end(), match.group()

    return tokenize


def create(path: Path, case: str) -> None:
    """Add the schema of a case to a database."""
    database = open_as_service(path)
    for statement in SCHEMAS[case][0]:
        database.execute(statement)
    database.close()
