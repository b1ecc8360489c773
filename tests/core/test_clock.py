"""A time limit counts only the time in which the process was awake."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from release_tasks.core.clock import LONGEST_GAP, AwakeClock
from release_tasks.core.interrupt import wait_for
from tests.support.lock_holder import stopped


class Uptime:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_time_between_two_readings_counts_up_to_the_longest_gap() -> None:
    """A gap counts as its first second: a machine that is always late still reaches its limits."""
    uptime = Uptime()
    clock = AwakeClock(uptime)
    started = clock.now()
    for seconds in (0.05, LONGEST_GAP, 3600.0, 0.5):
        uptime.seconds += seconds
        clock.now()
    assert clock.now() - started == pytest.approx(0.05 + LONGEST_GAP + LONGEST_GAP + 0.5)
    assert clock.skipped() == pytest.approx(3600.0 - LONGEST_GAP)


def test_gap_is_seen_by_the_thread_that_asks_for_it() -> None:
    """``skipped`` is a reading itself: a thread that was suspended in a request need not read the time first."""
    uptime = Uptime()
    clock = AwakeClock(uptime)
    before = clock.skipped()
    uptime.seconds += 30.0
    assert clock.skipped() - before == pytest.approx(30.0 - LONGEST_GAP)


def test_wait_goes_on_after_a_gap() -> None:
    """The wait has its whole time left after the machine slept for an hour."""
    uptime, slices = Uptime(), []
    clock = AwakeClock(uptime)

    def pause(seconds: float) -> None:
        slices.append(seconds)
        uptime.seconds += 3600.0 if len(slices) == 5 else seconds

    wait_for(pause, 10.0, clock.now)
    assert sum(slices) == pytest.approx(10.0 - LONGEST_GAP, abs=0.1)


_WAIT = """
import sys, time
from release_tasks.core.interrupt import wait_for
print("waiting", flush=True)
wait_for(time.sleep, 3.0)
print("over", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_suspended_process_continues_its_wait() -> None:
    """SIGSTOP for 3 s in a wait of 3 s: the wait ends about 2 s after SIGCONT and not at once."""
    with subprocess.Popen([sys.executable, "-c", _WAIT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        with stopped(process.pid):
            time.sleep(3.0)
        resumed = time.monotonic()
        assert process.stdout.readline() == "over\n"
        assert time.monotonic() - resumed > 1.5
    assert process.returncode == 0
