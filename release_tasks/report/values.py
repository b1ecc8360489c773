"""Readers for values of records and JSON documents, which may have any type."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from release_tasks.core.canonical import excerpt

__all__ = [
    "CLOCK_SKEW",
    "IN_THE_FUTURE",
    "actor_of",
    "checks_of",
    "list_of",
    "moment",
    "number",
    "seconds_between",
    "tail_of",
    "text",
    "texts",
]

CLOCK_SKEW = 5.0  # seconds that a time may be in the future: the clocks of two machines differ by less
IN_THE_FUTURE = "in the future (was the clock changed?)"


def text(value: Any, limit: int = 2000) -> str:
    """Return ``value`` as text of at most ``limit`` characters; empty for None."""
    return "" if value is None else excerpt(value if isinstance(value, str) else str(value)[: 4 * limit], limit)


def texts(value: Any, most: int, limit: int = 500) -> list[str]:
    """Return the first ``most`` entries of a list as texts; none for any other value."""
    return [text(item, limit) for item in value[:most]] if isinstance(value, list) else []


def number(value: Any) -> int | None:
    """Return a whole number, or None for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def actor_of(event: dict[str, Any]) -> str:
    """Return the user and the host that wrote an audit event."""
    return f"{text(event.get('actor'), 64)}@{text(event.get('host'), 64)}"


def list_of(document: Any, key: str) -> list[Any]:
    """Return the list under a key; empty for any other value and where ``document`` is not an object."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, list) else []


def checks_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of the gates from the document of a preflight or a release."""
    inner = document.get("preflight")
    checks = list_of(inner if isinstance(inner, Mapping) else document, "checks")
    return [check for check in checks if isinstance(check, Mapping)]


def tail_of(diagnostics: Any) -> list[str]:
    """Return the last lines of a gate's output, or of the HTTP response that it received."""
    return [str(line) for line in list_of(diagnostics, "outputTail") or list_of(diagnostics, "bodyTail")]


def moment(value: str | None) -> datetime | None:
    """Return an RFC 3339 time as a datetime in UTC, or None."""
    try:
        found = datetime.fromisoformat((value or "").replace("Z", "+00:00"))
        return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two times; None unless both are valid and in this order."""
    first, last = moment(start), moment(end)
    return (last - first).total_seconds() if first and last and last >= first else None
