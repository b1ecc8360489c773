"""Read and check databases that no other process uses.

A schema can need parts that only the service has: functions, collations, tokenizers, modules of virtual tables. What
SQLite cannot check without them is ``unchecked``, which is not damage. With a stand-in for such a part, SQLite can
report errors that do not exist, so an error counts only if no stand-in can be its cause.
"""

from __future__ import annotations

import re
from pathlib import Path

import apsw
from attrs import frozen

from release_tasks.assets.sqlite.connection import (
    DamagedDatabase,
    extended_code,
    immutable,
    is_damage,
    translated_errors,
    value,
)
from release_tasks.core.canonical import excerpt
from release_tasks.core.errors import StageFailed

__all__ = ["check_database", "count_rows", "read_schema"]

_MOST_FINDINGS = 5
_MANY_FINDINGS = 100  # the findings of a stand-in must not hide the findings that count
_CODE = re.compile(r"error code[= ]+(\d+)")  # "unable to get the page. error code=10"
_MISSING_FUNCTION = re.compile(r"(?:no such|unknown) function: (?P<name>.+?)(?:\(\))?$")
# The check of the pages writes one row with this start; every other row is about the content of a table.
_ABOUT_PAGES = "*** in database "
_ABOUT_ORDER = "row not in PRIMARY KEY order"  # depends on collations
# A virtual table whose module could not compare its content: "unable to validate the inverted index for FTS5 table".
_NOT_VALIDATED = "unable to validate "


def check_database(path: Path, thorough: bool = False, reported_as: Path | None = None) -> list[str]:
    """Run ``quick_check``, or with ``thorough`` ``integrity_check``; return what SQLite cannot check, as phrases.

    Raises DamagedDatabase. The message names ``reported_as`` (the original of the copy ``path``) or else ``path``.
    """
    # Without ``reported_as``, ``path`` is a stored copy: every read error counts as damage.
    error_class = DamagedDatabase if reported_as is None else StageFailed
    with translated_errors(reported_as or path, error_class):
        result = _checked(path, "integrity_check" if thorough else "quick_check")
    if result.findings:
        shown = "; ".join(result.findings[:_MOST_FINDINGS])
        raise DamagedDatabase(f"{reported_as or path} fails SQLite's integrity check: {shown}.")
    return result.unchecked


def count_rows(path: Path) -> dict[str, int | None]:
    """Return the row count of each table; None for a virtual table that only the service can read.

    Raises DamagedDatabase, StageFailed.
    """
    rows: dict[str, int | None] = {}
    with translated_errors(path), immutable(path) as database:
        database.collation_needed(_stand_in_collation)  # a count does not depend on the order
        for name, _ in _tables(database):
            if name.startswith("sqlite_"):
                continue
            rows[name] = None
            try:
                rows[name] = int(value(database, f"SELECT count(*) FROM {_quoted(name)}"))
            except apsw.SQLError as error:
                if is_damage(error):
                    raise
            except apsw.CorruptError as error:
                if extended_code(error) != apsw.SQLITE_CORRUPT_VTAB:
                    raise
    return rows


def read_schema(path: Path) -> dict[str, str]:
    """Return the SQL of each table, index, view and trigger by kind and name.

    Raises DamagedDatabase, StageFailed.
    """
    with translated_errors(path), immutable(path) as database:
        found = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {f"{kind} {name}": str(sql) for kind, name, sql in found}


@frozen
class _Result:
    findings: list[str]
    unchecked: list[str]


def _checked(path: Path, check: str) -> _Result:
    with immutable(path) as database:
        database.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)  # a trigger is no part of any check
        # A row that violates a CHECK is no damage: the service may have a function of the same name and another result.
        database.execute("PRAGMA ignore_check_constraints = 1")
        tables = _tables(database)
        unchecked = {name: reason for name, sql in tables if (reason := _missing(database, name, sql))}
        try:
            rows = _rows(database, f"{check}({_MOST_FINDINGS})")
            findings = [row for row in rows if not row.startswith(_NOT_VALIDATED)]
            return _Result(findings, _phrases(unchecked, [row for row in rows if row not in findings]))
        except apsw.SQLError as error:
            if is_damage(error):
                raise
            failure = str(error)
        findings = []
        for name, sql in tables:
            try:
                findings += _check_table(database, name, check)
            except apsw.SQLError as error:
                unchecked.setdefault(name, _reason(sql, error))
    findings = _check_with_stand_ins(path) + [row for row in findings if not row.startswith(_ABOUT_PAGES)]
    return _Result(findings, _phrases(unchecked, []) or [f"parts of the content ({excerpt(failure)})"])


def _check_table(database: apsw.Connection, table: str, check: str) -> list[str]:
    """Check one table; when its indices need a function of the service, without them. Raises SQLError."""
    try:
        return _rows(database, f"{check}({_quoted(table)})")
    except apsw.SQLError:
        return _rows(database, f"quick_check({_quoted(table)})")


def _check_with_stand_ins(path: Path) -> list[str]:
    """Check all pages, and return the findings that no stand-in can have caused."""
    with immutable(path) as database:
        database.drop_modules([])  # without its module, the tables of a virtual table are checked as plain tables
        database.collation_needed(_stand_in_collation)
        database.execute("PRAGMA ignore_check_constraints = 1")
        functions: set[str] = set()
        while True:
            try:
                rows = _rows(database, f"quick_check({_MANY_FINDINGS})")
                break
            except apsw.SQLError as error:
                missing = _MISSING_FUNCTION.search(str(error))
                if missing is None or missing["name"] in functions:
                    raise
                functions.add(missing["name"])
                database.create_scalar_function(missing["name"], lambda *_: 1, -1, deterministic=True)
    return [row for row in rows if row.startswith(_ABOUT_PAGES) or not (functions or row.startswith(_ABOUT_ORDER))]


def _rows(database: apsw.Connection, check: str) -> list[str]:
    """Return the findings of a check. Raises apsw.IOError for a finding about the disk or about memory."""
    found = [str(row[0]) for row in database.execute(f"PRAGMA {check}")]
    for code in (int(code) for finding in found for code in _CODE.findall(finding)):
        if code & 0xFF in (apsw.SQLITE_IOERR, apsw.SQLITE_NOMEM) and code != apsw.SQLITE_IOERR_SHORT_READ:
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


def _phrases(unchecked: dict[str, str], others: list[str]) -> list[str]:
    return [f"table {excerpt(name)} ({excerpt(reason)})" for name, reason in unchecked.items()] + others


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stand_in_collation(database: apsw.Connection, name: str) -> None:
    database.create_collation(name, lambda a, b: (a > b) - (a < b))
