"""SIGINT and SIGTERM as one exception, and stretches of work that they must not cut in two."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

from release_tasks.core.errors import ExitCode, Interrupted

__all__ = ["LONGEST_WAIT", "interruptible", "next_item", "uninterrupted", "wait_for"]

T = TypeVar("T")

# The kernel may hand a signal to any thread, and Python acts on it when the main thread runs next. One that waits in a
# single system call would not notice it until that call ends, so every wait is made of slices of so many seconds.
LONGEST_WAIT = 0.05

_EXIT_CODES = {signal.SIGINT: ExitCode.SIGINT, signal.SIGTERM: ExitCode.SIGTERM}


def _raise_interrupted(number: int, _: FrameType | None) -> None:
    raise Interrupted(_EXIT_CODES[signal.Signals(number)])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted while the block runs; only the main thread can."""
    with _handled_by(_raise_interrupted):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is done, then let them act.

    By handlers, not by a signal mask: another thread of the program could still take what this one masks. Outside the
    main thread nothing is needed, because Python runs handlers in the main thread only.
    """
    arrived: list[int] = []
    try:
        with _handled_by(lambda got, _: arrived.append(got)):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, former in before.items():
            if former is not None:  # None: set by C code, which Python cannot put back
                signal.signal(number, former)


def wait_for(
    attempt: Callable[[float], T], seconds: float = float("inf"), now: Callable[[], float] = time.monotonic
) -> T:
    """Wait until ``attempt`` returns something true, and return that; after ``seconds`` what it returned last.

    ``attempt(slice)`` waits for at most ``slice`` seconds, such as ``Event.wait``; it is called once more when the time
    is over. ``now`` is the clock that ``seconds`` are measured with.
    """
    until = now() + seconds
    while True:
        left = max(until - now(), 0.0)
        result = attempt(min(left, LONGEST_WAIT))
        if result or left <= 0:
            return result


def next_item(items: queue.SimpleQueue[T], seconds: float) -> T | None:
    """Return the next item, or None when none comes within ``seconds``."""

    def attempt(seconds: float) -> T | None:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=seconds)
        return None

    return wait_for(attempt, seconds)
