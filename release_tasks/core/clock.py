"""The clocks: wall time for records, awake time for time limits, and the id of the current boot.

The wall clock only labels records: it can be set back or ahead at any moment, so it decides nothing.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

__all__ = [
    "LONGEST_GAP",
    "AwakeClock",
    "awake",
    "boot_id",
    "compact",
    "milliseconds_since",
    "now",
    "seconds_since",
    "timestamp",
    "uptime",
]

LONGEST_GAP = 1.0  # seconds
# A clock that includes the time asleep: CLOCK_BOOTTIME on Linux; on macOS, CLOCK_MONOTONIC includes that time.
_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Return monotonic seconds since a fixed point in time, including the time in which the machine sleeps."""
    return time.clock_gettime(_UPTIME)


class AwakeClock:
    """A monotonic clock that stands still while this process is suspended; for every time limit of a wait.

    Between two readings, at most ``longest_gap`` seconds pass on it: a longer gap is a suspended process (SIGSTOP, a
    debugger), a machine that sleeps or a paused virtual machine. The process did not look in that time, so the time
    says nothing about the service it waits for. A wait therefore reads the clock at least that often. All
    threads share one clock, because they are suspended together. ``longest_gap`` is for a wait that cannot read so
    often, on a clock of its own.
    """

    def __init__(self, clock: Callable[[], float] = uptime, *, longest_gap: float = LONGEST_GAP) -> None:
        self._clock = clock
        self._longest_gap = longest_gap
        self._lock = threading.RLock()  # a signal handler may interrupt a reading, and read too
        self._last = clock()
        self._skipped = 0.0

    def now(self) -> float:
        """Return the seconds that this process was awake, since a fixed point in time."""
        return self._read()[0]

    def skipped(self) -> float:
        """Return the total of the seconds in gaps. A larger total than before means: suspended in between."""
        return self._read()[1]

    def _read(self) -> tuple[float, float]:
        with self._lock:
            last, self._last = self._last, self._clock()
            self._skipped += max(self._last - last - self._longest_gap, 0.0)
            return self._last - self._skipped, self._skipped


awake = AwakeClock()


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


def milliseconds_since(start: float) -> int:
    """Return the milliseconds since ``start``, a reading of ``awake``, as records have them."""
    return round((awake.now() - start) * 1000)


def seconds_since(text: str) -> float | None:
    """Return the seconds from an RFC 3339 time in UTC until now, or None when ``text`` is not such a time.

    Negative when the clock was set back since then.
    """
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
