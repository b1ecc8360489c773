"""The clocks of a machine, set by a test."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from release_tasks.core import clock
from release_tasks.pairing.codes import ClockReading

__all__ = ["HOUR", "YEAR", "Clocks", "WallClock"]

HOUR, YEAR = 3600.0, 365 * 86400.0


class WallClock:
    """The wall clock of this process: right, plus the seconds that the test last set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        real = clock.now
        patch.setattr(clock, "now", lambda: real() + timedelta(seconds=self.seconds))

    def set(self, seconds: float) -> None:
        """Set the clock ahead of the right time by ``seconds``, or back when they are negative."""
        self.seconds = seconds


class Clocks:
    """The two clocks of a machine: time passes on both, and the test may set the wall clock."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
        self.uptime_ms = 5_000_000
        self.boot_id = "00000000-0000-4000-8000-000000000001"

    def __call__(self) -> ClockReading:
        return ClockReading(wall=self.wall, boot_id=self.boot_id, uptime_ms=self.uptime_ms)

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.uptime_ms += int(seconds * 1000)

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock ahead or back by ``seconds``, while no time passes."""
        self.wall += timedelta(seconds=seconds)

    def reboot(self) -> None:
        self.boot_id = self.boot_id[:-1] + str(int(self.boot_id[-1]) + 1)
        self.uptime_ms = 0
