"""The clock for timestamps in records, and the id of the current boot."""

from __future__ import annotations

import contextlib
import functools
from datetime import datetime, timezone
from pathlib import Path

__all__ = ["boot_id", "compact", "now", "seconds_since", "timestamp"]


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(timezone.utc)


def timestamp(moment: datetime | None = None) -> str:
    """Return ``moment`` (default: now) as RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T03:00:00.123Z."""
    moment = moment or now()
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def compact(moment: datetime | None = None) -> str:
    """Return ``moment`` (default: now) as 14 digits in UTC, e.g. 20260131030000, for use in ids."""
    return (moment or now()).strftime("%Y%m%d%H%M%S")


def seconds_since(text: str) -> float | None:
    """Return the seconds from an RFC 3339 time in UTC until now, or None when ``text`` is not such a time."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return None
    return (now() - moment.replace(tzinfo=timezone.utc)).total_seconds()


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of the current boot, or an empty text on a system without /proc."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
