"""Compare two copies of a database: the schema, the numbers in the header, and the rows of each table.

No other process may use the copies.
"""

from __future__ import annotations

import re
from pathlib import Path

from release_tasks.assets.findings import Drift, RowCounts
from release_tasks.assets.sqlite.image import opened_image
from release_tasks.assets.sqlite.reader import ContentReader, ContentUnread
from release_tasks.core.canonical import excerpt_line

__all__ = ["compare_databases", "normalised_sql"]

_MAX_SHOWN = 5
# Numbers that only a program sets, with their offsets in the header (https://sqlite.org/fileformat.html). The page size
# and auto_vacuum are not among them: they say how rows are stored, and VACUUM may change them.
_HEADER_NUMBERS = {"user_version": 60, "application_id": 68, "encoding": 56}
_ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}
# SQLite stores the text that a person typed, and rewrites parts of it in ALTER TABLE. Two texts are equal when their
# tokens are: without comments and white space, with names in one case and without quotes.
_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
      | (?P<word>[\w$]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def compare_databases(captured: Path, live: Path) -> Drift:
    """Compare a captured database with a copy of the live one. Raises DamagedDatabase, StageFailed.

    A copy that cannot be read within the limits of ``reader`` differs in its form.
    """
    try:
        with ContentReader() as reader:
            rows = _different_counts(reader.ask("count", captured), reader.ask("count", live))
            schema = _schema_differences(reader, captured, live)
    except ContentUnread as error:
        return Drift(form=[f"its content differs, and could not be compared: the check {error.reason}"])
    return Drift(schema=schema, rows=rows, has_other_data=not rows)


def normalised_sql(sql: str) -> list[str]:
    """Return the tokens of a statement of a schema; equal schemas have equal tokens."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(sql):
        text = match[0]
        if match.lastgroup == "space":
            continue
        # In DEFAULT "abc" the quotes make a text, although they should make a name.
        if match.lastgroup == "name" and not (tokens and tokens[-1] == "default"):
            text = text[1:-1].replace(text[-1] * 2, text[-1])
        tokens.append(text if match.lastgroup == "text" or text.startswith('"') else text.lower())
    return tokens


def _schema_differences(reader: ContentReader, captured: Path, live: Path) -> list[str]:
    """Describe every difference of the two schemas; the statistics and other tables of SQLite itself do not count."""
    before, now = (_schema(reader.ask("schema", path)) for path in (captured, live))
    differences = [f"{excerpt_line(name)} is missing" for name in sorted(before.keys() - now.keys())]
    differences += [f"{excerpt_line(name)} was added" for name in sorted(now.keys() - before.keys())]
    changed = [name for name in sorted(before.keys() & now.keys()) if before[name] != now[name]]
    changed = [name for name in changed if normalised_sql(before[name]) != normalised_sql(now[name])]
    more = max(len(differences) + len(changed) - _MAX_SHOWN, 0)
    differences = differences[:_MAX_SHOWN]
    differences += [_changed(reader, name, captured, live) for name in changed[: _MAX_SHOWN - len(differences)]]
    differences += [f"{more} more differences"] if more else []
    numbers = _header_numbers(captured), _header_numbers(live)
    for name, expected in numbers[0].items():
        if (found := numbers[1][name]) != expected:
            differences.append(f"{name} {found} instead of {expected}")
    return differences


def _schema(found: dict[str, str]) -> dict[str, str]:
    return {name: sql for name, sql in found.items() if not name.partition(" ")[2].startswith("sqlite_")}


def _changed(reader: ContentReader, name: str, captured: Path, live: Path) -> str:
    """Describe a changed object; for a table, name the columns that were added and removed."""
    kind, _, table = name.partition(" ")
    before, now = (_columns(reader, path, table) if kind == "table" else [] for path in (captured, live))
    parts = [f"column {column} is missing" for column in before if column not in now]
    parts += [f"column {column} was added" for column in now if column not in before]
    return f"{excerpt_line(name)}: {', '.join(parts[:_MAX_SHOWN])}" if parts else f"{excerpt_line(name)} was changed"


def _columns(reader: ContentReader, path: Path, table: str) -> list[str]:
    return [excerpt_line(name) for name in reader.ask("columns", path, table=table)]


def _header_numbers(path: Path) -> dict[str, str]:
    with opened_image(path) as image:
        header = image.read(0, 100).ljust(100, b"\0")
    numbers = {name: int.from_bytes(header[at : at + 4], "big", signed=True) for name, at in _HEADER_NUMBERS.items()}
    encoding = _ENCODINGS.get(numbers["encoding"], "UTF-8")  # 0 in a database without tables
    return {name: encoding if name == "encoding" else str(number) for name, number in numbers.items()}


def _different_counts(captured: dict[str, int | None], live: dict[str, int | None]) -> dict[str, RowCounts]:
    """Return the tables whose numbers of rows differ or are unknown; a table that does not exist has no rows."""
    counts = {name: RowCounts(captured.get(name, 0), live.get(name, 0)) for name in {**captured, **live}}
    return {name: each for name, each in counts.items() if each.captured != each.live or each.captured is None}
