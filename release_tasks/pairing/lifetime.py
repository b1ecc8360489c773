"""How long a request still lives, whatever is done to the wall clock meanwhile."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from attrs import frozen

from release_tasks.core.clock import now

__all__ = ["Clock", "Moment", "age", "current_moment", "time_left"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
    boot_id = _boot_id()
    uptime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 if boot_id else 0
    return Moment(wall=now(), boot_id=boot_id, uptime_ms=uptime_ms)


def age(begun: Moment, moment: Moment) -> float:
    """Return the seconds from ``begun`` to ``moment``; negative when a clock says that it has not begun yet."""
    if moment.shares_boot_with(begun):
        return (moment.uptime_ms - begun.uptime_ms) / 1000
    return (moment.wall - begun.wall).total_seconds()


def time_left(begun: Moment, life: float, moment: Moment) -> float:
    """Return how many of ``life`` seconds, counted from ``begun``, are left at ``moment``; 0 or less when none are.

    The clock that leaves less decides. What has not begun yet by its only clock is over: somebody set that clock
    back, and nobody can say how long ago it began.
    """
    passed = age(begun, moment)
    if passed < 0:
        return 0.0
    return life - max(passed, (moment.wall - begun.wall).total_seconds())


@functools.cache
def _boot_id() -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _BOOT_ID.read_text().strip()
    return ""
