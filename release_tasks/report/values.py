"""Reading what records and JSON documents hold: values of any type where text, a number or a list is expected."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from release_tasks.core.canonical import excerpt

__all__ = ["actor_of", "checks_of", "list_of", "moment", "number", "seconds_between", "tail_of", "text", "texts"]


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


def list_of(document: Any, key: str) -> list[Any]:
    """Return the list under a key; an empty one for every other value, and where ``document`` is no object."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, list) else []


def checks_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of the gates, of a preflight or of the preflight of a release."""
    inner = document.get("preflight")
    checks = list_of(inner if isinstance(inner, Mapping) else document, "checks")
    return [check for check in checks if isinstance(check, Mapping)]


def tail_of(diagnostics: Any) -> list[str]:
    """Return the last lines that a gate printed, or was answered."""
    return [str(line) for line in list_of(diagnostics, "outputTail") or list_of(diagnostics, "bodyTail")]


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
    return (last - first).total_seconds() if first and last and last >= first else None
