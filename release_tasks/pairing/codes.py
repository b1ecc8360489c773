"""Pairing codes: random, compared in constant time, and valid for a limited time.

During one boot, a change of the wall clock cannot extend the lifetime of a request.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from datetime import datetime

from attrs import frozen

from release_tasks.core.clock import boot_id, now

__all__ = [
    "ALPHABET",
    "CODE_LENGTH",
    "Clock",
    "ClockReading",
    "age",
    "is_same_code",
    "new_code",
    "plain_code",
    "read_clocks",
    "time_left",
]

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without 0, 1, I and O, which people confuse
CODE_LENGTH = 8

_SEPARATORS = re.compile(r"[\s\u2010-\u2015-]")  # a phone turns a dash into one of the others


def new_code(taken: Collection[str]) -> str:
    """Return a random code that is not in ``taken``."""
    while True:
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        if code not in taken:
            return code


def plain_code(typed: str) -> str:
    """Return a code in the form for comparison: upper case, without spaces and dashes."""
    return _SEPARATORS.sub("", typed).upper()


def is_same_code(typed: str, code: str) -> bool:
    """Return whether both are the same code, ignoring case, spaces and dashes; compares in constant time."""
    # As bytes: compare_digest rejects non-ASCII text.
    first, second = (plain_code(text).encode("utf-8", "surrogatepass") for text in (typed, code))
    return hmac.compare_digest(first, second)


@frozen(kw_only=True)
class ClockReading:
    """A point in time on two clocks.

    The clock of ``wall`` can be set. ``uptime_ms`` is monotonic: milliseconds since the boot ``boot_id``, including
    sleep. ``boot_id`` is empty on a system without boot ids.
    """

    wall: datetime
    boot_id: str = ""
    uptime_ms: int = 0

    def is_same_boot_as(self, other: ClockReading) -> bool:
        """Return whether both readings are from the same boot, so that the uptimes can be compared."""
        return bool(self.boot_id) and self.boot_id == other.boot_id


Clock = Callable[[], ClockReading]


def read_clocks() -> ClockReading:
    """Read the clocks of this system."""
    uptime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 if boot_id() else 0
    return ClockReading(wall=now(), boot_id=boot_id(), uptime_ms=uptime_ms)


def age(created: ClockReading, at: ClockReading) -> float:
    """Return the seconds from ``created`` to ``at``; negative only across boots, when the wall clock was set back."""
    if at.is_same_boot_as(created):
        return (at.uptime_ms - created.uptime_ms) / 1000
    return (at.wall - created.wall).total_seconds()


def time_left(created: ClockReading, lifetime: float, at: ClockReading) -> float:
    """Return the remaining seconds of a ``lifetime`` that started at ``created``; 0 or less when it is over.

    The clock with the shorter remaining time decides. When the boots differ, only the wall clock can be compared. A
    creation in the future then counts as expired: the wall clock was set back, and the real age is unknown.
    """
    elapsed = age(created, at)
    if elapsed < 0:
        return 0.0
    return lifetime - max(elapsed, (at.wall - created.wall).total_seconds())
