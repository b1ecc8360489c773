"""What a log shows of a stage: a line for each thing that happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from release_tasks.core.events import (
    BytesMoved,
    Event,
    GateBegan,
    GateEnded,
    HealthAnswered,
    LookTaken,
    Noted,
    StepBegan,
)
from release_tasks.report.live import health_line, look_cells
from release_tasks.report.terminal import Screen
from release_tasks.report.transfers import Transfers

__all__ = ["PlainLines"]

_QUIET = 10.0  # seconds between two lines of something that goes on and on


class PlainLines:
    """A line for each thing that begins or ends, and every ten seconds one for what takes long."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._lock = threading.Lock()
        self._transfers = Transfers()
        self._last = clock()

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Write the line of one event, if it has one."""
        with self._lock:
            match event:
                case StepBegan():
                    self._transfers, self._last = Transfers(), self._clock()
                    self._screen.step(str(event))
                case Noted():
                    self._screen.step(str(event))
                case GateBegan(gate):
                    self._screen.step(f"gate {gate}")
                case GateEnded(check):
                    self._screen.step(f"gate {check.id}: {check.status}")
                case LookTaken():
                    self._screen.step("  ".join(cell for cell in (event.time, *look_cells(event)) if cell))
                case BytesMoved():
                    self._transfers.take(event, self._clock())
                    self._now_and_then(lambda: self._transfer_line(event.action))
                case HealthAnswered():
                    self._now_and_then(lambda: f"{event.gate or 'health'}: {health_line(event)}")

    def _now_and_then(self, line: Callable[[], str]) -> None:
        now = self._clock()
        if now - self._last >= _QUIET:
            self._last = now
            self._screen.step(line())

    def _transfer_line(self, action: str) -> str:
        standings = self._transfers.standings(self._clock())
        return f"{action}: {next(standing for standing in standings if standing.action == action).numbers()}"
