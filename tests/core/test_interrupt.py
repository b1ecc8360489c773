"""Signals end a wait immediately, whichever thread the kernel delivers them to."""

from __future__ import annotations

import queue
import signal
import threading
import time

import pytest

from release_tasks.core.errors import ExitCode, Interrupted
from release_tasks.core.interrupt import LONGEST_WAIT, interruptible, next_item, wait_for


def test_signal_delivered_to_another_thread_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait in one system call would last its full time."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(other.ident or 0, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(Interrupted) as caught, interruptible():
            wait_for(threading.Event().wait, 30)
    finally:
        done.set()
    assert caught.value.exit_code is ExitCode.SIGINT
    assert time.monotonic() - start < 5
    for thread in (timer, other):
        thread.join()


def test_wait_returns_as_soon_as_the_item_exists() -> None:
    """It returns the item immediately."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    timer = threading.Timer(0.1, answers.put, ["done"])
    timer.start()
    assert next_item(answers, 30) == "done"
    assert next_item(answers, 0) is None
    assert next_item(answers, -1) is None
    answers.put("already queued")
    assert next_item(answers, 0) == "already queued"
    timer.join()


def test_wait_lasts_its_time_in_short_slices() -> None:
    """It ends neither early nor never; a clock that jumps forward ends it."""
    now, slices = [0.0], []

    def pause(seconds: float) -> None:
        slices.append(seconds)
        now[0] += seconds or 1

    wait_for(pause, 1.0, lambda: now[0])
    assert sum(slices) == pytest.approx(1.0) and max(slices) <= LONGEST_WAIT
    pauses: list[float] = []

    def sleep_on(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += 3600

    wait_for(sleep_on, 60.0, lambda: now[0])
    assert len(pauses) == 2 and pauses[-1] == 0
