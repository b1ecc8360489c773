"""Mask the secrets in a log that a service writes itself, so that it can outlive this process."""

from __future__ import annotations

import contextlib
from pathlib import Path

from release_tasks.core.clock import awake
from release_tasks.core.redact import Redactor, mask_file

__all__ = ["LogMask"]

# The masking of a log may take this many seconds, and this share of the time in which the log is observed.
_SECONDS = 3.0
_SHARE = 0.25


class LogMask:
    """The masking of one log.

    The service can write faster than this masks, cut the file, or make it larger than a disk: no result waits for that.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._masked = 0  # bytes
        self._seen = 0  # bytes of the log at that time
        self._began = awake.now()
        self._spent = 0.0  # seconds

    def observe(self) -> None:
        """Mask what was written since the last time, without an end that may be half a secret; call it often."""
        self._mask(is_complete=False)

    def finish(self) -> None:
        """Mask the end too: after the service has ended, or for the last time."""
        self._mask(is_complete=True)

    def _mask(self, *, is_complete: bool) -> None:
        with contextlib.suppress(OSError):
            size, now = self.log.stat().st_size, awake.now()
            seconds = _SECONDS + _SHARE * (now - self._began) - self._spent
            if seconds <= 0 or size == (self._masked if is_complete else self._seen):
                return
            try:
                start = self._masked if self._masked < size else 0
                self._masked = mask_file(self.log, Redactor.of_process(), start, seconds, is_complete=is_complete)
                self._seen = size if awake.now() - now < seconds else 0
            finally:
                self._spent += awake.now() - now
