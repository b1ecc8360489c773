"""Signals act at once while this process waits, whichever thread the kernel hands them to."""

from __future__ import annotations

import queue
import signal
import threading
import time

import pytest

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import LONGEST_WAIT, interruptible, next_item, wait_for


def test_a_signal_that_another_thread_gets_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait in one system call would last its full time."""
    is_over = threading.Event()
    other = threading.Thread(target=is_over.wait)
    other.start()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(other.ident or 0, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted) as caught, interruptible():
            wait_for(threading.Event().wait, 30)
    finally:
        is_over.set()
    assert caught.value.exit_code is ExitCode.SIGINT
    assert time.monotonic() - began < 5
    for thread in (timer, other):
        thread.join()


def test_a_wait_ends_with_what_it_waits_for() -> None:
    """At once, and with the value itself."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    timer = threading.Timer(0.1, answers.put, ["done"])
    timer.start()
    assert next_item(answers, 30) == "done"
    assert next_item(answers, 0) is None
    assert next_item(answers, -1) is None
    answers.put("there already")
    assert next_item(answers, 0) == "there already"
    timer.join()


def test_a_wait_lasts_its_time_by_its_clock_in_short_slices() -> None:
    """Neither less nor endless; a clock that jumps ends it."""
    time_is, slices = [0.0], []

    def pause(seconds: float) -> None:
        slices.append(seconds)
        time_is[0] += seconds or 1

    wait_for(pause, 1.0, lambda: time_is[0])
    assert sum(slices) == pytest.approx(1.0) and max(slices) <= LONGEST_WAIT
    jump: list[float] = []

    def sleep_on(seconds: float) -> None:
        jump.append(seconds)
        time_is[0] += 3600

    wait_for(sleep_on, 60.0, lambda: time_is[0])
    assert len(jump) == 2 and jump[-1] == 0
