"""Let ``time.sleep`` work under libfaketime, whose clock_nanosleep moves absolute monotonic times too (EINVAL)."""

from __future__ import annotations

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


setattr(time, "sleep", _sleep)  # noqa: B010  # mypy refuses an assignment to a function of a module
