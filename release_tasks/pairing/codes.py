"""Pairing codes: made from a cryptographic source, compared in constant time, and valid for a limited time.

How long a request still lives does not depend on what is done to the wall clock meanwhile.
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
    "Moment",
    "age",
    "current_moment",
    "is_same_code",
    "new_code",
    "plain_code",
    "time_left",
]

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without 0, 1, I and O, which people confuse
CODE_LENGTH = 8

_SEPARATORS = re.compile(r"[\s\u2010-\u2015-]")  # a phone turns a dash into one of the others


def new_code(taken: Collection[str]) -> str:
    """Return a code that is none of ``taken``."""
    while True:
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        if code not in taken:
            return code


def plain_code(typed: str) -> str:
    """Return a code as it is compared: upper case, without spaces and dashes."""
    return _SEPARATORS.sub("", typed).upper()


def is_same_code(typed: str, code: str) -> bool:
    """Say whether both are the same code however they are typed; the time it takes reveals nothing about ``code``."""
    # As bytes: compare_digest refuses text that is not ASCII.
    first, second = (plain_code(text).encode("utf-8", "surrogatepass") for text in (typed, code))
    return hmac.compare_digest(first, second)


@frozen(kw_only=True)
class Moment:
    """A point in time by two clocks.

    ``wall`` may be set by anybody. ``uptime_ms`` counts milliseconds since the boot that ``boot_id`` names, sleep
    included, and only forward; an empty ``boot_id`` says that this system does not name its boots.
    """

    wall: datetime
    boot_id: str = ""
    uptime_ms: int = 0

    def shares_boot_with(self, other: Moment) -> bool:
        """Say whether the two uptimes can be compared."""
        return bool(self.boot_id) and self.boot_id == other.boot_id


Clock = Callable[[], Moment]


def current_moment() -> Moment:
    """Return what the clocks of this system say."""
    uptime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 if boot_id() else 0
    return Moment(wall=now(), boot_id=boot_id(), uptime_ms=uptime_ms)


def age(begun: Moment, moment: Moment) -> float:
    """Return the seconds from ``begun`` to ``moment``; negative when a clock says that it has not begun yet."""
    if moment.shares_boot_with(begun):
        return (moment.uptime_ms - begun.uptime_ms) / 1000
    return (moment.wall - begun.wall).total_seconds()


def time_left(begun: Moment, life: float, moment: Moment) -> float:
    """Return how many of ``life`` seconds, counted from ``begun``, are left at ``moment``; 0 or less when none are.

    The clock that leaves less decides. What has not begun yet by its only clock is over: that clock was set
    back, and it is unknown how long ago the request began.
    """
    passed = age(begun, moment)
    if passed < 0:
        return 0.0
    return life - max(passed, (moment.wall - begun.wall).total_seconds())
