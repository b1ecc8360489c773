"""The clocks of a machine, set by a test."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from release_tasks.pairing.codes import ClockReading

__all__ = ["Clocks"]


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
