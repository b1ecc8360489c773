"""Read and check the content of databases that no other process uses.

Only the process of ``child`` calls these functions: a service can write content that keeps SQLite busy for ever, takes
all memory, or crashes it. The errors are SQLite's own; ``reader`` passes them on.

A schema can need parts that only the service has: functions, collations, tokenizers, modules of virtual tables, names
of attached databases. What SQLite cannot check without them is ``unchecked``, which is not damage. With a stand-in for
such a part, also with SQLite's own part of the same name, SQLite can report errors that do not exist, so an error
counts only if no stand-in can be its cause.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import apsw

from release_tasks.assets.sqlite.image_file import ANY_NAME, content_file, sqlite_files
from release_tasks.assets.sqlite.results import extended_code, is_damage

__all__ = ["check", "columns", "count", "schema"]

_CACHE_KIB = 8192
_DELTA = b"RTD1"  # of ``delta``
_MOST_FINDINGS = 5
_MANY_FINDINGS = 100  # the findings of a stand-in must not hide the findings that count
_CODE = re.compile(r"error code[= ]+(\d+)")  # "unable to get the page. error code=10"
_MISSING_FUNCTION = re.compile(r"(?:no such|unknown) function: (?P<name>.+?)(?:\(\))?$")
# The check of the pages writes one row with this start; every other row is about the content of a table.
_ABOUT_PAGES = "*** in database "
_ABOUT_ORDER = "row not in PRIMARY KEY order"  # depends on collations
# A page that belongs to no table or index, in the check of the pages: "Page 3: never used", "Page 3 is never used".
_UNUSED = re.compile(r"Page \d+(?: is|:) never used")
# A full-text index that is not what SQLite's tokenizer makes of the content. The service may have another tokenizer of
# that name; with content=, the index may be older than the content.
_ABOUT_TOKENS = re.compile(
    r"(?:unable to validate the|malformed) inverted index for FTS\d table main\.(?P<name>.+?)(?:: .*)?$"
    r'|fts5: checksum mismatch for table "(?P<fts5_name>.+)"$'
)
# Why SQLite cannot parse the definition of an object that the service can: the service attaches the file under another
# name, or replaced a function of SQLite by one with other properties.
_OF_SERVICE = re.compile(
    r"cannot reference objects in database|wrong number of arguments to function"
    r"|misuse of (?:aggregate|window) function|non-deterministic|unsafe use of"
)


def count(path: str) -> dict[str, int | None]:
    """Return the row count of each table; None for a virtual table that only the service can read."""
    rows: dict[str, int | None] = {}
    with _opened(path) as database:
        database.collation_needed(_stand_in_collation)  # a count does not depend on the order
        for name, _ in _tables(database):
            if name.startswith("sqlite_"):
                continue
            rows[name] = None
            try:
                rows[name] = int(_value(database, f"SELECT count(*) FROM {_quoted(name)}"))
            except apsw.SQLError as error:
                if is_damage(error):
                    raise
            except apsw.CorruptError as error:
                if extended_code(error) != apsw.SQLITE_CORRUPT_VTAB:
                    raise
    return rows


def schema(path: str) -> dict[str, str]:
    """Return the SQL of each table, index, view and trigger by kind and name."""
    with _opened(path) as database:
        found = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {f"{kind} {name}": str(sql) for kind, name, sql in found}


def columns(path: str, table: str) -> list[str]:
    """Return the columns of a table; empty where SQLite needs something of the service to read them."""
    with _opened(path) as database, contextlib.suppress(apsw.Error):
        found = database.execute("SELECT name FROM pragma_table_xinfo(?)", (table,)).fetchall()
        return [str(row[0]) for row in found]
    return []


class Checked(NamedTuple):
    """The findings of a check, and the parts that SQLite cannot check: each with its name and the reason."""

    findings: list[str]
    unchecked: list[tuple[str, str]]


def check(path: str, thorough: bool) -> Checked:
    """Run ``quick_check``, or with ``thorough`` ``integrity_check``."""
    check = "integrity_check" if thorough else "quick_check"
    with _opened(path) as database:
        unparsed = _unparsed(database)
        with_pages = [name for name in unparsed if name.startswith(("table ", "index "))]
        tables = [(name, sql) for name, sql in _tables(database) if f"table {name}" not in unparsed]
        unchecked = {f"table {name}": reason for name, sql in tables if (reason := _missing(database, name, sql))}
        unchecked |= unparsed
        try:
            rows = _rows(database, f"{check}({_MOST_FINDINGS})")
            if not with_pages:
                return Checked(_without_tokens(rows, unchecked), list(unchecked.items()))
            failure = unparsed[with_pages[0]]
        except apsw.SQLError as error:
            if is_damage(error):
                raise
            failure = str(error)
        findings = []
        for name, sql in tables:
            try:
                findings += _without_tokens(_check_table(database, name, check), unchecked)
            except apsw.SQLError as error:
                unchecked.setdefault(f"table {name}", _reason(sql, error))
    pages = _check_with_stand_ins(path, has_unparsed=bool(with_pages))
    findings = pages + [row for row in findings if not row.startswith(_ABOUT_PAGES)]
    return Checked(findings, list(unchecked.items()) or [("parts of the content", failure)])


def _unparsed(database: apsw.Connection) -> dict[str, str]:
    """Return each object whose definition only the service can parse, with the reason.

    Raises CorruptError for any other definition that SQLite cannot parse.
    """
    database.execute("PRAGMA writable_schema = RESET")  # parses the schema again, and now reports errors
    try:
        _value(database, "SELECT count(*) FROM sqlite_schema")
        return {}
    except apsw.CorruptError as malformed:
        found: dict[str, str] = {}
        database.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        statement = (
            "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql LIKE 'cr%' AND name NOT GLOB 'sqlite_*'"
        )
        for name, sql in database.execute(statement).fetchall():
            try:
                # Compiled and not run: also a second statement in the text is not.
                database.execute(str(sql), explain=1)
            except apsw.SQLError as error:
                if _OF_SERVICE.search(str(error)):
                    found[str(name)] = str(error)
                elif "already exists" not in str(error):  # SQLite's answer for each object that was parsed
                    raise malformed from error
        if not found:
            raise
        return found


def _without_tokens(rows: list[str], unchecked: dict[str, str]) -> list[str]:
    """Return the findings without those that depend on a tokenizer; add their tables to ``unchecked``."""
    findings = []
    for row in rows:
        if match := _ABOUT_TOKENS.match(row):
            unchecked.setdefault(f"table {match['name'] or match['fts5_name']}", row)
        else:
            findings.append(row)
    return findings


def _check_table(database: apsw.Connection, table: str, check: str) -> list[str]:
    """Check one table; when its indices need a function of the service, without them. Raises SQLError."""
    try:
        return _rows(database, f"{check}({_quoted(table)})")
    except apsw.SQLError:
        return _rows(database, f"quick_check({_quoted(table)})")


def _check_with_stand_ins(path: str, *, has_unparsed: bool) -> list[str]:
    """Check all pages, and return the findings that no stand-in can have caused.

    With ``has_unparsed``, the pages of a table or an index that SQLite cannot parse seem to be unused.
    """
    check = f"quick_check({_MANY_FINDINGS})"
    with _opened(path) as database:
        database.drop_modules([])  # without its module, the tables of a virtual table are checked as plain tables
        database.collation_needed(_stand_in_collation)
        functions: set[str] = set()
        while True:
            try:
                database.execute(f"EXPLAIN PRAGMA {check}").fetchall()
                break
            except apsw.SQLError as error:
                missing = _MISSING_FUNCTION.search(str(error))
                if missing is None or missing["name"] in functions:
                    raise
                functions.add(missing["name"])
                database.create_scalar_function(
                    missing["name"], lambda *_: 1, -1, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
                )
        rows = _rows(database, check, is_partial=True)
    if has_unparsed:
        rows = [row for row in map(_without_unused, rows) if row]
    return [row for row in rows if row.startswith(_ABOUT_PAGES) or not (functions or row.startswith(_ABOUT_ORDER))]


def _without_unused(row: str) -> str:
    """Return a finding about pages without the pages that belong to nothing; empty when no other page is left."""
    if not row.startswith(_ABOUT_PAGES):
        return row
    first, *others = row.splitlines()
    others = [line for line in others if not _UNUSED.fullmatch(line)]
    return "\n".join([first, *others]) if others else ""


def _rows(database: apsw.Connection, check: str, *, is_partial: bool = False) -> list[str]:
    """Return the findings of a check. Raises IOError or NoMemError for a finding about the disk or about memory.

    With ``is_partial``, those before an error in an expression of the schema: the pages are checked before all tables.
    """
    found: list[str] = []
    with contextlib.suppress(*([apsw.SQLError] if is_partial else [])):
        found += (str(row[0]) for row in database.execute(f"PRAGMA {check}"))
    for code in (int(code) for finding in found for code in _CODE.findall(finding)):
        if code & 0xFF == apsw.SQLITE_NOMEM:
            raise apsw.NoMemError("; ".join(found))
        if code & 0xFF == apsw.SQLITE_IOERR and code != apsw.SQLITE_IOERR_SHORT_READ:
            raise apsw.IOError("; ".join(found))
    return [row for row in found if row != "ok"]


def _tables(database: apsw.Connection) -> list[tuple[str, str]]:
    """Return the name and the SQL of each table."""
    found = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    return [(str(name), str(sql)) for name, sql in found]


def _missing(database: apsw.Connection, table: str, sql: str) -> str:
    """Return what SQLite needs to check a table and does not have; an empty text when it has everything.

    To prepare an INSERT, SQLite looks up each function and collation of the table and of its indices.
    """
    try:
        found = database.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (table,)).fetchall()
        columns = [_quoted(str(row[0])) for row in found]
        if columns and not table.startswith("sqlite_"):
            nulls = ", ".join(["NULL"] * len(columns))
            database.execute(f"EXPLAIN INSERT INTO {_quoted(table)} ({', '.join(columns)}) VALUES ({nulls})").fetchall()
    except (apsw.SQLError, apsw.CorruptError) as error:
        return _reason(sql, error) if _is_missing(error) else ""
    return ""


def _is_missing(error: apsw.Error) -> bool:
    return extended_code(error) == apsw.SQLITE_ERROR_MISSING_COLLSEQ or any(
        words in str(error) for words in ("unknown function", "no such function", "no such module", "tokenizer")
    )


def _reason(sql: str, error: apsw.Error) -> str:
    module = re.match(r"\s*CREATE\s+VIRTUAL\s+TABLE\b.*?\bUSING\s+(\w+)", sql, re.IGNORECASE | re.DOTALL)
    return f"{module[1]}: {error}" if module else str(error)


def _value(database: apsw.Connection, statement: str) -> Any:
    row = database.execute(statement).fetchone()
    return row[0] if row else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stand_in_collation(database: apsw.Connection, name: str) -> None:
    database.create_collation(name, lambda a, b: (a > b) - (a < b))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[apsw.Connection]:
    """Open a copy, which may be a delta, without locks and side files, and trust nothing in it."""
    with contextlib.ExitStack() as opened:
        vfs = None
        if _is_delta(path):
            from release_tasks.assets.sqlite.image import opened_image  # slow to import, and seldom needed

            image = opened.enter_context(opened_image(Path(path)))
            path, vfs = ANY_NAME, opened.enter_context(sqlite_files(content_file(image)))
        uri = f"file://{quote(os.fsencode(path))}?immutable=1"
        database = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=vfs)
        opened.callback(database.close, True)
        # Skip a view or an index that only the service can parse; ``check`` decides whether it is damaged.
        database.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        database.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        database.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        database.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        database.limit(apsw.SQLITE_LIMIT_WORKER_THREADS, 0)
        # A row that violates a CHECK is no damage: the service may have a function of the same name and another result.
        database.execute("PRAGMA ignore_check_constraints = 1")
        database.execute("PRAGMA cell_size_check = 1")
        database.execute("PRAGMA temp_store = 2")  # in memory
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield database


def _is_delta(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_DELTA)) == _DELTA
