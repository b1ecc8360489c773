"""Check a database that no other process uses, count its rows and read its schema, through ``reader``."""

from __future__ import annotations

from pathlib import Path

from release_tasks.assets.sqlite.connection import DamagedDatabase
from release_tasks.assets.sqlite.reader import ContentReader, ContentUnread
from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed

__all__ = ["check_database", "count_rows", "describe_unchecked", "is_whole", "read_schema", "unread_phrase"]

_MOST_FINDINGS = 5
_MOST_UNCHECKED = 50  # the phrases are in the metadata of a snapshot, which has a limit
_CONTENT = "the content"


def check_database(path: Path, thorough: bool = False, reported_as: Path | None = None) -> list[str]:
    """Run ``quick_check``, or with ``thorough`` ``integrity_check``; return what was not checked, as phrases.

    Raises DamagedDatabase. The message names ``reported_as`` (the original of the copy ``path``) or else ``path``.
    """
    # Without ``reported_as``, ``path`` is a stored copy: every read error counts as damage.
    error_class = DamagedDatabase if reported_as is None else StageFailed
    try:
        with ContentReader() as reader:
            findings, unchecked = reader.ask(
                "check", path, reported_as=reported_as, error_class=error_class, thorough=thorough
            )
    except ContentUnread as error:
        return [unread_phrase(error)]
    if findings:
        shown = "; ".join(findings[:_MOST_FINDINGS])
        raise DamagedDatabase(f"{reported_as or path} fails SQLite's integrity check: {shown}.")
    phrases = [f"{excerpt_line(name)} ({excerpt_line(reason)})" for name, reason in unchecked[:_MOST_UNCHECKED]]
    more = len(unchecked) - len(phrases)
    return [*phrases, f"{more} more"] if more else phrases


def unread_phrase(error: ContentUnread) -> str:
    """Return the phrase for a database whose whole content is unchecked."""
    return f"{_CONTENT} (the check {error.reason})"


def is_whole(phrase: str) -> bool:
    """Return whether a phrase of ``check_database`` is about the whole content."""
    return phrase.startswith(f"{_CONTENT} (")


def describe_unchecked(key: str, unchecked: list[str]) -> list[str]:
    """Return sentences for the operator about the phrases of ``check_database``."""
    whole = [phrase for phrase in unchecked if is_whole(phrase)]
    parts = [phrase for phrase in unchecked if phrase not in whole]
    notes = [
        f"{key}: {phrase} is unchecked. It is captured and restored with all else. If that is unexpected, look for "
        "what the service wrote into the database: a check of a sound one ends."
        for phrase in whole
    ]
    if parts:
        notes.append(
            f"{key}: SQLite cannot check {', '.join(parts)}: only the service has the functions, collations, modules "
            "or database names that these need. They are captured and restored with all else."
        )
    return notes


def count_rows(path: Path) -> dict[str, int | None]:
    """Return the row count of each table; None for a virtual table that only the service can read.

    Raises DamagedDatabase, ContentUnread, StageFailed.
    """
    with ContentReader() as reader:
        counts: dict[str, int | None] = reader.ask("count", path)
    return counts


def read_schema(path: Path) -> dict[str, str]:
    """Return the SQL of each table, index, view and trigger by kind and name.

    Raises DamagedDatabase, ContentUnread, StageFailed.
    """
    with ContentReader() as reader:
        found: dict[str, str] = reader.ask("schema", path)
    return found
