"""A line in a log while a stage waits for something that emits no event, such as a gate or an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from release_tasks.core.events import Event, GateBegan, GateEnded, SampleTaken, StepBegan
from release_tasks.core.threads import start_if_possible
from release_tasks.report.progress import PlainLines

__all__ = ["Heartbeat"]

_QUIET = 10.0  # seconds without an event before a line, and between two lines
_TICK = 0.5


class Heartbeat:
    """Passes events to ``lines``, and says what the stage waits for after every ten seconds without an event.

    Between two samples of a watch nothing is said: the time to the next one is configured. ``clock`` is in seconds.
    """

    def __init__(self, lines: PlainLines, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._step: str | None = "the start"
        self._gates: dict[str, float] = {}  # by name: the start
        self._since = self._last = clock()

    def __enter__(self) -> Heartbeat:
        start_if_possible(self._thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        now = self._clock()
        self._last = now
        match event:
            case StepBegan():
                self._step, self._since = str(event), now
            case SampleTaken():
                self._step = None
            case GateBegan(gate):
                self._gates[gate] = now
            case GateEnded(check):
                self._gates.pop(check.id, None)
                self._since = now
        self._lines(event)

    def beat(self) -> None:
        """Write a line if there was no event for long enough."""
        now = self._clock()
        if now - self._last < _QUIET:
            return
        self._last = now
        running = dict(self._gates) or ({} if self._step is None else {self._step: self._since})
        prefix = "gate " if self._gates else ""
        if waits := [f"{prefix}{name}, {now - start:.0f} s" for name, start in running.items()]:
            self._lines.say(f"still running: {'; '.join(waits)}")

    def _run(self) -> None:
        while not self._ended.wait(_TICK):
            self.beat()
