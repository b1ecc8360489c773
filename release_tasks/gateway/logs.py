"""The log: one printable line for each event, and a limit for what clients cause again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from attrs import define

from release_tasks.core.printable import one_line

__all__ = ["RateLimit", "begin_log"]

_MAX_KINDS = 256


def begin_log(*filters: logging.Filter) -> None:
    """Write the records of this process to stderr, those that pass all ``filters``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _LineFormatter(logging.Formatter):
    """Writes each record on one printable line, and a traceback on lines that are indented.

    A record quotes what clients send, so a line end in it would be a forged record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        lines = [one_line(self.formatMessage(record))]
        if record.exc_info:
            lines += (f"    {one_line(line)}" for line in self.formatException(record.exc_info).splitlines())
        return "\n".join(lines)


@define
class _Window:
    started: float
    seen: int = 0


class RateLimit(logging.Filter):
    """Passes at most ``burst`` records of one kind in ``seconds``. The log says that and how many were left out.

    Records of one kind have the same logger and the same message before its arguments are put in.
    """

    def __init__(self, burst: int = 10, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written; the text of the last one before a pause is extended."""
        kind = (record.name, str(record.msg).partition("\n")[0][:80])
        with self._lock:
            now = self._clock()
            window = self._windows.get(kind)
            if window is None or now - window.started >= self._seconds:
                left_out = 0 if window is None else max(window.seen - self._burst, 0)
                if len(self._windows) >= _MAX_KINDS:
                    self._windows.clear()
                window = self._windows[kind] = _Window(now)
            else:
                left_out = 0
            window.seen += 1
            if window.seen > self._burst:
                return False
            is_last = window.seen == self._burst
        if left_out:
            _extend(record, f"({left_out} records of this kind were left out before)")
        if is_last:
            _extend(record, f"(for up to {self._seconds:.0f} s, more records of this kind are left out)")
        return True


def _extend(record: logging.LogRecord, note: str) -> None:
    record.msg, record.args = f"{record.getMessage()} {note}", None
