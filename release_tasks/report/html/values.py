"""Reading what records hold: values of any type where text or a number is expected, and times that may be none."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from release_tasks.core.canonical import excerpt

__all__ = ["actor_of", "moment", "number", "seconds_between", "text", "texts"]


def text(value: Any, limit: int = 2000) -> str:
    """Return ``value`` as a text of at most ``limit`` characters; nothing for None."""
    return "" if value is None else excerpt(value if isinstance(value, str) else str(value)[: 4 * limit], limit)


def texts(value: Any, most: int, limit: int = 500) -> list[str]:
    """Return the first ``most`` entries of a list as texts; nothing for any other value."""
    return [text(item, limit) for item in value[:most]] if isinstance(value, list) else []


def number(value: Any) -> int | None:
    """Return a whole number, or None for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def actor_of(event: dict[str, Any]) -> str:
    """Return who wrote an event of the audit log, and where."""
    return f"{text(event.get('actor'), 64)}@{text(event.get('host'), 64)}"


def moment(value: str | None) -> datetime | None:
    """Return the moment that an RFC 3339 time names, or None."""
    try:
        found = datetime.fromisoformat((value or "").replace("Z", "+00:00"))
        return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two times; None unless both are known and in this order."""
    first, last = moment(start), moment(end)
    if first is None or last is None or last < first:
        return None
    return (last - first).total_seconds()
